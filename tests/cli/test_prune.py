"""What prune.py says last after a run on the sample set: the same command for real data."""

import shlex
from dataclasses import replace

import pytest

from detect_prune.cli import prune
from detect_prune.cli.build import Job
from detect_prune.cli.pruning_options import chosen_options, read_layer_ratios
from detect_prune.engine.settings import Choice, Settings
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import find_method

SAID = "python prune.py"


def real(words):
    made = prune.build_parser()
    return prune.real_data_command(made, shlex.split(words))


def test_everything_typed_is_kept_but_what_belongs_to_the_sample():
    line = real(
        "--cfg yolov4.cfg --ratio=0.8 --imgsz 320 --epochs 3 --exclude 'a b' --exclude c* --floor 0.1 --seed 0 "
        "--data sample --name x --project p --save-every 1"
    )
    assert line.startswith(f"{SAID} ")
    made = prune.build_parser()
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


def test_a_network_of_one_s_own_has_no_official_weights_and_data():
    line = real("--cfg cfgs/mine.cfg --ratio 0.8 --dense-epochs 3")
    assert "--data FILE.yaml" in line and "--dense-epochs 3" in line
    assert "--weights" not in line and "--data-root" not in line


def test_each_layer_can_have_its_own_ratio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def fake(model, **given):
        seen.append(given["ratio"])
        return type("Result", (), {"text": "the table"})

    task = type("FakeTask", (), {"model": None, "name": "yolov4", "trained": True})
    monkeypatch.setattr("detect_prune.cli.build.build_job", lambda args, world: Job(task, False, "plain lines"))
    monkeypatch.setattr("detect_prune.engine.pipeline.prune", fake)

    def fake_check(task, settings):
        seen.append(settings.ratio)
        return Choice(find_method("admm-layerwise"), replace(settings, importance="raw", gradual=False), None)

    monkeypatch.setattr("detect_prune.engine.settings.check", fake_check)
    (tmp_path / "ratios.json").write_text('{"a.weight": 0.25, "b.weight": 0.5}')
    words = ["--cfg", "yolov4.cfg", "--method", "admm-layerwise", "--layer-ratios", "ratios.json"]
    assert prune.main(words) == 0
    assert prune.main(["--resume", "runs/prune/yolov4-admm-layerwise"]) == 0
    assert seen and all(ratio == {"a.weight": 0.25, "b.weight": 0.5} for ratio in seen)
    assert prune.main([*words, "--ratio", "0.8"]) == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{\n 1: 2}", r"r\.json: not valid JSON.*line 2"),
        ("[" * 100_000, "not valid JSON"),
        ("[0.5]", "an object such as"),
        ("{}", "an object such as"),
        ('{"a": 1}', "above 0 and below 1 was expected for a, not 1"),
        ('{"a": true}', "not True"),
        ('{"a": "0.5"}', "not '0.5'"),
        ('{"a": NaN}', "not nan"),
        ('{"a": 0.5, "b": 0.5, "a": 0.6}', "a is there twice"),
    ],
)
def test_what_is_no_ratio_for_each_layer_is_refused(tmp_path, text, match):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DetectPruneError, match=match):
        read_layer_ratios(tmp_path / "r.json")
    with pytest.raises(DetectPruneError, match="no such file"):
        read_layer_ratios(tmp_path / "none.json")


def test_of_two_patterns_of_bits_the_first_counts_and_the_order_stays():
    words = "--budget bytes --bits conv1.*=16 --bits conv*=8 --bits fc*=4.5 --bits conv1.*=2"
    options = chosen_options(prune.build_parser().parse_args(words.split()))
    assert options == {"budget": "bytes", "bits": {"conv1.*": 16, "conv*": 8, "fc*": 4.5}}
    assert list(options["bits"]) == ["conv1.*", "conv*", "fc*"]
    assert "--bits 'conv1.*=16' --bits 'conv*=8'" in real(f"--cfg yolov4 --ratio 0.8 {words}")


