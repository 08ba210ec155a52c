"""Damaged files by the thousand: they are read, or refused by one sentence that names the file and the line.

Every case is drawn from a number that a failure names: `damaged(base, number)` makes it again.
"""

import time
import warnings

import pytest
import torch
from families import FAMILIES, family_text, head
from fuzz import case, limits, outcome
from mutations import mutate_cfg, mutate_floats

from detect_prune.darknet import (
    CfgWarning,
    Darknet,
    WeightsHeader,
    adapt_classes,
    load_cfg,
    parse_cfg,
    read_backbone,
    read_weights,
    write_weights,
)
from detect_prune.darknet.plan import plan_network
from detect_prune.darknet.steps import Head, plan_sizes
from detect_prune.errors import DetectPruneError
from detect_prune.resources import packaged_folder

SHIPPED = {"yolov4-tiny": 500, "yolov3-tiny": 500, "yolov4-csp": 60}  # name in cfg/ -> cases
CASES = SHIPPED | dict.fromkeys(FAMILIES, 300)
MAX_WORK = 500_000  # numbers of a network that is still built and run
MAX_SECONDS = 5.0

# Errors about the file as a whole, which no line is to blame for.
WHOLE_FILE = ("has no [yolo] section", "an empty cfg")


def damaged(base: str, number: int) -> tuple[bytes, int]:
    text = family_text(base) if base in FAMILIES else (packaged_folder("cfg") / f"{base}.cfg").read_text()
    return mutate_cfg(case(base, number), text)


def use(path) -> None:
    """Everything that a cfg is used for."""
    cfg = load_cfg(path)
    assert parse_cfg(cfg.text()) == cfg
    steps = plan_network(cfg)
    adapt_classes(cfg, 2)
    sizes = plan_sizes(steps, cfg.input_size)
    work = sum(step.floats + step.channels * width * height for step, (width, height) in zip(steps, sizes))
    if work < MAX_WORK:
        with torch.no_grad():
            raws = Darknet(cfg).eval()(torch.zeros(1, 3, *cfg.input_size[::-1]))
        ends = (step for step in steps if isinstance(step, Head))
        for raw, step in zip(raws, ends, strict=True):
            assert raw.shape == (1, step.channels, *sizes[step.index][::-1])


def blamed_rightly(data: bytes, line: int, error: DetectPruneError) -> bool:
    """Whether the error's line is that of the damage, lies after it, or is of the section that was damaged."""
    if error.line is None:
        return any(what in str(error) for what in WHOLE_FILE)
    lines = data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    begin = next((number for number in range(min(line, len(lines)) - 1, 0, -1) if lines[number - 1][:1] == "["), 1)
    # A head that does not fit is blamed on the convolution that feeds it, and the sentence names the head's line.
    named = [error.line, *(int(word) for word in str(error).replace(";", " ").split() if word.isdecimal())]
    return error.line <= len(lines) and max(named) >= begin


@pytest.mark.filterwarnings("ignore::detect_prune.darknet.CfgWarning")
@pytest.mark.parametrize("base", CASES)
def test_damaged_cfgs(base, unfilled, tmp_path):
    path = tmp_path / "damaged.cfg"
    refused = 0
    with limits():
        for number in range(CASES[base]):
            data, line = damaged(base, number)
            path.write_bytes(data)
            error = outcome(base, number, lambda: use(path))
            if error is not None:
                refused += 1
                assert str(error).startswith(f"{path}:"), f"{base} {number}: {error}"
                assert len(str(error)) < len(str(path)) + 500, f"{base} {number}: {error}"
                assert blamed_rightly(data, line, error), f"{base} {number}, damaged on line {line}: {error}"
    assert CASES[base] // 4 < refused < CASES[base]


@pytest.mark.parametrize("base", ["prn", "weighted"])
@pytest.mark.parametrize("header", [WeightsHeader(), WeightsHeader(0, 1, 0, 7)])
def test_damaged_weights(base, header, tmp_path):
    net = Darknet(parse_cfg(family_text(base), "whole.cfg"))
    path = tmp_path / "damaged.weights"
    write_weights(net, path, header)
    data = path.read_bytes()
    refused = 0
    with limits():
        for number in range(400):
            mutated = mutate_floats(case(base, number), data)
            path.write_bytes(mutated)
            before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
            error = outcome(base, number, lambda: (read_weights if number % 5 else read_backbone)(net, path))  # noqa: B023
            if error is not None:
                refused += 1
                assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items()), number
                if mutated[:20] == data[:20] and header.minor == 2 and len(mutated) % 4 == 0:
                    count = abs(len(mutated) - len(data)) // 4
                    assert not count or f"{count:,} float" in str(error), f"{base} {number}: {error}"
                continue
            assert len(mutated) % 4 == 0, number
            assert all(tensor.isfinite().all() for tensor in net.state_dict().values()), number
            if len(mutated) == len(data):
                write_weights(net, tmp_path / "again.weights", header_of(path))
                assert (tmp_path / "again.weights").read_bytes() == mutated, number
    assert 200 < refused < 400


def header_of(path) -> WeightsHeader:
    return WeightsHeader.unpack(path.read_bytes(), path)


@pytest.mark.parametrize(
    "layers, line, what",
    [
        ("[upsample]\nstride=2\n" * 4_000, 34, "multiply to more than 32768"),
        (
            "[upsample]\nstride=4\n[maxpool]\nsize=4\nstride=4\n" * 900
            + "[upsample]\nstride=16\n[maxpool]\nstride=16\n",
            4504,
            "a map of 65536x65536",
        ),
        ("[convolutional]\nfilters=4\nsize=3\nstride=255\npad=1\n" * 4_000, 9, "multiply to more than 32768"),
        ("[convolutional]\nfilters=1000000000\n", 5, "out of range"),
        ("[convolutional]\nfilters=65536\n" * 2, 6, "weights; at most"),
        ("[convolutional]\nfilters=65536\nwidth=\n", 6, "neither"),
        ("[convolutional]\nfilters=3\n" + "[route]\nlayers=-1,-1\n" * 4_000, 35, "channels; at most"),
        ("[convolutional]\nfilters=9000\nsize=3\npad=1\n", 4, "9000 channels of 4096x4096"),
        ("[convolutional]\nfilters=1\n[shortcut]\nfrom=" + ",".join(["-1"] * 200_000) + "\n", 7, "at most 256"),
        ("k=v\n" * 100_000 + "".join(f"k{n}=v\n" for n in range(100_000)) + "[avgpool]\n", 200_012, "pixels a cell"),
        ("[dropout]\n" * 100_000, 5004, "100,002 layers"),
    ],
)
def test_small_files_that_ask_for_much(layers, line, what):
    text = "[net]\nwidth=4096\nheight=4096\n" + layers + head()
    begin = time.process_time()
    with warnings.catch_warnings(), pytest.raises(DetectPruneError) as caught:
        warnings.simplefilter("ignore", CfgWarning)
        plan_network(parse_cfg(text, "small.cfg"))
    assert time.process_time() - begin < MAX_SECONDS
    assert what in str(caught.value)
    assert caught.value.line == line
