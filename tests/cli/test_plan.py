"""Folders and plans of runs: what is wrong is said before anything is written, in the words that were typed."""

import json
import os
import re
from pathlib import Path

import pytest

from detect_prune.cli import prune, train
from detect_prune.cli.plan import fresh_folder, resume_plan, save_plan, started_elsewhere
from detect_prune.errors import DetectPruneError


def test_a_fresh_folder_is_numbered_before_its_ending(tmp_path):
    for name in ("a", "b-sample"):
        (tmp_path / name).mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    fresh = fresh_folder
    assert fresh(tmp_path, "a", sample=False) == tmp_path / "a-2"
    assert fresh(tmp_path, "b", sample=True) == tmp_path / "b-2-sample"
    assert fresh(tmp_path, "b-sample", sample=True) == tmp_path / "b-3-sample"
    assert fresh(tmp_path, "c-sample", sample=True) == tmp_path / "c-sample"
    assert fresh(tmp_path, "dangling", sample=False) == tmp_path / "dangling-2"
    assert all(folder.is_dir() for folder in (tmp_path / "a-2", tmp_path / "c-sample", tmp_path / "dangling-2"))
    with pytest.raises(DetectPruneError, match="can't be made"):
        fresh(tmp_path, "x" * 1000, sample=False)
    with pytest.raises(DetectPruneError, match="can't be made"):
        fresh(tmp_path / "dangling", "a", sample=False)


def saved(folder, words, made=prune, command="prune"):
    args = made.build_parser().parse_args(words)
    save_plan(folder, command, args, words)
    return folder


def resume(words, project=Path("nowhere"), made=prune, command="prune"):
    parser = made.build_parser()
    args = parser.parse_args(words)
    return args, *resume_plan(command, parser, args, project)


WORDS = ["--cfg", "a.cfg", "--ratio", "0.8", "--epochs", "3", "--exclude", "a*", "--exclude", "b*", "--lr", "1e-3"]


def test_a_plan_gives_every_option_back(tmp_path):
    saved(tmp_path / "x", WORDS)
    args, folder, argv = resume(["--resume", str(tmp_path / "x"), "--device", "cpu", "--epochs", "3"])
    before = vars(prune.build_parser().parse_args(WORDS))
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


def test_an_error_says_where_the_run_was_started(tmp_path, monkeypatch):
    folder = saved(tmp_path / "x", WORDS)
    with pytest.raises(DetectPruneError, match=r"^a\.cfg: no such file$"), started_elsewhere(folder):
        raise DetectPruneError("no such file", file="a.cfg")
    here = os.getcwd()
    monkeypatch.chdir(tmp_path)
    said = re.escape(f"a.cfg: no such file (the run was started in {here};")
    with pytest.raises(DetectPruneError, match=said), started_elsewhere(folder):
        raise DetectPruneError("no such file", file="a.cfg")
    for error in (DetectPruneError("no GPU"), DetectPruneError("wrong", file=folder)):
        with pytest.raises(DetectPruneError) as caught, started_elsewhere(folder):
            raise error
        assert caught.value is error


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
    plan(place=3),
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

    for age, (name, made) in enumerate([("finished", prune), ("trained", train), ("new", prune), ("old", prune)]):
        command = made.__name__.rpartition(".")[2]
        folder = saved(tmp_path / name, ["--cfg", name], made, command)
        os.utime(folder / "plan.json", (1000 - age, 1000 - age))
    (tmp_path / "finished" / "metrics.json").write_text("{}")
    (tmp_path / "new" / "metrics.json").touch()  # what a full disk leaves is no end
    args, folder, _ = resume(["--resume"], tmp_path)
    assert folder == tmp_path / "new" and args.cfg == "new"
    with pytest.raises(DetectPruneError, match="made by 'train', not by 'prune'"):
        resume(["--resume", str(tmp_path / "trained")])
    with pytest.raises(DetectPruneError, match="no unfinished run"):
        resume(["--resume"], tmp_path / "nowhere")


@pytest.mark.parametrize("given", ["--batch 4", "--seed 1", "--data d"])
def test_what_would_change_the_weights_is_refused(tmp_path, given):
    parser, words = prune.build_parser(), ["--cfg", "a.cfg", "--ratio", "0.8"]
    save_plan(tmp_path, "prune", parser.parse_args(words), words)
    with pytest.raises(DetectPruneError, match=f"started without {given.split()[0]}, and {given} was given now"):
        resume_plan("prune", parser, parser.parse_args(["--resume", str(tmp_path), *given.split()]), Path("x"))
