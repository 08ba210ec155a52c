"""Whole networks against OpenCV's own Darknet importer, on random weights that this package wrote.

OpenCV 4 behaves as if batch norm's eps were 1e-6 (Darknet's is 1e-5), so the comparison is made at 1e-6.
"""

import filecmp
from dataclasses import replace

import cv2
import pytest
import torch
from families import OPENCVS, family_text
from official import BUILT

from detect_prune.darknet import Darknet, parse_cfg, read_weights, write_weights
from detect_prune.darknet.plan import plan_network
from detect_prune.darknet.steps import max_stride
from detect_prune.detection import decode

pytestmark = [
    pytest.mark.skipif(
        not hasattr(cv2.dnn, "readNetFromDarknet"), reason="this OpenCV has no Darknet importer (5.0 dropped it)"
    ),
    pytest.mark.filterwarnings("ignore::detect_prune.darknet.CfgWarning"),
]

# OpenCV does not know [reorg3d]; test_reference.py has this network.
NOT_OPENCVS = "yolov4-sam-mish-csp-reorg-bfm.cfg"


def for_opencv(net: Darknet) -> str:
    """The cfg's text in a form that OpenCV reads: all anchors counted by num and separated by commas, no threshold."""
    layers = list(net.cfg.layers)
    for head in net.heads:
        section = layers[head.layer].with_option(
            "anchors", ",".join(f"{n:g}" for pair in head.all_anchors for n in pair)
        )
        layers[head.layer] = section.with_option("num", len(head.all_anchors)).with_option("thresh", "0.0000001")
    return replace(net.cfg, layers=tuple(layers)).text()


def opencv_heads(net: Darknet, folder, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What OpenCV makes of one picture: (raw tensor, decoded rows) of each head."""
    (folder / "opencv.cfg").write_text(for_opencv(net))
    theirs = cv2.dnn.readNetFromDarknet(str(folder / "opencv.cfg"), str(folder / "a.weights"))
    names = []
    for head in net.heads:
        # OpenCV names a convolution by its own index, and an activation by the next one.
        activation = net.cfg.layers[head.layer - 1].str("activation")
        names += [f"conv_{head.layer - 1}" if activation == "linear" else f"{activation}_{head.layer}"]
        names += [f"yolo_{head.layer}"]
    theirs.setInput(x.numpy())
    outputs = [torch.from_numpy(output) for output in theirs.forward(names)]
    return list(zip(outputs[::2], outputs[1::2]))


def check(net: Darknet, pictures, folder):
    """Raw heads and decoded boxes of a network with eps 1e-6; leaves its weights in folder / "a.weights"."""
    write_weights(net, folder / "a.weights")
    x = pictures(2, *net.input_size, seed=1)
    with torch.no_grad():
        raws, alone = net(x), net(x[1:])
    for raw, one, head, (theirs, rows) in zip(raws, alone, net.heads, opencv_heads(net, folder, x[:1]), strict=True):
        scale = raw.abs().mean()
        assert (raw[0] - raw[1]).abs().mean() > 0.02 * scale  # the head looks at the picture
        torch.testing.assert_close(raw[1:], one, rtol=1e-4, atol=1e-4)  # a batch equals its pictures one by one
        ours = raw[:1]
        assert (ours - theirs).abs().mean() < 3e-5 * scale
        assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
        # OpenCV goes from place to place and there from anchor to anchor; decode from anchor to anchor first.
        rows = rows.view(*ours.shape[2:], len(head.anchors), -1).permute(2, 0, 1, 3).flatten(0, 2)
        boxes, objectness, classes = (part[0] for part in decode(ours, head, net.input_size))
        corners = torch.cat([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
        size = torch.tensor(net.input_size * 2)
        # A corner is the centre less half the side: its error is measured against the side.
        slack = (1 + rows[:, 2:4].amax(1, keepdim=True)) * size.max()
        assert ((boxes - corners * size).abs() / slack).max() < 1e-4
        torch.testing.assert_close(objectness, rows[:, 4], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(objectness[:, None] * classes, rows[:, 5:], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in BUILT if name != NOT_OPENCVS])
def test_official_networks_are_opencvs_and_their_weights_survive_reading(
    name, official_cfg, unfilled, calibrate, pictures, scratch
):
    cfg = official_cfg(name)
    side = max_stride(plan_network(cfg))
    cfg = cfg.with_input_size(2 * side, side)
    check(calibrate(Darknet(cfg), eps=1e-6), pictures, scratch)
    again = Darknet(cfg)
    write_weights(again, scratch / "b.weights", read_weights(again, scratch / "a.weights"))
    assert filecmp.cmp(scratch / "a.weights", scratch / "b.weights", shallow=False)


@pytest.mark.parametrize("name", OPENCVS)
def test_other_families_are_opencvs(name, calibrate, pictures, scratch):
    check(calibrate(Darknet(parse_cfg(family_text(name))), eps=1e-6), pictures, scratch)
