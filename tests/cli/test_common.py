"""Options, folders and plans: what is wrong is said before anything is written, in the words that were typed."""

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from detect_prune.cli import common, prune, sweep, train
from detect_prune.darknet.cfg import CfgWarning
from detect_prune.errors import DetectPruneError


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (common.removal_ratio, {"0.8": 0.8, "1e-3": 0.001}, ["0", "1", "nan", "inf", "half", "-1"]),
        (common.positive(int), {"3": 3}, ["0", "-1", "1.5", "x"]),
        (common.positive(float), {"3": 3.0, "1e-4": 1e-4}, ["0", "-1", "nan", "inf", "x"]),
        (common.not_negative(int), {"0": 0, "3": 3}, ["-1", "1.5", ""]),
        (common.not_negative(float), {"0": 0.0, "0.25": 0.25}, ["-0.1", "nan", "inf", "much"]),
        (common.seed, {"0": 0, str(2**63 - 1): 2**63 - 1}, ["-1", str(2**63)]),
        (common.share, {"0": 0.0, "1": 1.0, "0.05": 0.05}, ["-0.1", "1.1", "nan", "x"]),
        (common.folder_name, {"a b": "a b", "..a": "..a"}, ["", ".", "..", "a/b", "/a", "a\\b"]),
        (common.device_name, {"cpu": "cpu", "cuda": "cuda", "cuda:1": "cuda:1"}, ["gpu", "mps", "cuda:", "0"]),
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
        prune.parser().parse_args(["--cfg", "x", *words.split()])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"error: {words.split()[0]}: ") and "usage" not in said


def test_the_names_that_stand_here_are_those_of_the_packages():
    from detect_prune.classification import ARCHITECTURES
    from detect_prune.engine.precision import PRECISIONS
    from detect_prune.pruning import METHODS
    from detect_prune.pruning.importance import make_importance

    assert tuple(METHODS) == prune.METHODS
    assert tuple(name for name, method in METHODS.items() if method.prunes == "never") == prune.KEEPING
    assert tuple(ARCHITECTURES) == common.MODELS
    assert tuple(PRECISIONS) == common.PRECISIONS
    for name in prune.IMPORTANCES:
        make_importance(name)
    with pytest.raises(ValueError, match=f"there are {', '.join(prune.IMPORTANCES)}$"):
        make_importance("best")


def test_a_device_that_is_not_here(monkeypatch):
    assert common.choose_device("cpu") == "cpu"
    with pytest.raises(DetectPruneError, match="device 'cuda:99' can't be used here"):
        common.choose_device("cuda:99")


def test_a_fresh_folder_is_numbered_before_its_ending(tmp_path):
    for name in ("a", "b-sample"):
        (tmp_path / name).mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    fresh = common.fresh_folder
    assert fresh(tmp_path, "a", sample=False) == tmp_path / "a-2"
    assert fresh(tmp_path, "b", sample=True) == fresh(tmp_path, "b-sample", sample=True) == tmp_path / "b-2-sample"
    assert fresh(tmp_path, "c-sample", sample=True) == tmp_path / "c-sample"
    assert fresh(tmp_path, "dangling", sample=False) == tmp_path / "dangling-2"
    assert fresh(tmp_path, "x" * 1000, sample=False).name == "x" * 1000  # refused in words once it is made


def saved(folder, words, made=prune, command="prune"):
    args = made.parser().parse_args(words)
    common.save_plan(folder, command, args, words)
    return folder


def resume(words, project=Path("nowhere"), made=prune, command="prune"):
    parser = made.parser()
    args = parser.parse_args(words)
    return args, *common.resume_plan(command, parser, args, project)


WORDS = ["--cfg", "a.cfg", "--ratio", "0.8", "--epochs", "3", "--exclude", "a*", "--exclude", "b*", "--lr", "1e-3"]


def test_a_plan_gives_every_option_back(tmp_path):
    saved(tmp_path / "x", WORDS)
    args, folder, argv = resume(["--resume", str(tmp_path / "x"), "--device", "cpu", "--epochs", "3"])
    before = vars(prune.parser().parse_args(WORDS))
    assert folder == tmp_path / "x" and argv == WORDS
    assert vars(args) == before | {"resume": str(tmp_path / "x"), "device": "cpu"}


def test_a_run_goes_on_with_its_bits(tmp_path):
    saved(tmp_path / "x", [*WORDS, "--budget", "bytes", "--bits", "a*=4", "--bits", "b*=8"])
    args, _, _ = resume(["--resume", str(tmp_path / "x")])
    assert args.bits == ["a*=4", "b*=8"]


@pytest.mark.parametrize(
    "made, command, words, given, message",
    [
        (prune, "prune", WORDS, "--epochs 4", "started with --epochs 3, and --epochs 4 was given now"),
        (prune, "prune", WORDS, "--weights w", "started without --weights, and --weights w was given now"),
        (prune, "prune", WORDS, "--exclude c", r"with --exclude 'a\*' --exclude 'b\*', and --exclude c was"),
        (train, "train", ["--cfg", "a"], "--epochs 4", "started without --epochs, and --epochs 4 was given now"),
        (train, "train", ["--cfg", "a"], "--train-zeros", "without --train-zeros, and --train-zeros was given now"),
    ],
)
def test_another_option_is_refused_in_the_words_that_were_typed(tmp_path, made, command, words, given, message):
    saved(tmp_path / "x", words, made, command)
    with pytest.raises(DetectPruneError, match=message):
        resume(["--resume", str(tmp_path / "x"), *given.split()], made=made, command=command)