@pytest.mark.parametrize("text", ["conv1", "=8", "conv1=", "conv1=0", "conv1=-8", "conv1=nan", "conv1=inf", "c=8=x"])
def test_what_is_no_number_of_bits_is_refused(text, capsys):
    with pytest.raises(SystemExit) as stop:
        prune.main(["--cfg", "yolov4", "--ratio", "0.8", "--budget", "bytes", "--bits", text])
    assert stop.value.code == 2
    assert f"'{text}' is not a pattern of layers and a number of bits" in capsys.readouterr().err


@pytest.mark.parametrize("sample", [True, False])
def test_it_is_the_very_last_line(tmp_path, monkeypatch, capsys, sample):
    monkeypatch.chdir(tmp_path)
    seen = {}

    def fake(model, **given):
        seen.update(given)
        return type("Result", (), {"text": "the table"})

    task = type("FakeTask", (), {"model": None, "name": "yolov4", "trained": True})
    monkeypatch.setattr("detect_prune.cli.build.build_job", lambda args, world: Job(task, sample, "plain lines"))
    monkeypatch.setattr("detect_prune.engine.pipeline.prune", fake)
    choice = Choice(find_method("admm"), Settings(importance="taylor", gradual=True), None)
    monkeypatch.setattr("detect_prune.engine.settings.check", lambda task, settings: choice)
    words = ["--cfg", "yolov4.cfg", "--ratio", "0.8", "--imgsz", "320", "--exclude", "a*"]
    ending = "-sample" if sample else ""
    expected = f"{SAID} --cfg yolov4.cfg --weights yolov4.weights --ratio 0.8 --data coco.yaml --data-root DIR"
    for resuming in (["--resume", f"runs/prune/yolov4-0.8{ending}"], words)[::-1]:
        assert prune.main(resuming) == 0
        last = capsys.readouterr().out.rstrip("\n").splitlines()[-1]
        # Of a run that goes on the recipe is not asked again.
        assert (seen.pop("importance"), seen.pop("gradual")) == ("taylor", True)
        assert seen["command"] == f"{SAID} {shlex.join(words)}"
        if sample:
            assert last.startswith(SAID) and set(expected.split()) < set(last.split())
            assert "--imgsz 320" in last and "--exclude 'a*'" in last
            assert not any(name in last for name in ("--resume", "--importance", "gradual"))
        else:
            assert last == "the table"


def test_a_run_goes_on_with_the_options_that_it_was_begun_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = type("FakeTask", (), {"model": None, "name": "yolov4", "trained": True})
    monkeypatch.setattr("detect_prune.cli.build.build_job", lambda args, world: Job(task, False, "plain lines"))
    finished = type("Result", (), {"text": "the table"})
    monkeypatch.setattr("detect_prune.engine.pipeline.prune", lambda model, **given: finished)
    choice = Choice(find_method("admm"), Settings(importance="lamp", gradual=False), None)
    monkeypatch.setattr("detect_prune.engine.settings.check", lambda task, settings: choice)
    words = ["--cfg", "yolov4.cfg", "--method", "admm", "--ratio", "0.8", "--no-gradual"]
    assert prune.main(words) == 0
    assert prune.main(["--resume", "runs/prune/yolov4-admm-0.8", *words]) == 0


def test_official_weights_are_trained_already():
    line = prune.real_data_command(prune.build_parser(), shlex.split("--cfg yolov4 --ratio 0.8 --dense-epochs 3"))
    assert "--weights yolov4.weights" in line and "--dense-epochs" not in line


def test_each_option_of_how_to_prune_reaches_the_engine():
    words = "--method admm --importance raw --budget macs --pattern 1x4 --no-gradual --floor 0.1"
    words += " --include a* --exclude b*"
    assert chosen_options(prune.build_parser().parse_args(words.split())) == {
        "method": "admm",
        "importance": "raw",
        "budget": "macs",
        "pattern": "1x4",
        "gradual": False,
        "floor": 0.1,
        "include": ["a*"],
        "exclude": ["b*"],
    }
