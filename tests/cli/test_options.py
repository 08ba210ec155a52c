"""Options: what is wrong with them is said when they are parsed, in the words that were typed."""

import argparse

import pytest

from detect_prune.cli import choices, detect, download, prune, val
from detect_prune.cli.options import (
    choose_device,
    device_name,
    folder_name,
    not_negative,
    positive,
    removal_ratio,
    seed_number,
    share,
)
from detect_prune.errors import DetectPruneError


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (removal_ratio, {"0.8": 0.8, "1e-3": 0.001}, ["0", "1", "nan", "inf", "half", "-1"]),
        (positive(int), {"3": 3}, ["0", "-1", "1.5", "x"]),
        (positive(float), {"3": 3.0, "1e-4": 1e-4}, ["0", "-1", "nan", "inf", "x"]),
        (not_negative(int), {"0": 0, "3": 3}, ["-1", "1.5", ""]),
        (not_negative(float), {"0": 0.0, "0.25": 0.25}, ["-0.1", "nan", "inf", "much"]),
        (seed_number, {"0": 0, str(2**63 - 1): 2**63 - 1}, ["-1", str(2**63)]),
        (share, {"0": 0.0, "1": 1.0, "0.05": 0.05}, ["-0.1", "1.1", "nan", "x"]),
        (folder_name, {"a b": "a b", "..a": "..a"}, ["", ".", "..", "a/b", "/a", "a\\b"]),
        (
            device_name,
            {"cpu": "cpu", "cuda": "cuda", "cuda:1": "cuda:1", "0": "cuda:0"},
            ["gpu", "mps", "cuda:", "0,1"],
        ),
    ],
)
def test_types(kind, good, bad):
    for text, value in good.items():
        assert kind(text) == value and type(kind(text)) is type(value)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


@pytest.mark.parametrize(
    "words", ["--importance best", "--floor 2", f"--seed {2**63}", "--name a/b", "--device tpu", "--model vgg"]
)
def test_options_are_checked_when_they_are_parsed(words, capsys):
    with pytest.raises(SystemExit) as stop:
        prune.build_parser().parse_args(["--cfg", "x", *words.split()])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"error: {words.split()[0]}: ") and "usage" not in said


def test_the_names_to_choose_from_are_those_of_the_rooms_that_know_them():
    from detect_prune.classification import ARCHITECTURES
    from detect_prune.datasets.letterbox import RESIZES
    from detect_prune.detection.average_precision import AP_RULES, DIFFICULT_RULES
    from detect_prune.engine.precision import PRECISIONS
    from detect_prune.pruning import METHODS
    from detect_prune.pruning.budgets import BUDGETS
    from detect_prune.pruning.importance import make_importance
    from detect_prune.tasks.scoring import PROTOCOLS, SHOWN

    assert tuple(METHODS) == choices.METHODS
    assert tuple(name for name, method in METHODS.items() if method.prunes == "never") == choices.KEEPING
    assert tuple(ARCHITECTURES) == choices.MODELS
    assert tuple(PRECISIONS) == choices.PRECISIONS
    assert tuple(BUDGETS) == choices.BUDGETS
    assert tuple(PROTOCOLS) == choices.PROTOCOLS
    assert choices.RESIZES == RESIZES
    assert (choices.AP_RULES, choices.DIFFICULT_RULES) == (AP_RULES, DIFFICULT_RULES)
    offered = {"--budget": BUDGETS, "--method": METHODS}
    assert {option: values(prune.build_parser(), option) for option in offered} == {
        o: tuple(w) for o, w in offered.items()
    }
    offered = {"--protocol": PROTOCOLS, "--resize": RESIZES, "--difficult": DIFFICULT_RULES, "--ap": AP_RULES}
    assert {option: values(val.build_parser(), option) for option in offered} == {
        o: tuple(w) for o, w in offered.items()
    }
    for name in choices.IMPORTANCES:
        make_importance(name)
    with pytest.raises(ValueError, match=f"there are {', '.join(choices.IMPORTANCES)}$"):
        make_importance("best")
    assert default(detect.build_parser(), "--score") == SHOWN.score_threshold
    assert default(detect.build_parser(), "--nms-iou") == SHOWN.iou_threshold


def values(made, option):
    return next(tuple(action.choices) for action in made._actions if option in action.option_strings)


def default(made, option):
    return next(action.default for action in made._actions if option in action.option_strings)


def test_the_beginning_of_an_option_is_none(capsys):
    """detect has --names, and no --name as prune has."""
    with pytest.raises(SystemExit) as stop:
        detect.build_parser().parse_args(["--cfg", "a.cfg", "--name", "mine", "photos"])
    assert stop.value.code == 2 and "unrecognized arguments: --name" in capsys.readouterr().err


def test_a_device_that_is_not_here(monkeypatch):
    assert choose_device("cpu") == "cpu"
    with pytest.raises(DetectPruneError, match="device 'cuda:99' can't be used here"):
        choose_device("cuda:99")


def test_each_process_has_a_device_of_its_own(monkeypatch):
    import torch

    from detect_prune.engine.distributed import World

    world = World(rank=3, size=4, local_rank=1, local_size=2)
    assert choose_device("cpu", world) == "cpu"
    with pytest.raises(DetectPruneError, match="4 processes can't share cuda:1"):
        choose_device("cuda:1", world)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def refuse(*_, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(DetectPruneError, match=r"device 'cuda' can't be used here: .*; --device cpu does"):
        choose_device(None)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: None)
    assert choose_device(None, world) == "cuda:1" and choose_device(None) == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DetectPruneError, match="each of the 2 processes on this machine needs a GPU of its own"):
        choose_device("cuda", world)


@pytest.mark.parametrize(
    "command, option",
    [
        *((detect, option) for option in ("--weights", "--names", "--out")),
        *(
            (prune, option)
            for option in ("--weights", "--pretrained", "--data", "--data-root", "--layer-ratios", "--project")
        ),
        (download, "--dir"),
        (val, "--json"),
    ],
)
def test_a_place_that_is_empty_is_refused(command, option, capsys):
    with pytest.raises(SystemExit) as stop:
        command.build_parser().parse_args(["x"] * (command in (detect, download)) + [option, ""])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(
        f"error: {option}: it is empty; the name of a file or folder was expected"
    )
