"""Whole networks against OpenCV's own Darknet importer, on random weights that this package wrote.

OpenCV 4 behaves as if batch norm's eps were 1e-6 (Darknet's is 1e-5), so the comparison is made at 1e-6.
"""

import cv2
import pytest
import torch

from detect_prune.darknet import Darknet, load_cfg, write_weights
from detect_prune.resources import packaged_folder

pytestmark = pytest.mark.skipif(
    not hasattr(cv2.dnn, "readNetFromDarknet"), reason="this OpenCV has no Darknet importer (5.0 dropped it)"
)


@pytest.mark.parametrize(
    "name, width, height",
    [
        ("yolov4-tiny", 160, 96),
        ("yolov3-tiny", 96, 160),
        ("yolov4-csp", 96, 64),
        ("yolov4", 96, 64),
    ],
)
def test_raw_heads_are_opencvs(name, width, height, calibrate, pictures, tmp_path):
    cfg = load_cfg(packaged_folder("cfg") / f"{name}.cfg").with_input_size(width, height)
    net = calibrate(Darknet(cfg), eps=1e-6)
    write_weights(net, tmp_path / "a.weights")
    (tmp_path / "a.cfg").write_text(cfg.text())
    theirs = cv2.dnn.readNetFromDarknet(str(tmp_path / "a.cfg"), str(tmp_path / "a.weights"))
    x = pictures(1, width, height, seed=1)
    theirs.setInput(x.numpy())
    with torch.no_grad():
        raws = net(x)
        net.double()
        exact, shaken = net(x.double()), net(x.double() * (1 + 1e-6))
    for raw, head, clean, moved in zip(raws, net.heads, exact, shaken):
        # OpenCV names a convolution by its own index, and an activation by the next one.
        activation = cfg.layers[head.layer - 1].str("activation")
        layer = f"conv_{head.layer - 1}" if activation == "linear" else f"{activation}_{head.layer}"
        other = torch.from_numpy(theirs.forward(layer))
        assert raw.std() > (0.1 if activation == "logistic" else 0.5)  # there is something to compare
        # A hundred random layers with batch norm blow up the last bits of float32. How much is measured, by
        # what a few last bits of the picture change in float64: 1e-5 of the outputs in tiny, 9e-4 in yolov4.
        noise = (clean - moved).abs().mean()
        assert noise < 2e-3 * clean.abs().mean()
        assert (raw - other).abs().mean() < 2 * noise
        assert (raw - other).abs().max() < 1e-3 * raw.abs().max()
