"""The whole story on a toy: exact counts, what is in the folder, and that stopping anywhere changes nothing."""

import json
import os
import signal

import pytest
import torch
from toy import ToyTask

from detect_prune.engine.checkpoint import load_checkpoint
from detect_prune.engine.pipeline import prune, train
from detect_prune.engine.precision import Precision
from detect_prune.engine.run import Stopped
from detect_prune.engine.task import NotFinite, Phase
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import Masks, prunable_weights

FP32 = Precision()


def run(folder, task=None, **options):
    task = task or ToyTask()
    defaults = {"ratio": 0.6, "train_dense": True, "precision": FP32}
    return prune(task.model, task=task, folder=folder, **(defaults | options))


class StopsItself(ToyTask):
    """Sends itself a signal while the loss of step `at` is computed."""

    def __init__(self, at, number=signal.SIGTERM):
        super().__init__()
        self.at, self.number = at, number

    def loss(self, model, batch):
        if self.asked + 1 == self.at:
            os.kill(os.getpid(), self.number)
        return super().loss(model, batch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "run")


def test_the_file_holds_exactly_the_weights_that_the_ratio_leaves(whole):
    stored = torch.load(whole.folder / "pruned.pt", weights_only=True)
    kept = sum(int(stored[name].count_nonzero()) for name in prunable_weights(whole.model))
    assert kept == 320 - 192
    assert [stage["kept"] for stage in whole.stages] == [320, 128, 128, 128]


def test_each_stage_is_measured_and_kept(whole):
    names = ["dense", "cut", "cut + batch norm re-estimated", "retrained"]
    metrics = json.loads((whole.folder / "metrics.json").read_text())
    assert [stage["name"] for stage in metrics["stages"]] == names
    for name in names:
        assert name in whole.text
    for stage in metrics["stages"]:
        assert stage["macs_nonzero"] == stage["kept"]  # one position a picture
        assert 0 < stage["bytes_zip"] < stage["bytes_stored"]
    for file in ("dense.pt", "best.pt", "last.pt", "history.png", "kept_per_layer.png", "index.html", "table.md"):
        assert (whole.folder / file).stat().st_size > 0
    assert list((whole.folder / "pictures").glob("*.jpg"))
    assert list(whole.folder.glob("events.out.tfevents.*"))


def test_the_cut_is_close_to_what_admm_converged_to(whole):
    updates = [record for record in json.loads((whole.folder / "metrics.json").read_text())["stages"]]
    history = load_checkpoint(whole.folder / "last.pt")["history"]
    residuals = [record["primal residual"] for record in history if "primal residual" in record]
    assert len(residuals) == 32 and residuals[-1] < 0.05
    assert updates[1]["metrics"]["top-1"] > 0.6


@pytest.mark.parametrize("at", [3, 64 + 5, 64 + 37, 128 + 10])
def test_a_run_that_is_stopped_and_resumed_ends_at_the_same_bits(tmp_path, whole, at):
    task = StopsItself(at)
    with pytest.raises(Stopped):
        run(tmp_path / "run", task)
    resumed = run(tmp_path / "run", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert [stage["metrics"] for stage in resumed.stages] == [stage["metrics"] for stage in whole.stages]


def test_a_finished_run_can_be_resumed_and_does_nothing(whole):
    assert run(whole.folder, resume=True).stages == whole.stages


def test_another_ratio_can_t_resume_a_run(whole):
    with pytest.raises(DetectPruneError, match="ratio"):
        run(whole.folder, resume=True, ratio=0.7)


def test_a_folder_with_a_run_is_not_overwritten(whole):
    with pytest.raises(DetectPruneError, match="already holds a run"):
        run(whole.folder)


def test_nan_stops_with_a_sentence_and_keeps_what_was_finished(tmp_path):
    with pytest.raises(NotFinite, match=r"nan in epoch 3, step 17 of 64.*--lr"):
        run(tmp_path / "run", ToyTask(poison_at=64 + 17))
    assert load_checkpoint(tmp_path / "run" / "last.pt")["done"] == ["dense", "score dense"]


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, float("nan")])
def test_a_ratio_outside_0_and_1_is_refused(tmp_path, ratio):
    with pytest.raises(DetectPruneError, match="removal ratio"):
        run(tmp_path / "run", ratio=ratio)


def test_training_a_pruned_network_keeps_its_zeros(tmp_path, whole):
    task = ToyTask()
    task.model.load_state_dict(whole.model.state_dict())
    masks = Masks.from_nonzero(task.model)
    recipe = task.recipe.with_options(dense={"epochs": 2})
    result = train(task.model, task=task, folder=tmp_path / "run", recipe=recipe, masks=masks, precision=FP32)
    for name, weight in prunable_weights(result.model).items():
        assert torch.equal(weight != 0, masks[name])
        assert not torch.equal(weight, prunable_weights(whole.model)[name])


def test_the_checkpoint_of_something_else_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(DetectPruneError, match=r"last\.pt: not a checkpoint"):
        run(tmp_path, resume=True)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "last.pt")
    with pytest.raises(DetectPruneError, match="not a checkpoint of this program"):
        run(tmp_path, resume=True)


def test_adamw_phases_work_as_well(tmp_path):
    adamw = ToyTask.recipe.with_options(
        dense={"optimizer": "adamw", "lr": 0.01, "epochs": 2},
        admm={"optimizer": "adamw", "lr": 0.01},
        retrain={"optimizer": "adamw", "lr": 0.01, "epochs": 2},
    )
    assert run(tmp_path / "run", recipe=adamw).stages[-1]["kept"] == 128


def test_a_phase_says_what_it_expects():
    with pytest.raises(ValueError, match="unknown optimizer"):
        from detect_prune.engine.trainer import build_optimizer

        build_optimizer(ToyTask().model, Phase(1, 0.1, "rmsprop"))
