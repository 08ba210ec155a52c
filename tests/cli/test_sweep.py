"""The sweep: which runs it makes of its options, and that none is made twice."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from held import held_elsewhere
from toy import ToyTask

from detect_prune.cli import prune, sweep, train
from detect_prune.cli.choices import KEEPING, METHODS, PRECISIONS
from detect_prune.cli.command import INTERRUPTED
from detect_prune.cli.grid import Grid, Point, parse_ratios
from detect_prune.cli.plan import PLAN, resume_plan, save_plan
from detect_prune.cli.pruning_options import chosen_options
from detect_prune.darknet import write_weights
from detect_prune.engine.names import SWEEP
from detect_prune.engine.settings import Settings, check
from detect_prune.engine.stop import Stopped
from detect_prune.errors import DetectPruneError
from detect_prune.tasks.detector import load


@pytest.mark.parametrize(("gpus", "devices"), [(0, ["cpu"]), (2, ["cuda:0", "cuda:1"])])
def test_there_are_as_many_runs_at_once_as_there_are_gpus(monkeypatch, gpus, devices):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert sweep._devices(None) == devices and sweep._devices("cpu") == ["cpu"]


def test_ratios_are_decimals():
    assert parse_ratios("0.1:0.9:0.1") == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"]
    assert parse_ratios("0.988,0.9920") == ["0.988", "0.992"]
    assert parse_ratios("0.5:0.62:0.05,0.9") == ["0.5", "0.55", "0.6", "0.9"]
    assert len(parse_ratios("0.0001:0.1:0.0001")) == 1000
    assert parse_ratios("0.1:0.9:1e9999999,0.5:0.5:1e-9999999") == ["0.1", "0.5"]
    for many in ("0.0001:0.1001:0.0001", "0.1:0.9:0.0000001", "0.1:0.9:1e-5000", "0.1:0.9:1e-9999999"):
        with pytest.raises(ValueError, match="at most 1,000"):
            parse_ratios(many)


@pytest.mark.parametrize(
    "words",
    [
        "--ratios 0.1:0.9",
        "--ratios 0:0.9:0.1",
        "--ratios 0.9:0.1:0.1",
        "--ratios 0.1:0.9:0",
        "--ratios 0.5,0.5",
        "--ratios 0.5,",
        "--ratios nan",
        "--methods admm,best",
        "--methods admm,admm",
        "--seeds 0,0",
        "--seeds -1",
        "--seeds a",
    ],
)
def test_lists_are_checked_when_they_are_parsed(words, capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.build_parser().parse_args(words.split())
    assert stop.value.code == 2 and words.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize("grows", [True, False])
def test_each_run_gets_what_the_sweep_was_given(grows):
    made = sweep.build_parser()
    given = (
        "--model lenet5 --ratios 0.5 --exclude a --exclude b --lr 0.1 --data-root D --distill 0 --name n --device cpu"
    )
    given += " --gradual" if grows else " --no-gradual"
    shared = sweep._shared(made.parse_args(given.split()), made)
    child = sweep._run_of(Point("admm", "0.988", 3), shared | {"weights": "w.pt"})
    args = vars(prune.build_parser().parse_args(child.words))
    assert child.name == "admm-0.988-s3" and child.command == "prune"
    wanted = {"model": "lenet5", "method": "admm", "ratio": 0.988, "seed": 3, "weights": "w.pt", "data_root": "D"}
    wanted |= {"exclude": ["a", "b"], "gradual": grows, "lr": 0.1, "distill": 0.0}
    assert args == vars(prune.build_parser().parse_args([])) | wanted


def test_what_could_only_fail_is_said_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.cfg").write_text(tiny.TINY_CFG)
    words = ["--cfg", "tiny.cfg", "--data", str(tiny.write_coco(tmp_path / "coco", pictures=4, classes=2))]
    monkeypatch.chdir(tmp_path)
    for wrong, said in (
        ("--ratios 0.5,0.9999", "smaller"),
        ("--ratios 0.5 --pattern 2:4", "--pattern 2:4 is a ratio itself"),
        ("--ratios 0.5 --methods gradual,magnitude --gradual", "no use for it in gradual, magnitude"),
        ("--ratios 0.5 --methods magnitude,dense-longer --importance lamp", "no use for it in magnitude, dense-longer"),
        ("--ratios 0.5 --methods gradual,lamp --importance taylor", "--importance taylor is given, and there is no"),
        ("--ratios 0.5 --methods admm-layerwise --floor 0.1", "--floor 0.1 is given, and there is no use for it"),
        ("--ratios 0.5 --methods gradual,magnitude --no-gradual", "--no-gradual is given, and there is no use for it"),
        ("--methods dense --epochs 3", "--epochs 3 is given, and there is no use for it in dense"),
        ("--methods dense-longer --ratios 0.5", "--ratios is given, and nothing is removed by dense-longer"),
        ("--methods dense-longer,admm", "--ratios is missing"),
        ("--pattern 2:4", "--pattern 2:4 is a ratio itself"),
    ):
        assert sweep.main([*words, "--workers", "0", *wrong.split()]) == 2
        assert said in capsys.readouterr().err
    assert prune.main([*words, "--workers", "0", "--ratio", "0.5", "--method", "gradual", "--no-gradual"]) == 2
    assert "--no-gradual is a choice of ADMM's" in capsys.readouterr().err
    assert train.main([*words, "--workers", "0", "--train-zeros"]) == 2
    assert "--train-zeros is for weights that were pruned" in capsys.readouterr().err
    assert prune.main([*words, "--workers", "0", "--ratio", "0.5", "--exclude", "nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_method_that_removes_nothing_gets_no_options_of_pruning():
    options = {"weights": "w.pt", "model": "lenet5", "pattern": "1x4", "floor": 0.1, "budget": "macs", "exclude": ["a"]}
    given = vars(prune.build_parser().parse_args(sweep._run_of(Point("dense-longer", None, 1), options).words))
    wanted = {"method": "dense-longer", "weights": "w.pt", "model": "lenet5", "exclude": ["a"], "seed": 1}
    assert given == vars(prune.build_parser().parse_args([])) | wanted


def test_each_method_gets_the_options_that_it_has_a_use_for():
    for importance in ("lamp", "taylor"):
        ranking = {"importance": importance}
        options = ranking | {"gradual": True, "floor": 0.1}
        for method, wanted in (
            ("admm", options),
            ("admm-layerwise", ranking | {"gradual": True}),
            ("gradual", {"floor": 0.1} | (ranking if importance == "lamp" else {})),
            ("magnitude", {"floor": 0.1}),
            ("dense-longer", {}),
        ):
            assert sweep._of_method(method, options) == wanted | {"method": method}


def test_a_sweep_of_all_methods_leaves_each_one_what_the_engine_takes_for_it():
    given = ["--model", "lenet5", "--ratios", "0.5", "--floor", "0.1", "--importance", "taylor", "--gradual"]
    made = sweep.build_parser()
    options = sweep._shared(made.parse_args(given), made)
    for method in METHODS:
        words = sweep._run_of(Point(method, None if method in KEEPING else "0.5", 0), options).words
        args = prune.build_parser().parse_args(words)
        check(ToyTask(), Settings(ratio=args.ratio, **chosen_options(args)))


def test_bits_are_handed_on():
    given = ["--model", "lenet5", "--ratios", "0.5", "--budget", "bytes", "--bits", "conv*=4", "--bits", "fc*=8"]
    made = sweep.build_parser()
    options = sweep._shared(made.parse_args(given), made)
    words = sweep._run_of(Point("admm", "0.5", 0), options).words
    assert chosen_options(prune.build_parser().parse_args(words))["bits"] == {"conv*": 4, "fc*": 8}


def test_what_is_held_out_is_held_out_of_every_run_and_stays_so(tmp_path):
    made = sweep.build_parser()
    args = made.parse_args(["--model", "lenet5", "--ratios", "0.5", "--hold-out", "90"])
    child = sweep._run_of(Point("admm", "0.5", 0), sweep._shared(args, made))
    assert prune.build_parser().parse_args(child.words).hold_out == 90
    assert train.build_parser().parse_args(sweep._dense_run(0, args).words).hold_out == 90
    save_plan(tmp_path, "sweep", args, [])
    plan = json.loads((tmp_path / PLAN).read_text())
    del plan["options"]["hold_out"]  # from before there was the option
    (tmp_path / PLAN).write_text(json.dumps(plan))
    args = made.parse_args(["--resume", str(tmp_path), "--hold-out", "90"])
    with pytest.raises(DetectPruneError, match="started without --hold-out, and --hold-out 90 was given"):
        resume_plan("sweep", made, args, tmp_path, finished=SWEEP)
    args = made.parse_args(["--resume", str(tmp_path)])
    resume_plan("sweep", made, args, tmp_path, finished=SWEEP)
    assert args.hold_out is None and args.ratios == "0.5"


def test_a_plan_that_does_not_say_what_the_sweep_found_is_damaged(tmp_path, capsys):
    save_plan(tmp_path, "sweep", sweep.build_parser().parse_args(["--model", "lenet5", "--ratios", "0.5"]), [])
    assert sweep.main(["--resume", str(tmp_path)]) == 2
    assert "plan.json: this plan of a run is damaged: train_dense is missing" in capsys.readouterr().err
    plan = json.loads((tmp_path / PLAN).read_text())
    plan["options"]["train_dense"] = True
    (tmp_path / PLAN).write_text(json.dumps(plan))
    assert sweep.main(["--resume", str(tmp_path)]) == 2
    assert "plan.json: this plan of a run is damaged: timed_precision is missing" in capsys.readouterr().err


def test_methods_that_remove_nothing_run_once_a_seed():
    points = list(Grid(["admm", "dense-longer"], ["0.5", "0.9"], [0, 1]).points())
    assert [(point.method, point.ratio, point.seed) for point in points[:3]] == [
        ("admm", "0.5", 0),
        ("admm", "0.9", 0),
        ("dense-longer", None, 0),
    ]
    assert len(points) == 6


@pytest.mark.parametrize("weights", [False, True])
def test_a_sweep_of_a_network_that_is_not_trained(tmp_path, monkeypatch, capsys, weights):
    (tmp_path / "tiny.cfg").write_text(tiny.TINY_CFG)
    data = tiny.write_coco(tmp_path / "coco", pictures=4, classes=3)
    monkeypatch.chdir(tmp_path)
    if weights:  # of two classes, so that the heads start at random
        (tmp_path / "weights").mkdir()
        write_weights(load("tiny.cfg"), "weights/tiny.weights")
    words = f"--cfg tiny.cfg --data {data} --ratios 0.5 --batch 2 --workers 0 --dense-epochs 1 --admm-epochs 1"
    assert sweep.main([*words.split(), "--epochs", "1", "--precision", "auto"]) == 0
    folder = tmp_path / "runs" / "sweep" / "tiny"
    (record,) = json.loads((folder / "sweep.json").read_text())
    assert (record["network"], record["method"], record["ratio"], record["seed"]) == ("tiny", "admm", 0.5, 0)
    assert record["n_kept"] == record["n_total"] - record["n_total"] // 2
    assert {"AP", "AP50", "dense_AP", "cut_AP", "seconds", "command", "epochs"} <= record.keys()
    for name in ("sweep.csv", "sweep.md", "accuracy.png", "accuracy.svg", "kept_per_layer.png", "kept_per_layer.svg"):
        assert (folder / name).stat().st_size > 0
    plans = [json.loads((folder / run / PLAN).read_text())["options"] for run in ("dense-s0", "admm-0.5-s0")]
    assert plans[0]["precision"] == plans[1]["precision"] and plans[0]["precision"] in PRECISIONS
    assert plans[1]["weights"] == str(Path("runs/sweep/tiny/dense-s0/trained.weights"))
    before = (folder / "admm-0.5-s0" / "metrics.json").stat().st_mtime_ns
    assert sweep.main(["--resume", str(folder), "--precision", "auto"]) == 0
    assert (folder / "admm-0.5-s0" / "metrics.json").stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert "admm" in said and said.count(f"to repeat it: --precision {plans[0]['precision']}") == 1


def test_the_dense_network_is_a_method_beside_its_own_training(tmp_path, monkeypatch):
    (tmp_path / "tiny.cfg").write_text(tiny.TINY_CFG)
    data = tiny.write_coco(tmp_path / "coco", pictures=4, classes=3)
    monkeypatch.chdir(tmp_path)
    words = f"--cfg tiny.cfg --data {data} --ratios 0.5 --methods dense,magnitude --batch 2 --workers 0"
    epochs = "--dense-epochs 1 --admm-epochs 1 --epochs 1 --precision fp32"
    assert sweep.main([*words.split(), *epochs.split()]) == 0
    records = json.loads((tmp_path / "runs" / "sweep" / "tiny" / "sweep.json").read_text())
    assert {(record["method"], record["ratio"]) for record in records} == {("dense", None), ("magnitude", 0.5)}
    assert records[0]["dense_AP"] == records[1]["dense_AP"]


def test_a_run_that_fails_leaves_a_gap_that_resume_fills(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.cfg").write_text(tiny.TINY_CFG)
    data = tiny.write_coco(tmp_path / "coco", pictures=4, classes=2)
    monkeypatch.chdir(tmp_path)
    write_weights(load("tiny.cfg"), "tiny.weights")
    words = f"--cfg tiny.cfg --data {data} --ratios 0.5,0.6 --methods magnitude --batch 2 --workers 0 --admm-epochs 1"
    finish_one = sweep.Runs._finish_one

    def broken(self, run, device, environment):
        if "0.5" in run.name:
            raise DetectPruneError("the run magnitude-0.5-s0 has failed")
        return finish_one(self, run, device, environment)

    monkeypatch.setattr(sweep.Runs, "_finish_one", broken)
    assert sweep.main([*words.split(), "--epochs", "1", "--precision", "fp32"]) == 2
    folder = tmp_path / "runs" / "sweep" / "tiny"
    said = capsys.readouterr()
    assert "60 %" in said.out and said.err == "error: the run magnitude-0.5-s0 has failed; --resume tries again\n"
    assert not (folder / "sweep.json").exists() and len((folder / "sweep.csv").read_text().splitlines()) == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert sweep.main(["--resume"]) == 0
    assert [record["ratio"] for record in json.loads((folder / "sweep.json").read_text())] == [0.5, 0.6]


def test_jobs_reach_the_runs_and_may_be_others_after_a_stop(tmp_path, monkeypatch):
    (tmp_path / "tiny.cfg").write_text(tiny.TINY_CFG)
    data = tiny.write_coco(tmp_path / "coco", pictures=4, classes=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "default_workers", lambda processes=1: 12 // processes)
    seen = []

    class Runs(sweep.Runs):
        def finish(self, runs):
            words = runs[0].words
            seen.append((self.devices, words[words.index("--workers") + 1], self.changed))
            raise Stopped(self.folder)

    monkeypatch.setattr(sweep, "Runs", Runs)
    words = ["--cfg", "tiny.cfg", "--data", str(data), "--ratios", "0.5,0.6,0.7", "--batch", "2", "--device", "cpu"]
    assert sweep.main([*words, "--jobs", "3"]) == INTERRUPTED
    assert sweep.main(["--resume", str(tmp_path / "runs" / "sweep" / "tiny"), "--jobs", "2"]) == INTERRUPTED
    again = ["--resume", str(tmp_path / "runs" / "sweep" / "tiny"), "--workers", "1", "--save-every", "2"]
    assert sweep.main([*again, "--eval-every", "3"]) == INTERRUPTED
    changed = ["--workers", "1", "--save-every", "2.0", "--eval-every", "3"]
    assert seen == [(["cpu"] * 3, "4", []), (["cpu"] * 2, "6", []), (["cpu"] * 3, "1", changed)]


def test_two_sweeps_do_not_work_in_one_folder(tmp_path, monkeypatch, capsys):
    pytest.importorskip("fcntl")
    (tmp_path / "tiny.cfg").write_text(tiny.TINY_CFG)
    data = tiny.write_coco(tmp_path / "coco", pictures=4, classes=3)
    monkeypatch.chdir(tmp_path)
    begun = []

    class Runs(sweep.Runs):
        def finish(self, runs):
            begun.append(runs)
            raise Stopped(self.folder)

    monkeypatch.setattr(sweep, "Runs", Runs)
    words = ["--cfg", "tiny.cfg", "--data", str(data), "--ratios", "0.5", "--batch", "2", "--device", "cpu"]
    assert sweep.main(words) == INTERRUPTED and len(begun) == 1
    with held_elsewhere(tmp_path / "runs" / "sweep" / "tiny"):
        assert sweep.main(["--resume"]) == 2
    assert "another process is at work" in capsys.readouterr().err and len(begun) == 1


def test_ratios_are_asked_for(capsys):
    assert sweep.main(["--model", "lenet5"]) == 2
    assert "--ratios is missing" in capsys.readouterr().err


def test_each_seed_has_a_dense_network_of_its_own():
    args = sweep.build_parser().parse_args(["--model", "lenet5", "--ratios", "0.5", "--seeds", "0,3"])
    for seed in (0, 3):
        run = sweep._dense_run(seed, args)
        assert run.name == f"dense-s{seed}" and train.build_parser().parse_args(run.words).seed == seed
