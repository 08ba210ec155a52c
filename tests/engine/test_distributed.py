"""Two gloo processes do what one does with the same batches, stop together, and end when one of them can't go on."""

import math
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import TINY_CFG, write_coco
from torch import nn
from toy import ToyTask, toy_network

from detect_prune.engine import batchnorm
from detect_prune.pruning import prunable_weights
from detect_prune.tasks.detector import load

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")

SCRIPT = Path(__file__).with_name("distributed_run.py")
ROOT = Path(__file__).parents[2]
COMPARED = ("lenet", "detector", "norms", "frozen", "stopped", "drifted")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def side_by_side(folder, *jobs):
    """The script in two processes, as torchrun would start them; each one's (status, standard output and error)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in ("0", "1"):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = ENVIRONMENT | numbers | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(SCRIPT), str(folder), *jobs]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=environment, text=True, **pipes))
    try:
        said = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:  # one that waits for ever for the other does not outlive the test
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(started, said)]


def require_no_threads(folder):
    """Where gloo's are left, Python's end now and then aborts the process."""
    threads = [path.read_text() for path in folder.glob("threads-*")]
    assert len(threads) == 2 and not any("gloo" in names for names in threads), threads


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """job -> what process 0 of two, process 1 of two, and one process found."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "plain.cfg").write_text(TINY_CFG.replace("batch_normalize=1\n", ""))
    write_coco(folder / "squares", pictures=11)
    (folder / "squares/train/3.png").write_bytes(b"torn")
    both = side_by_side(folder, *COMPARED)
    assert [status for status, _, _ in both] == [0, 0], both
    assert "2 processes share each batch" in both[0][1] and both[1][1] == ""
    require_no_threads(folder)
    runpy.run_path(str(SCRIPT))["main"](folder, ["lenet", "detector", "norms", "frozen"])
    return {
        job: [torch.load(path, weights_only=True) for path in sorted(folder.glob(f"{job}-2-*.pt"))]
        + [torch.load(path, weights_only=True) for path in folder.glob(f"{job}-1-0.pt")]
        for job in COMPARED
    }


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def close(one, other):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)


def test_lenet_is_pruned_as_by_one_process(results):
    first, second, alone = results["lenet"]
    same(first["held"], second["held"])
    same(first["weights"], second["weights"])
    for name, value in alone["dense"].items():
        torch.testing.assert_close(first["dense"][name], value, rtol=0, atol=1e-6)
    removed = {name: value == 0 for name, value in alone["weights"].items() if value.dim() > 1}
    assert sum(int(mask.sum()) for mask in removed.values()) == 387_450
    agree = {name: (first["weights"][name] == 0) == mask for name, mask in removed.items()}
    # Where two weights are worth the same to the last bits, another order of summing may turn theirs.
    assert sum(int((~mask).sum()) for mask in agree.values()) <= 1e-4 * 430_500
    for name, value in alone["weights"].items():
        apart = (first["weights"][name] - value)[agree.get(name, slice(None))]
        assert apart.norm() < 2e-3 * value.norm(), name


