"""Whole networks against the naive reference in numpy, on random weights that this package wrote.

In float64, where a wrong pixel or channel can't hide behind rounding. For what OpenCV's importer can't do.
"""

import pytest
import torch
from families import FAMILIES, family_text
from naive_darknet import run

from detect_prune.darknet import Darknet, parse_cfg, write_weights
from detect_prune.darknet.plan import plan_network
from detect_prune.darknet.steps import max_stride

pytestmark = pytest.mark.filterwarnings("ignore::detect_prune.darknet.CfgWarning")


def check(net, pictures, folder):
    write_weights(net, folder / "a.weights")
    x = pictures(2, *net.input_size, seed=1)
    with torch.no_grad():
        single = net(x[:1])
        raws = net.double()(x.double())
    theirs = run(net.cfg.text(), (folder / "a.weights").read_bytes(), x[0].double().numpy())
    for raw, rounded, other in zip(raws, single, theirs, strict=True):
        scale = raw.abs().mean()
        assert (raw[0] - raw[1]).abs().mean() > 0.02 * scale  # the head looks at the picture
        torch.testing.assert_close(raw[0], torch.from_numpy(other), rtol=1e-8, atol=1e-8)
        assert (rounded[0] - raw[0]).abs().max() < 1e-4 * raw.abs().max()


@pytest.mark.parametrize("width, height", [(96, 64), (32, 160)])
@pytest.mark.parametrize("name", FAMILIES)
def test_heads_of_other_families(name, width, height, calibrate, pictures, scratch):
    check(calibrate(Darknet(parse_cfg(family_text(name, width, height)))), pictures, scratch)


@pytest.mark.parametrize("name", ["yolov4-tiny.cfg", "yolov4-sam-mish-csp-reorg-bfm.cfg"])
def test_heads_of_official_networks(name, official_cfg, unfilled, calibrate, pictures, scratch):
    cfg = official_cfg(name)
    side = max_stride(plan_network(cfg))
    check(calibrate(Darknet(cfg.with_input_size(2 * side, side))), pictures, scratch)
