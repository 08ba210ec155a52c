"""The networks in cfg/ are the official ones, in this project's own words."""

import pytest

from detect_prune.darknet import CfgWarning, Darknet, load_cfg, parse_cfg
from detect_prune.darknet.cfg import Cfg, Section
from detect_prune.darknet.keys import KEYS
from detect_prune.darknet.plan import plan_network
from detect_prune.darknet.section import convert
from detect_prune.resources import packaged_folder

FLOATS = {
    "yolov3.cfg": 62_001_757,
    "yolov3-tiny.cfg": 8_858_734,
    "yolov3-spp.cfg": 63_052_381,
    "yolov4.cfg": 64_429_405,
    "yolov4-tiny.cfg": 6_062_814,
    "yolov4-csp.cfg": 52_986_205,
    "yolov4x-mish.cfg": 99_847_037,
}


def meaning(section: Section, index: int) -> dict:
    """Every option as a value, references as absolute layers: equal for two texts that say the same."""
    values = {}
    for option in section.options:
        value = convert(section, section.option(option.name), KEYS[section.name][option.name])
        if option.name in ("layers", "from"):
            value = tuple(v if v >= 0 else index + v for v in value)
        values[option.name] = value
    return {"section": section.name, **values}


def meanings(cfg: Cfg) -> list[dict]:
    return [meaning(section, index) for index, section in enumerate((cfg.net, *cfg.layers), -1)]


def test_nothing_else_is_shipped():
    assert {path.name for path in packaged_folder("cfg").glob("*.cfg")} == set(FLOATS)


@pytest.mark.parametrize("name", FLOATS)
def test_float_counts_are_those_of_the_published_weights(name):
    steps = plan_network(load_cfg(packaged_folder("cfg") / name))
    assert sum(step.floats for step in steps) == FLOATS[name]


@pytest.mark.parametrize("name", FLOATS)
def test_same_network_as_the_official_file(name, real_data):
    ours = meanings(load_cfg(packaged_folder("cfg") / name))
    official = meanings(load_cfg(real_data / "darknet/cfg" / name))
    if name == "yolov3-tiny.cfg":
        # The official file's second head has 0,1,2, with which the official weights find next to nothing.
        assert official[-1]["mask"] == (0, 1, 2)
        official[-1]["mask"] = (1, 2, 3)
    assert len(ours) == len(official)
    for index, (a, b) in enumerate(zip(ours, official), -1):
        assert a == b, f"layer {index}"


@pytest.mark.parametrize("name", FLOATS)
def test_no_warning_and_text_round_trip(name, recwarn):
    cfg = load_cfg(packaged_folder("cfg") / name)
    assert parse_cfg(cfg.text()) == cfg
    assert not [warning for warning in recwarn if warning.category is CfgWarning]


def test_yolov4_tiny_builds_with_its_heads():
    net = Darknet(load_cfg(packaged_folder("cfg") / "yolov4-tiny.cfg"))
    assert (
        sum(p.numel() for p in net.parameters()) + sum(b.numel() for n, b in net.named_buffers() if "running" in n)
        == FLOATS["yolov4-tiny.cfg"]
    )
    assert [step.scale for step in net.steps if step.section.name == "yolo"] == [(32, 32), (16, 16)]
    assert [head.anchors[0] for head in net.heads] == [(81.0, 82.0), (23.0, 27.0)]
