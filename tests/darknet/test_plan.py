"""What the sections mean together, and on which line a cfg that makes no sense is refused."""

from fractions import Fraction

import pytest

from detect_prune.darknet import CfgWarning, Darknet, load_cfg, network, parse_cfg
from detect_prune.darknet.plan import plan_network
from detect_prune.darknet.steps import PICTURE, max_stride, plan_sizes
from detect_prune.errors import DetectPruneError
from detect_prune.resources import packaged_folder

CONV = "[convolutional]\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"  # lines 5-9 of small_cfg's text


def test_references_sizes_and_strides(small_cfg):
    layers = CONV + "stride=2\n" + CONV + "[upsample]\nstride=2\n[route]\nlayers=-1\n" + CONV
    layers += "stride_x=4\nstride_y=2\n[shortcut]\nfrom=-1,4\n"
    steps = plan_network(small_cfg(layers, 32, 16))
    assert [step.sources for step in steps] == [(PICTURE,), (0,), (1,), (2,), (3,), (4, 4, 4), (5,), (6,)]
    assert plan_sizes(steps, (32, 16))[:5] == [(16, 8), (16, 8), (32, 16), (32, 16), (8, 8)]
    assert steps[2].scale == (Fraction(1), Fraction(1))
    assert steps[4].scale == (Fraction(4), Fraction(2))
    assert max_stride(steps) == 4
    assert steps[-1].scale == (4, 2)


def test_head_options_and_darknets_defaults(small_cfg):
    step = plan_network(small_cfg(CONV))[-1]
    spec = step.spec
    assert step.section.line == 16
    assert (spec.layer, spec.classes, spec.mask, spec.anchors) == (2, 1, (0,), ((10.0, 14.0),))
    assert (spec.iou_loss, spec.iou_normalizer, spec.scale_x_y, spec.nms_kind) == ("mse", 0.75, 1.0, "default")
    assert (spec.ignore_thresh, spec.truth_thresh, spec.iou_thresh, spec.max_delta) == (0.5, 1.0, 1.0, 0.0)
    heads = [s for s in plan_network(load_cfg(packaged_folder("cfg") / "yolov4.cfg")) if hasattr(s, "spec")]
    specs = [s.spec for s in heads]
    assert [s.scale for s in heads] == [(8, 8), (16, 16), (32, 32)]
    assert [s.scale_x_y for s in specs] == [1.2, 1.1, 1.05]
    assert specs[1].anchors == ((36.0, 75.0), (76.0, 55.0), (72.0, 146.0))
    assert len(specs[1].all_anchors) == 9
    assert (specs[2].iou_loss, specs[2].nms_kind, specs[2].max_delta) == ("ciou", "greedynms", 5.0)


def head(**changes):
    options = {"mask": "0", "anchors": "10,14, 23,27", "num": "2", "classes": "1"} | changes
    return "[yolo]\n" + "".join(f"{k}={v}\n" for k, v in options.items())


SIX = "[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"