def plan(**changed):
    good = {"command": "prune", "argv": ["--cfg", "a"], "options": {"cfg": "a", "ratio": 0.5}}
    return json.dumps({**good, **changed})


DAMAGED = [
    "",
    "{",
    "[" * 100_000,
    "[]",
    "7",
    json.dumps({"command": "prune"}),
    plan(command=3),
    plan(argv="--cfg"),
    plan(argv=[1]),
    plan(options=[]),
    plan(options={"ratio": "x"}),
    plan(options={"ratio": 2}),
    plan(options={"retrain_epochs": 1.5}),
    plan(options={"exclude": "a"}),
    plan(options={"exclude": [1]}),
    plan(options={"bits": ["conv1"]}),
    plan(options={"cfg": 3}),
    plan(options={"importance": "best"}),
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_plan_is_named_and_not_in_the_way_of_others(tmp_path, text):
    whole = saved(tmp_path / "whole", WORDS)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "plan.json").write_text(text)
    with pytest.raises(DetectPruneError, match=r"damaged/plan\.json: .*damaged") as caught:
        resume(["--resume", str(tmp_path / "damaged")])
    assert "\n" not in str(caught.value)
    if "options" not in text:  # what its options hold is looked at once it is chosen
        assert resume(["--resume"], tmp_path)[1] == whole


def test_the_newest_unfinished_run_of_the_command_is_taken(tmp_path):
    import os

    for age, (name, made) in enumerate([("finished", prune), ("trained", train), ("new", prune), ("old", prune)]):
        command = made.__name__.rpartition(".")[2]
        folder = saved(tmp_path / name, ["--cfg", name], made, command)
        os.utime(folder / "plan.json", (1000 - age, 1000 - age))
    (tmp_path / "finished" / "metrics.json").touch()
    args, folder, _ = resume(["--resume"], tmp_path)
    assert folder == tmp_path / "new" and args.cfg == "new"
    with pytest.raises(DetectPruneError, match="made by 'train', not by 'prune'"):
        resume(["--resume", str(tmp_path / "trained")])
    with pytest.raises(DetectPruneError, match="no unfinished run"):
        resume(["--resume"], tmp_path / "nowhere")


def test_a_reader_that_has_gone_ends_the_output_quietly():
    talks = (
        "import argparse; from detect_prune.cli.common import run_command\n"
        "def talk(args, words):\n    for _ in range(100_000): print('a line')\n"
        "raise SystemExit(run_command(talk, argparse.ArgumentParser(), []))"
    )
    with subprocess.Popen([sys.executable, "-c", talks], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_our_warnings_are_sentences_and_ctrl_c_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def main(args, words):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", common._show_warning)
            warnings.warn(CfgWarning("x.cfg:3: an unknown key"), stacklevel=1)
            warnings.warn("somebody else's", stacklevel=1)
        raise KeyboardInterrupt

    assert common.run_command(main, argparse.ArgumentParser(), []) == 130
    said = capsys.readouterr().err
    assert said.startswith("warning: x.cfg:3: an unknown key\n") and "UserWarning: somebody else's" in said
    assert said.endswith("\nstopped\n")


def test_under_torchrun_other_commands_say_that_they_work_in_one_process(monkeypatch, capsys):
    from detect_prune.engine.distributed import World

    for name, value in {"WORLD_SIZE": 4, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(World, "__enter__", lambda self: self)
    monkeypatch.setattr(World, "__exit__", lambda self, *error: None)
    assert sweep.main(["--model", "lenet5", "--ratios", "0.5"], prog="detect-prune sweep") == 2
    said = capsys.readouterr().err
    assert said == "error: detect-prune sweep works in one process, and torchrun has started 4 of it\n"
    seen = []
    made = argparse.ArgumentParser()
    assert common.run_together(lambda args, words, world: seen.append(world.size), made, []) == 0 and seen == [4]
    monkeypatch.delenv("LOCAL_RANK")
    assert common.run_together(lambda args, words, world: None, made, []) == 2
    assert "torchrun starts" in capsys.readouterr().err


def test_each_process_has_a_device_of_its_own(monkeypatch):
    import torch

    from detect_prune.engine.distributed import World

    world = World(rank=3, size=4, local_rank=1, local_size=2)
    assert common.choose_device("cpu", world) == "cpu"
    with pytest.raises(DetectPruneError, match="4 processes can't share cuda:1"):
        common.choose_device("cuda:1", world)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert common.choose_device(None, world) == "cuda:1" and common.choose_device(None) == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DetectPruneError, match="each of the 2 processes on this machine needs a GPU of its own"):
        common.choose_device("cuda", world)


def test_commands_take_denormal_numbers_for_zero_in_all_threads():
    """In a process of its own: the setting stays with the threads that torch starts under it."""
    script = """
import argparse, torch
from detect_prune.cli import common

def main(args, words):
    torch.set_num_threads(2)
    tiny = torch.full((10_000_000,), 1e-40)
    print(int((tiny * 0.5).count_nonzero()))

raise SystemExit(common.run_command(main, argparse.ArgumentParser(), []))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "0\n"
