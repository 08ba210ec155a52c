"""Fitting heads to another number of classes."""

import pytest

from detect_prune.darknet import Darknet, adapt_classes, copy_matching, load_cfg, parse_cfg
from detect_prune.darknet.plan import plan_network
from detect_prune.errors import DetectPruneError
from detect_prune.resources import packaged_folder


@pytest.mark.parametrize("name", ["yolov3.cfg", "yolov4-tiny.cfg", "yolov4-csp.cfg"])
def test_adapted_network_plans_and_goes_back(name):
    cfg = load_cfg(packaged_folder("cfg") / name)
    adapted = adapt_classes(cfg, 3)
    heads = [step for step in plan_network(adapted) if hasattr(step, "spec")]
    assert {head.spec.classes for head in heads} == {3}
    assert {head.channels for head in heads} == {3 * 8}
    assert heads[0].section.line is not None and heads[0].section.line > 0  # lines of the file stay
    assert adapt_classes(adapted, 80) == cfg
    assert cfg == load_cfg(packaged_folder("cfg") / name)
    assert parse_cfg(adapted.text()) == adapted


def test_per_class_counters_go():
    with pytest.warns(UserWarning, match="counters_per_class"):
        cfg = parse_cfg("[net]\n[convolutional]\nfilters=7\n[yolo]\nclasses=2\nanchors=1,2\ncounters_per_class=5,6\n")
    assert "counters_per_class" not in adapt_classes(cfg, 4).text()


def test_heads_that_can_not_be_adapted():
    cfg = parse_cfg("[net]\n[convolutional]\nfilters=6\n[dropout]\n[yolo]\nclasses=1\nanchors=1,2\n", "x.cfg")
    with pytest.raises(DetectPruneError, match=r"x.cfg:5: there is no \[convolutional\]"):
        adapt_classes(cfg, 2)
    for classes in (0, 10**9):
        with pytest.raises(DetectPruneError, match="expected 1 to"):
            adapt_classes(cfg, classes)


def test_copy_matching_takes_all_but_the_heads(calibrate):
    cfg = load_cfg(packaged_folder("cfg") / "yolov4-tiny.cfg").with_input_size(64, 64)
    source, target = calibrate(Darknet(cfg), count=2), Darknet(adapt_classes(cfg, 5))
    fresh = copy_matching(source, target)
    assert [title.split("(")[1] for title in fresh] == ["layer 29)", "layer 36)"]
    theirs, ours = source.state_dict(), target.state_dict()
    for name, tensor in ours.items():
        if name.split(".")[1] in ("29", "36"):
            assert tensor.shape != theirs[name].shape
        else:
            assert tensor.equal(theirs[name]), name
            assert tensor.data_ptr() != theirs[name].data_ptr()
    assert copy_matching(source, Darknet(cfg)) == []


def test_copy_matching_refuses_another_network(small_cfg):
    conv = "[convolutional]\nfilters=4\n"
    with pytest.raises(DetectPruneError, match="from layer 1 on"):
        copy_matching(Darknet(small_cfg(conv)), Darknet(small_cfg(conv + "[dropout]\n")))