@pytest.mark.parametrize(
    "layers, line, what",
    [
        ("[convolutional]\nsize=3\n", 5, "has no filters="),
        ("[convolutional]\nfilters=0\n", 6, "out of range"),
        ("[convolutional]\nfilters=-3\n", 6, "out of range"),
        ("[convolutional]\nfilters=1000000000\n", 6, "out of range"),
        ("[convolutional]\nfilters=4\nsize=100000\n", 7, "out of range"),
        ("[convolutional]\nfilters=4\nstride=0\n", 7, "out of range"),
        ("[convolutional]\nfilters=4\ngroups=2\n", 7, "does not divide"),
        ("[convolutional]\nfilters=4\nactivation=mush\n", 7, "expected one of"),
        ("[convolutional]\nfilters=4\nantialiasing=3\n", 7, "out of range"),
        ("[convolutional]\nfilters=4\nsize=15\n", 5, "nothing is left"),
        ("[convolutional]\nfilters=4\nxnor=1\n", 7, "not supported"),
        ("[convolutional]\nfilters=4\nshare_index=0\n", 7, "not supported"),
        ("[convolutional]\nfilters=4\nstretch_sway=1\n", 7, "not supported"),
        ("[convolutional]\nfilters=65536\nsize=255\n", 5, "weights; at most"),
        (CONV + "[maxpool]\nmaxpool_depth=1\nout_channels=5\n", 12, "out of range"),
        (CONV + "[route]\nlayers=-2\n", 11, "1 before the first layer"),
        (CONV + "[route]\nlayers=1\n", 11, "layer 1, but this is layer 1"),
        (CONV + "[route]\nlayers=99\n", 11, "layer 99"),
        (CONV + "[route]\ngroups=2\n", 10, "has no layers="),
        (CONV + "[route]\nlayers=0\ngroups=3\n", 12, "does not divide"),
        (CONV + "[route]\nlayers=0\ngroups=2\ngroup_id=2\n", 13, "out of range"),
        (CONV + CONV + "stride=2\n[route]\nlayers=0,1\n", 16, "12x8, 6x4"),
        (CONV + CONV + "stride=2\n[shortcut]\nfrom=-2\n", 16, "12x8"),
        (CONV + "[shortcut]\nfrom=-5\n", 11, "before the first"),
        (CONV + "[shortcut]\nfrom=-1\nweights_type=per_pixel\n", 12, "expected one of"),
        (CONV + "[upsample]\nstride=65\n", 11, "out of range"),
        (CONV + "[upsample]\nstride=64\n" * 2 + "[route]\nlayers=0\n", 12, "a map of 49152x32768"),
        (CONV + "[dropout]\nprobability=1.5\n", 11, "out of range"),
        (CONV + "[maxpool]\nsize=0\n", 11, "out of range"),
        (CONV + "[maxpool]\nsize=20\npadding=0\n", 10, "nothing is left"),
        (CONV + "[maxpool]\nsize=2\npadding=3\n", 12, "out of range"),
        (CONV + "[sam]\nfrom=-3\n", 11, "before the first"),
        (CONV + SIX + "[sam]\nfrom=0\n", 15, "6 channels; expected 4"),
        (CONV + CONV + "[scale_channels]\nfrom=0\n", 15, "expected 1x1"),
        (CONV + "[reorg3d]\nstride=5\n", 11, "can't be cut"),
        (CONV + "[reorg]\nstride=4\n", 11, "does not divide"),
        (SIX + head(mask="2"), 10, "out of range"),
        (SIX + head(mask="-1"), 10, "out of range"),
        (SIX + head(num="3"), 11, "expected num=3"),
        (SIX + head(num="1000000000000"), 11, "expected num"),
        (SIX + head(anchors="0,14,23,27"), 11, "positive"),
        (SIX + head(classes="2"), 6, "6 channels go into the [yolo] at line 9"),
        (SIX + head(classes="0"), 13, "out of range"),
        (SIX + head(classes="1000000000"), 13, "out of range"),
        (SIX + head(mask="0,1"), 6, "2 x (5 + 1) = 12"),
        (SIX + head(nms_kind="softnms"), 14, "expected one of"),
        (SIX + head(iou_loss="coiu"), 14, "expected one of"),
        (SIX + head() + SIX, 14, "reads the output of the [yolo] at line 9"),
        ("[convolutional]\nfilters=4\n[upsample]\n" + SIX + head(), 12, "pixels a cell"),
    ],
)
def test_refused_with_its_line(layers, line, what, small_cfg):
    with pytest.raises(DetectPruneError) as caught:
        plan_network(small_cfg(layers))
    assert what in str(caught.value)
    assert (caught.value.line, str(caught.value.file)) == (line, "small.cfg")


def test_refused_without_a_head_or_with_two_opinions_on_the_classes():
    net = "[net]\nwidth=12\nheight=8\n"
    with pytest.raises(DetectPruneError, match=r"no \[yolo\]"):
        plan_network(parse_cfg(net + CONV))
    two = net + SIX + head() + "[route]\nlayers=0\n[convolutional]\nfilters=7\n" + head(classes="2")
    with pytest.raises(DetectPruneError, match="classes=2, but the"):
        plan_network(parse_cfg(two))
    with pytest.raises(DetectPruneError, match="channels=1 is out of range"):
        plan_network(parse_cfg("[net]\nchannels=1\n"))


def test_a_head_may_use_more_anchors_than_num_says(small_cfg):
    with pytest.warns(CfgWarning, match="num=1, but mask uses more"):
        steps = plan_network(parse_cfg("[net]\nwidth=8\nheight=8\n" + SIX + head(mask="1", num="1")))
    assert steps[-1].spec.anchors == ((23.0, 27.0),)


def test_nothing_is_allocated_for_a_network_that_is_refused(small_cfg, monkeypatch):
    monkeypatch.setattr(network, "build_layer", lambda step: pytest.fail("a layer was built"))
    with pytest.raises(DetectPruneError, match="weights; at most"):
        Darknet(small_cfg(CONV * 3 + "[convolutional]\nfilters=65536\nsize=255\n"))


def test_anchors_beyond_num_are_none(small_cfg):
    """As in Darknet: a truth of their shape belongs to the best of those that count."""
    text = small_cfg("").text().replace("anchors=10,14", "anchors=10,14, 23,27")
    assert plan_network(parse_cfg(text, "two.cfg"))[-1].spec.all_anchors == ((10.0, 14.0),)
