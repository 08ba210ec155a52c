"""What prune.py says last after a run on the sample set: the same command for real data."""

import shlex

import pytest

from detect_prune.cli import prune
from detect_prune.cli.build import Job

SAID = "python prune.py"


def real(words):
    made = prune.parser()
    return prune.real_data_command(made, shlex.split(words))


def test_everything_typed_is_kept_but_what_belongs_to_the_sample():
    line = real(
        "--cfg yolov4.cfg --rat=0.8 --imgsz 320 --epochs 3 --exclude 'a b' --exclude c* --floor 0.1 --seed 0 "
        "--data sample --name x --project p --save-every 1"
    )
    assert line.startswith(f"{SAID} ")
    made = prune.parser()
    given = vars(made.parse_args(shlex.split(line)[2:]))
    assert given == vars(made.parse_args([])) | {
        "cfg": "yolov4.cfg",
        "ratio": 0.8,
        "imgsz": 320,
        "retrain_epochs": 3,
        "exclude": ["a b", "c*"],
        "floor": 0.1,
        "seed": 0,
        "save_every": 1.0,
        "data": "coco.yaml",
        "data_root": "DIR",
        "weights": "yolov4.weights",
    }


def test_weights_that_were_given_stay():
    assert "--weights mine.weights" in real("--cfg yolov4 --ratio 0.8 --weights mine.weights")
    assert "--weights yolov4.weights" in real("--cfg yolov4 --ratio 0.8")
    line = real("--cfg yolov4 --ratio 0.8 --pretrained yolov4.conv.137")
    assert "--pretrained yolov4.conv.137" in line and "--weights" not in line


@pytest.mark.parametrize("sample", [True, False])
def test_it_is_the_very_last_line(tmp_path, monkeypatch, capsys, sample):
    monkeypatch.chdir(tmp_path)
    seen = {}

    def fake(model, **given):
        seen.update(given)
        return type("Result", (), {"text": "the table"})

    task = type("FakeTask", (), {"model": None, "name": "yolov4"})
    monkeypatch.setattr("detect_prune.cli.build.build_job", lambda args, world: Job(task, sample, "plain lines"))
    monkeypatch.setattr("detect_prune.engine.pipeline.prune", fake)
    monkeypatch.setattr("detect_prune.engine.pipeline.check", lambda task, **given: None)
    words = ["--cfg", "yolov4.cfg", "--ratio", "0.8", "--imgsz", "320", "--exclude", "a*"]
    ending = "-sample" if sample else ""
    expected = f"{SAID} --cfg yolov4.cfg --weights yolov4.weights --ratio 0.8 --data coco.yaml --data-root DIR"
    for resuming in (["--resume", f"runs/prune/yolov4-0.8{ending}"], words)[::-1]:
        assert prune.main(resuming) == 0
        last = capsys.readouterr().out.rstrip("\n").splitlines()[-1]
        assert seen["command"] == f"{SAID} {shlex.join(words)}"
        if sample:
            assert last.startswith(SAID) and set(expected.split()) < set(last.split())
            assert "--imgsz 320" in last and "--exclude 'a*'" in last and "--resume" not in last
        else:
            assert last == "the table"