def test_a_detector_is_trained_as_by_one_process(results):
    first, second, alone = results["detector"]
    same(first["weights"], second["weights"])
    close(first["weights"], alone["weights"])
    assert len(first["history"]) == 6
    for mine, theirs in zip(first["history"], alone["history"], strict=True):
        for figure in ("loss", "loss box", "loss objectness", "loss class", "lr"):
            assert mine[figure] == pytest.approx(theirs[figure], rel=1e-4), figure
    same(first["taught weights"], second["taught weights"])
    close(first["taught weights"], alone["taught weights"])
    assert len(first["taught"]) == 2 and all(step["distillation"] > 0 for step in first["taught"])
    for mine, theirs in zip(first["taught"], alone["taught"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_the_statistics_of_batch_norm_are_averaged(results):
    first, second, alone = (result["first"] for result in results["norms"])
    same(first["weights"], second["weights"])
    torch.testing.assert_close(first["weights"]["1.running_mean"], alone["weights"]["1.running_mean"])
    maps = toy_network()[0](ToyTask.points(1, 32)[0]).detach()
    expected = 0.9 + 0.1 * sum(half.var((0, 2, 3)) for half in maps.split(16)) / 2
    torch.testing.assert_close(first["weights"]["1.running_var"], expected)


def test_a_batch_that_one_process_can_t_read_is_left_out_where_there_is_batch_norm(results):
    first, second, _ = (result["torn"] for result in results["norms"])
    same(first["weights"], second["weights"])
    for losses in (first["losses"], second["losses"]):
        assert [math.isnan(loss) for loss in losses] == [number == 1 for number in range(8)]


def test_without_it_the_others_use_it_and_parameters_without_gradient_stay(results):
    first, second, alone = results["frozen"]
    same(first["weights"], second["weights"])
    assert first["losses"] == second["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    close(first["weights"], alone["weights"])
    for kind in ("masks", "pruned"):
        same(first[kind], second[kind])
    same(first["masks"], alone["masks"])
    close(first["pruned"], alone["pruned"])


def test_a_signal_to_one_process_stops_both_and_the_run_goes_on_to_the_same_bits(results):
    first, second = results["stopped"]
    assert first["stopped"] == second["stopped"] == 13
    for result in (first, second):
        same(result["straight"], result["resumed"])


def test_processes_that_have_drifted_apart_are_told(results):
    for sentence in results["drifted"]:
        assert "the weights of process 1 are not those of process 0" in sentence


def test_what_stands_in_for_batch_norm_on_gpus_shares_its_tensors_and_goes_again(monkeypatch):
    """Only a GPU can train with it; how it comes and goes, and that frozen it works anywhere, is seen here."""
    monkeypatch.setattr(batchnorm, "_on_gpu", lambda module: True)
    model = toy_network()
    modules, before = list(model.modules()), {name: id(value) for name, value in model.named_parameters()}
    points = ToyTask.points(0, 4)[0]
    expected = model.eval()(points)
    with batchnorm.synchronised(model, 2):
        assert [type(model[place]) for place in (1, 5)] == [nn.SyncBatchNorm] * 2
        assert list(model.state_dict()) == list(toy_network().state_dict())
        assert {name: id(value) for name, value in model.named_parameters()} == before
        assert torch.equal(model(points), expected)
        model[1].running_mean += 1
    assert list(model.modules()) == modules and torch.equal(model[1].running_mean, torch.ones(16))


def test_a_batch_norm_of_another_kind_keeps_its_ways_on_gpus(monkeypatch):
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    monkeypatch.setattr(batchnorm, "_on_gpu", lambda module: True)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), Frozen(2), nn.BatchNorm2d(2))
    with batchnorm.synchronised(model, 2):
        model.train()
        assert type(model[1]) is Frozen and not model[1].training and type(model[2]) is nn.SyncBatchNorm
    assert "only torch's own" in batchnorm.sharing_in_words(model, 2)


def test_processes_that_stop_together_leave_as_at_the_end_of_their_work(tmp_path):
    both = side_by_side(tmp_path, "asked_to_stop")
    assert [status for status, _, _ in both] == [130, 130], both
    assert sum("everything so far is in" in said for _, _, said in both) == 1
    require_no_threads(tmp_path)


@pytest.fixture
def under_torchrun(tmp_path):
    """Starts a job in the test's folder, which ends with the test. Its error output goes to a file, which never fills
    up as a pipe does that nobody reads."""
    jobs = []

    def start(*words):
        with open(tmp_path / f"said-{len(jobs)}", "w") as said:
            pipes = {"stdout": subprocess.PIPE, "stderr": said, "text": True, "cwd": tmp_path}
            jobs.append(subprocess.Popen([*TORCHRUN, *map(str, words)], env=ENVIRONMENT, **pipes))
        return jobs[-1]

    yield start
    # torchrun is asked, not killed: it ends its processes, which would go on without it.
    for job in jobs:
        job.terminate()
        job.wait(timeout=60)


def test_one_process_that_can_t_go_on_ends_the_job_with_its_sentence(tmp_path, under_torchrun):
    job = under_torchrun(SCRIPT, tmp_path, "broken")
    job.communicate(timeout=300)
    said = (tmp_path / "said-0").read_text()
    assert job.returncode != 0
    assert said.count("error: ") == 1 and "error: the disk of process 1 is full" in said


def test_a_command_that_is_killed_under_torchrun_goes_on_under_it(tmp_path, under_torchrun):
    (tmp_path / "tiny.cfg").write_text(TINY_CFG)
    write_coco(tmp_path / "squares")
    words = ["prune", "--cfg", "tiny.cfg", "--data", "squares/tiny.yaml", "--ratio", "0.5", "--name", "x"]
    words += ["--batch", "4", "--workers", "1", "--precision", "fp32", "--device", "cpu"]
    epochs = ["--dense-epochs", "100", "--admm-epochs", "15", "--epochs", "1"]
    job = under_torchrun("-m", "detect_prune", *words, *epochs)
    for line in job.stdout:
        if line.startswith("dense: "):
            break
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=300)
    said = (tmp_path / "said-0").read_text()
    assert job.returncode != 0
    assert said.count("everything so far is in") == said.count("prune --resume runs/prune/x") == 1, said
    unfinished = torch.load(tmp_path / "runs/prune/x/last.pt", weights_only=True)["unfinished"]
    assert 0 < unfinished["trainer"]["step"] < 200
    job = under_torchrun("-m", "detect_prune", "prune", "--resume", "runs/prune/x")
    printed, _ = job.communicate(timeout=300)
    assert job.returncode == 0, (tmp_path / "said-1").read_text()
    assert printed.count("everything is in runs/prune/x") == 1
    model = load(tmp_path / "runs/prune/x/pruned.cfg", tmp_path / "runs/prune/x/pruned.weights")
    assert sum(int(weight.count_nonzero()) for weight in prunable_weights(model).values()) == 812
