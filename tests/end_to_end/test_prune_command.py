"""`python prune.py` as a person runs it: the artefacts, a kill and --resume, and bad input as one sentence."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY_CFG, write_coco

from detect_prune.cli.main import main
from detect_prune.pruning import keep_count, prunable_weights
from detect_prune.tasks.detector import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(cfg, data, *more):
    epochs = ["--dense-epochs", "2", "--admm-epochs", "15", "--epochs", "2"]
    usual = ["--batch", "4", "--workers", "0", "--precision", "fp32"]
    return ["prune", "--cfg", cfg, "--data", data, *usual, *epochs, *more]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_a_whole_run_leaves_files_that_hold_what_the_table_says(here, tiny_cfg, tiny_data, capsys):
    assert run(*options(tiny_cfg, tiny_data, "--ratio", "0.57")) == 0
    printed = capsys.readouterr().out
    folder = here / "runs/prune/tiny-0.57"
    assert "the heads are adapted from 2 to 3 classes" in printed and "train" in printed
    for name in ("pruned.cfg", "pruned.weights", "dense.cfg", "dense.weights", "last.pt", "best.pt", "index.html"):
        assert (folder / name).stat().st_size > 0
    metrics = json.loads((folder / "metrics.json").read_text())
    dense, cut, reestimated, retrained = metrics["stages"]
    total = 8 * 3 * 9 + 16 * 8 * 9 + 2 * 8 * 16
    assert dense["total"] == total and dense["kept"] == total
    assert cut["kept"] == reestimated["kept"] == retrained["kept"] == keep_count(total, 0.57)
    assert cut["bytes_stored"] == (folder / "pruned.weights").stat().st_size
    assert dense["macs_dense"] == 8 * 27 * 16 * 16 + 16 * 72 * 8 * 8 + 16 * 16 * 8 * 8
    model = load(folder / "pruned.cfg", folder / "pruned.weights")
    assert model.names == ("red", "green", "blue")
    kept = sum(int(weight.count_nonzero()) for weight in prunable_weights(model).values())
    assert kept == keep_count(total, 0.57)
    assert f"{keep_count(total, 0.57):,}" in printed


def test_val_of_the_result_gives_the_table_s_ap_and_training_keeps_the_zeros(here, tiny_cfg, tiny_data, capsys):
    assert run(*options(tiny_cfg, tiny_data, "--ratio", "0.5", "--name", "x")) == 0
    folder = here / "runs/prune/x"
    pair = ["--cfg", folder / "pruned.cfg", "--weights", folder / "pruned.weights"]
    pair += ["--data", tiny_data, "--workers", "0", "--batch", "4"]
    assert run("val", *pair, "--json", "scores.json") == 0
    scores = json.loads((here / "scores.json").read_text())
    retrained = json.loads((folder / "metrics.json").read_text())["stages"][-1]["metrics"]
    assert scores["AP"] == pytest.approx(retrained["AP"], abs=1e-9)
    assert scores["AP50"] == pytest.approx(retrained["AP50"], abs=1e-9)

    assert run("train", *pair, "--epochs", "3", "--precision", "fp32") == 0
    assert "weights are zero and stay so" in capsys.readouterr().out
    before = load(folder / "pruned.cfg", folder / "pruned.weights")
    assert run("prune", *pair, "--ratio", "0.9", "--method", "lamp", "--epochs", "1", "--exclude", "layers.0.*") == 0
    printed, total = capsys.readouterr().out, 16 * 8 * 9 + 2 * 8 * 16
    assert re.search(
        rf"[0-9]+ of {total:,} weights \([0-9.]+ %\) are zero already .*a ratio is one of all {total:,}", printed
    )
    assert "90.0 % of the weights that were chosen for pruning are zero" in printed
    assert f"counted in the layers that were chosen for pruning, {total:,} of the network's 1,624;" in printed
    assert "epochs long instead of 10: so many give ADMM" in printed
    after = load("runs/train/pruned/trained.cfg", "runs/train/pruned/trained.weights")
    for name, weight in prunable_weights(before).items():
        assert torch.equal(weight == 0, prunable_weights(after)[name] == 0)
        assert not torch.equal(weight, prunable_weights(after)[name])


def test_detect_draws_and_writes_what_it_finds(here, tiny_cfg, tiny_data, capsys):
    from detect_prune.darknet import write_weights

    model = load(tiny_cfg)
    write_weights(model, here / "tiny.weights")
    pair = ["--cfg", tiny_cfg, "--weights", here / "tiny.weights"]
    assert run("detect", *pair, tiny_data.parent / "val", "--score", "0.0001") == 0
    assert len(list((here / "runs/detect").glob("*.jpg"))) == 8
    assert "8 pictures" in capsys.readouterr().out
    assert run("detect", *pair, "nothing/*.jpg") == 2
    assert "no pictures or videos here" in capsys.readouterr().err


def start(folder, *words):
    command = [sys.executable, str(ROOT / "prune.py"), *map(str, words)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    """What it printed; its pipe is emptied while it is waited for."""
    printed, _ = process.communicate(timeout=200)
    return process.returncode, printed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with a worker that was left alone: its folder, its options, and the bytes that it ended with."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.cfg").write_text(TINY_CFG)
    words = options("tiny.cfg", write_coco(folder / "squares"), "--ratio", "0.5", "--save-every", "0.001", "--name")[1:]
    words[words.index("--workers") + 1] = "1"
    status, printed = finish(start(folder, *words, "whole"))
    assert status == 0, printed
    return folder, words, (folder / "runs/prune/whole/pruned.weights").read_bytes()


@pytest.mark.parametrize(
    ("number", "phase"), [("SIGTERM", "admm"), ("SIGKILL", "admm"), ("SIGKILL", "dense"), ("SIGKILL", "retrain")]
)
def test_a_killed_process_goes_on_where_it_was(whole, number, phase):
    """A real process gets a real signal, with a worker; its end is that of a run left alone.

    SIGTERM is heard and the run saves itself; of SIGKILL it hears nothing and has what it saved on the way: in its
    first phase perhaps nothing, and then it begins again.
    """
    folder, words, expected = whole
    killed = start(folder, *words, f"{phase}-{number}")
    lines = []
    for line in killed.stdout:
        lines.append(line)
        if line.startswith(f"{phase}:"):
            killed.send_signal(getattr(signal, number))
            break
    # Read to its end, the pipe also waits for an orphaned worker, which would still be writing beside the resumed run.
    status, rest = finish(killed)
    run = f"runs/prune/{phase}-{number}"
    if number == "SIGTERM":
        assert status == 130 and f"--resume {run}" in rest, [*lines, rest]
    else:
        assert status == -signal.SIGKILL, [*lines, rest]
        assert phase == "dense" or (folder / run / "last.pt").exists()
    assert not (folder / run / "pruned.weights").exists() and not (folder / run / "metrics.json").exists()
    status, printed = finish(start(folder, "--resume", run))
    assert status == 0, printed
    assert (folder / run / "pruned.weights").read_bytes() == expected


@pytest.mark.parametrize("ratio", ["0", "1", "-0.1", "2", "nan", "half"])
def test_a_ratio_that_is_none_is_refused(ratio, capsys):
    with pytest.raises(SystemExit) as stop:
        run("prune", "--cfg", "yolov4.cfg", f"--ratio={ratio}")
    assert stop.value.code == 2
    assert "ratio" in capsys.readouterr().err


def broken_cfg(here, cfg, data):
    cfg.write_text(cfg.read_text().replace("filters=16", "filters=sixteen"))
    return [], r"tiny.cfg:\d+: filters='?sixteen"


def missing_weights(here, cfg, data):
    return ["--weights", "nowhere.weights"], "nowhere.weights: no such weights file"


def truncated_weights(here, cfg, data):
    from detect_prune.darknet import write_weights

    write_weights(load(cfg), here / "cut.weights")
    (here / "cut.weights").write_bytes((here / "cut.weights").read_bytes()[:-8])
    return ["--weights", here / "cut.weights"], "cut.weights: .*2 floats"


def foreign_weights(here, cfg, data):
    (here / "other.weights").write_bytes(np.zeros(5000, np.float32).tobytes())
    return ["--weights", here / "other.weights"], "other.weights: "


def empty_data(here, cfg, data):
    (data.parent / "train.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    return [], r"train\.json: the data set is empty: its list of images has no entry"


def truncated_json(here, cfg, data):
    text = (data.parent / "train.json").read_text()
    (data.parent / "train.json").write_text(text[: len(text) // 2])
    return [], r"train.json:\d+: "


def missing_descriptor(here, cfg, data):
    return ["--data", "nothing.yaml"], "nothing.yaml: no such file"


def typing_error_in_descriptor(here, cfg, data):
    data.write_text(data.read_text().replace("format", "fromat"))
    return [], r"tiny.yaml:1: "


@pytest.mark.parametrize(
    "spoil",
    [
        broken_cfg,
        missing_weights,
        truncated_weights,
        foreign_weights,
        empty_data,
        truncated_json,
        missing_descriptor,
        typing_error_in_descriptor,
    ],
)
def test_bad_input_gets_one_sentence_that_names_the_file(here, tiny_cfg, tiny_data, capsys, spoil):
    more, expected = spoil(here, tiny_cfg, tiny_data)
    assert run(*options(tiny_cfg, tiny_data, "--ratio", "0.5", *more)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said and "Traceback" not in said
    assert re.search(expected, said), said
    assert not (here / "runs").exists()


def test_a_corrupt_picture_is_skipped_counted_and_reported(here, tiny_cfg, tiny_data, capsys):
    for split in ("train", "val"):
        path = tiny_data.parent / split / "3.png"
        path.write_bytes(path.read_bytes()[:40])
    assert run(*options(tiny_cfg, tiny_data, "--ratio", "0.5", "--name", "x")) == 0
    notes = json.loads((here / "runs/prune/x/metrics.json").read_text())["notes"]
    assert any("1 training picture skipped" in note and "3.png" in note for note in notes)
    assert any("1 validation picture left out" in note and "3.png" in note for note in notes)
    assert "3.png" in capsys.readouterr().out


def test_val_and_detect_do_not_adapt_heads(here, tiny_cfg, tiny_data, capsys):
    from detect_prune.darknet import write_weights

    write_weights(load(tiny_cfg), here / "tiny.weights")
    pair = ["--cfg", tiny_cfg, "--weights", here / "tiny.weights"]
    assert run("val", *pair, "--data", tiny_data) == 2
    assert "2 classes and the data" in capsys.readouterr().err
    (here / "three.names").write_text("a\nb\nc\n")
    assert run("detect", *pair, "--names", "three.names", tiny_data.parent / "val") == 2
    assert "3 names were given" in capsys.readouterr().err


def test_resume_refuses_other_data_of_as_many_pictures(here, tiny_cfg, tiny_data, capsys):
    assert run(*options(tiny_cfg, tiny_data, "--ratio", "0.5", "--name", "x")) == 0
    assert "digest" not in capsys.readouterr().out, "that is for --resume, not for people"
    for split in ("train", "val"):
        file = Path(tiny_data).parent / f"{split}.json"
        before = file.read_text()
        found = json.loads(before)
        found["annotations"][0]["bbox"][2] -= 1
        file.write_text(json.dumps(found))
        assert run("prune", "--resume", "runs/prune/x") == 2
        assert "other settings (data: data digest)" in capsys.readouterr().err
        file.write_text(before)
    assert run("prune", "--resume", "runs/prune/x") == 0


def test_resume_refuses_other_settings_and_unknown_runs(here, tiny_cfg, tiny_data, capsys):
    assert run(*options(tiny_cfg, tiny_data, "--ratio", "0.5", "--name", "x")) == 0
    assert run("prune", "--resume", "runs/prune/x", "--ratio", "0.6") == 2
    assert "started with --ratio 0.5" in capsys.readouterr().err
    assert run("prune", "--resume", "runs/prune/y") == 2
    assert run("prune", "--resume") == 2
    assert "no unfinished run" in capsys.readouterr().err
