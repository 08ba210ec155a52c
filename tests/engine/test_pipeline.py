"""The whole story on a toy: exact counts, what is in the folder, and that stopping anywhere changes nothing."""

import json
import os
import signal
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy import ToyTask

from detect_prune.engine import pipeline
from detect_prune.engine import run as run_module
from detect_prune.engine.checkpoint import load_checkpoint, save_checkpoint
from detect_prune.engine.pipeline import prune, train
from detect_prune.engine.precision import Precision
from detect_prune.engine.run import Run, Stopped
from detect_prune.engine.task import Metrics, NotFinite, Phase
from detect_prune.engine.trainer import Trainer
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import Masks, make_pruner, prunable_weights

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


class Frozen(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


@pytest.mark.parametrize("instead", [nn.Identity(), Frozen(16)])
def test_a_network_whose_statistics_stay_has_no_row_for_them(tmp_path, instead):
    task = ToyTask()
    task.model = nn.Sequential(*(deepcopy(instead) if isinstance(m, nn.BatchNorm2d) else m for m in task.model))
    result = run(tmp_path / "run", task)
    assert [stage["name"] for stage in result.stages] == ["dense", "cut", "retrained"]


def test_the_cut_is_close_to_what_admm_converged_to(whole):
    updates = [record for record in json.loads((whole.folder / "metrics.json").read_text())["stages"]]
    history = load_checkpoint(whole.folder / "last.pt")["history"]
    residuals = [record["primal residual"] for record in history if "primal residual" in record]
    assert len(residuals) == 32 and residuals[-1] < 0.05
    assert updates[1]["metrics"]["top-1"] > 0.6


def test_every_update_is_logged_layer_by_layer(whole):
    events = EventAccumulator(str(whole.folder))
    events.Reload()
    for layer in prunable_weights(whole.model):
        series = {
            figure: events.Scalars(f"{figure}/{layer}") for figure in ("kept", "primal residual", "dual residual")
        }
        assert all([event.step for event in each] == list(range(66, 129, 2)) for each in series.values())
        last = json.loads((whole.folder / "metrics.json").read_text())["before the cut"]
        assert series["primal residual"][-1].value == pytest.approx(last["primal"][layer])
        assert series["dual residual"][-1].value == pytest.approx(last["dual"][layer])
        assert series["kept"][-1].value == pytest.approx(last["kept"][layer])


@pytest.mark.parametrize("at", [3, 64, 64 + 5, 64 + 37, 128, 128 + 10])
def test_a_run_that_is_stopped_and_resumed_ends_at_the_same_bits(tmp_path, whole, at):
    task = StopsItself(at)
    with pytest.raises(Stopped):
        run(tmp_path / "run", task)
    resumed = run(tmp_path / "run", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert [stage["metrics"] for stage in resumed.stages] == [stage["metrics"] for stage in whole.stages]


def same_bits(one, other):
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert [stage["metrics"] for stage in one.stages] == [stage["metrics"] for stage in other.stages]


def test_a_signal_after_the_last_step_stops_after_its_stage(tmp_path, whole, monkeypatch):
    finish = Trainer.finish

    def late(trainer):
        finish(trainer)
        if trainer.pruner is not None and trainer.step == trainer.total:
            current[0].stop.requested = True  # what a signal between the last look at it and here leaves

    current = []
    monkeypatch.setattr(Trainer, "finish", late)
    monkeypatch.setattr(Run, "__enter__", lambda self: current.append(self) or self)
    with pytest.raises(Stopped):
        run(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["done"] == ["dense", "score dense", "cut"]
    monkeypatch.undo()
    same_bits(whole, run(tmp_path / "run", resume=True))


@pytest.mark.parametrize("importance", ["fisher", "fisher-layer"])
def test_what_fisher_has_seen_survives_a_stop_at_the_end_of_admm(tmp_path, importance):
    recipe = ToyTask.recipe.with_options(dense={"epochs": 2}, admm={"epochs": 2}, retrain={"epochs": 1})
    options = {"recipe": recipe, "importance": importance}
    straight = run(tmp_path / "straight", **options)
    with pytest.raises(Stopped):
        # 2 epochs of ADMM are made 4 for the sake of its updates: 32 steps of 8 batches an epoch.
        run(tmp_path / "run", StopsItself(16 + 32), **options)
    unfinished = load_checkpoint(tmp_path / "run" / "last.pt")["unfinished"]
    assert unfinished["trainer"]["step"] == 32 and unfinished["pruner"]["importance"]["mean"]
    same_bits(straight, run(tmp_path / "run", resume=True, **options))


def test_a_crash_without_any_handler_loses_the_steps_since_the_last_checkpoint_and_nothing_else(tmp_path, whole):
    class Crashes(ToyTask):
        def loss(self, model, batch):
            if self.asked == 64 + 20:
                raise RuntimeError("the power went off")
            return super().loss(model, batch)

    with pytest.raises(RuntimeError, match="power"):
        run(tmp_path / "run", Crashes(), save_every=0)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["unfinished"]["trainer"]["step"] == 20
    same_bits(whole, run(tmp_path / "run", resume=True))


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_stop_between_the_phases_changes_nothing(tmp_path, whole, stage):
    class Interrupted(ToyTask):
        def save(self, model, folder, stem):  # once a scored stage
            self.saved = getattr(self, "saved", 0) + 1
            if self.saved == stage:
                os.kill(os.getpid(), signal.SIGINT)
            return super().save(model, folder, stem)

    with pytest.raises(Stopped):
        run(tmp_path / "run", Interrupted())
    same_bits(whole, run(tmp_path / "run", resume=True))


@pytest.mark.parametrize("at", [5, 16 + 9, 16 + 32 + 3])
def test_adamw_with_an_average_and_clipping_resumes_to_the_same_bits(tmp_path, at):
    adamw = {"optimizer": "adamw", "lr": 0.01, "epochs": 2, "clip": 1.0, "ema": 0.9}
    recipe = ToyTask.recipe.with_options(dense=adamw, admm=adamw, retrain=adamw)
    straight = run(tmp_path / "straight", recipe=recipe)
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(at), recipe=recipe)
    same_bits(straight, run(tmp_path / "run", recipe=recipe, resume=True))


def test_training_with_masks_resumes_to_the_same_bits(tmp_path, whole):
    def go_on(folder, task, resume=False):
        task.model.load_state_dict(whole.model.state_dict())
        masks = Masks.from_nonzero(task.model)
        recipe = task.recipe.with_options(dense={"epochs": 2})
        return train(task.model, task=task, folder=folder, recipe=recipe, masks=masks, precision=FP32, resume=resume)

    straight = go_on(tmp_path / "straight", ToyTask())
    with pytest.raises(Stopped):
        go_on(tmp_path / "run", StopsItself(11))
    resumed = go_on(tmp_path / "run", ToyTask(), resume=True)
    same_bits(straight, resumed)
    assert resumed.stages[-1]["kept"] == 128


def test_a_small_set_gets_enough_epochs_for_thirty_updates(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(pipeline, "make_pruner", lambda *a, **k: made.append(make_pruner(*a, **k)) or made[-1])
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1}, admm={"epochs": 1}, retrain={"epochs": 1})
    result = run(tmp_path / "run", recipe=replace(recipe, updates=40))
    # 8 batches an epoch: 4 epochs are the first that have 30 steps, and the schedules end with the last step.
    assert made[0].updates == made[0].done == 32
    assert json.loads((result.folder / "metrics.json").read_text())["recipe"]["admm"]["epochs"] == 4


def test_a_recipe_that_has_enough_steps_stays_as_it_is():
    recipe = replace(ToyTask.recipe, updates=40)
    assert recipe.for_set(4) is recipe  # 8 epochs of 4 steps
    assert recipe.for_set(1).admm.epochs == 30 and recipe.for_set(1).retrain == recipe.retrain
    assert replace(recipe, updates=5).for_set(1).admm.epochs == 8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"importance": "magic"}, "no importance is called 'magic'"),
        ({"floor": 1.5}, "between 0 and 1, not 1.5"),
        ({"exclude": ["head.*"]}, "'head.*' matches no"),
        ({"include": ["backbone.*"]}, "'backbone.*' matches no"),
        ({"ratio": 0.995}, "keeps at least one weight"),
    ],
)
def test_what_can_t_work_is_said_before_anything_is_written(tmp_path, options, match):
    task = ToyTask()
    with pytest.raises(DetectPruneError, match=match):
        run(tmp_path / "run", task, **options)
    assert not (tmp_path / "run").exists() and task.asked == 0


def test_a_network_that_can_t_be_counted_is_not_trained(tmp_path):
    task = ToyTask()
    nn.utils.parametrizations.weight_norm(task.model[8])
    for start in (lambda: run(tmp_path / "run", task), lambda: train(task.model, task=task, folder=tmp_path / "run")):
        with pytest.raises(DetectPruneError, match=r"8\.weight is computed from other parameters"):
            start()
    assert not (tmp_path / "run").exists() and task.asked == 0


def test_weights_that_diverge_in_admm_are_not_finite(tmp_path, monkeypatch):
    def step(trainer, *arguments):
        value = descend(trainer, *arguments)
        if trainer.pruner is not None and trainer.step == 11:
            trainer.model[0].weight.data[0] = float("nan")
        return value

    descend = Trainer._descend
    monkeypatch.setattr(Trainer, "_descend", step)
    with pytest.raises(NotFinite, match=r"0\.weight are not finite.*epoch 2, step 12 of 64.*smaller --lr"):
        run(tmp_path / "run")


def test_an_infinite_gradient_in_admm_is_not_finite(tmp_path, monkeypatch):
    class Steep(ToyTask):
        def loss(self, model, batch):
            loss, parts = super().loss(model, batch)
            # A square root has an infinite slope at 0, and 0 is a finite loss.
            return loss + (model[0].weight.sum() * 0).abs().sqrt(), parts

    with pytest.raises(NotFinite, match=r"gradient is not finite.*smaller --lr"):
        run(tmp_path / "run", Steep(), train_dense=False, recipe=replace(ToyTask.recipe, updates=64))


def test_updates_wait_for_the_first_pictures_that_can_be_read(tmp_path):
    class Unreadable(ToyTask):
        def batches(self, epoch, start):
            for number, batch in enumerate(super().batches(epoch, start), start):
                yield None if (epoch, number) < (0, 2) else batch

    recipe = ToyTask.recipe.with_options(admm={"epochs": 5})
    result = run(tmp_path / "run", Unreadable(), train_dense=False, recipe=replace(recipe, updates=40))
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["before the cut"]["update"] == 38, "the two that fell into steps without pictures are left out"


def test_excluded_layers_are_not_counted(tmp_path):
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1}, admm={"epochs": 1}, retrain={"epochs": 1})
    result = run(tmp_path / "run", recipe=recipe, exclude=["8"], ratio=0.5)
    assert [(stage["kept"], stage["total"]) for stage in result.stages] == [(288, 288)] + [(144, 288)] * 3
    layers = json.loads((result.folder / "metrics.json").read_text())["layers"]
    assert [layer["layer"] for layer in layers] == ["0.weight", "4.weight"]


def test_a_finished_run_can_be_resumed_and_does_nothing(whole, monkeypatch):
    before = (whole.folder / "metrics.json").read_text()
    assert "not read: torn.png" in before
    monkeypatch.setattr(Run, "elapsed", lambda self: 1e6)
    assert run(whole.folder, resume=True, command="another").stages == whole.stages
    assert (whole.folder / "metrics.json").read_text() == before


def test_the_record_says_on_what_and_how_the_run_was_made(tmp_path):
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1})
    task = ToyTask()
    train(task.model, task=task, folder=tmp_path / "run", recipe=recipe, precision=FP32, command="train.py --toy")
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["command"] == "train.py --toy" and record["machine"]["torch"] == torch.__version__


def test_resuming_needs_a_folder_and_says_where_it_begins_again(tmp_path, capsys):
    with pytest.raises(DetectPruneError, match="no such folder"):
        run(tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(Stopped):
        run(tmp_path / "empty", StopsItself(3), resume=True)
    assert "begins again" in capsys.readouterr().out


def test_a_resumed_run_purges_what_it_writes_again_and_no_more(tmp_path, monkeypatch):
    purged = []
    writer = run_module.EventWriter
    monkeypatch.setattr(
        run_module, "EventWriter", lambda folder, purge_step: purged.append(purge_step) or writer(folder, purge_step)
    )
    for at, resume in ((5, False), (3, True)):
        with pytest.raises(Stopped):
            run(tmp_path / "run", StopsItself(at), resume=resume)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Stopped):
        run(tmp_path / "empty", StopsItself(1), resume=True)
    assert purged == [None, 6, 0]


def test_numbers_of_numpy_are_numbers(tmp_path, whole):
    class Numpy(ToyTask):
        recipe = ToyTask.recipe.with_options(admm={"lr": np.float64(0.02), "epochs": np.int64(8)})

        def evaluate(self, model):
            return Metrics({name: np.float64(value) for name, value in super().evaluate(model).values.items()}, "top-1")

        def settings(self):
            return super().settings() | {"mean": (np.float32(0.5), [np.int64(1)])}

    class Stops(Numpy, StopsItself):
        pass

    numbers = {"ratio": np.float64(0.6), "seed": np.int64(0), "floor": np.float32(0.05)}
    with pytest.raises(Stopped):
        run(tmp_path / "run", Stops(64 + 5), **numbers)
    same_bits(whole, run(tmp_path / "run", Numpy(), resume=True, **numbers))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["settings"]["data"]["mean"] == [0.5, [1]]


def test_fisher_says_which_layer_has_no_gradient(tmp_path):
    task = ToyTask()
    task.model.register_module("unused", nn.Linear(3, 3))
    task.model.forward = lambda points: nn.Sequential(*list(task.model)[:-1])(points)
    with pytest.raises(DetectPruneError, match=r"unused\.weight is measured from gradients.* excluded, in a new run"):
        run(tmp_path / "run", task, importance="fisher")


def edited_recipe(folder, edit):
    state = load_checkpoint(folder / "last.pt")
    for phase in ("dense", "admm", "retrain"):
        edit(state["identity"]["recipe"][phase])
    save_checkpoint(folder / "last.pt", state)


def test_a_run_from_before_a_field_of_the_recipe_goes_on(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(70))
    edited_recipe(tmp_path / "run", lambda phase: phase.pop("dropout"))
    with pytest.raises(DetectPruneError, match="recipe"):
        run(tmp_path / "run", resume=True, recipe=ToyTask.recipe.with_options(admm={"dropout": 0.2}))
    run(tmp_path / "run", resume=True)


def test_a_recipe_with_a_field_that_is_not_known_is_another_recipe(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(3))
    edited_recipe(tmp_path / "run", lambda phase: phase.update(invented=1))
    with pytest.raises(DetectPruneError, match="recipe"):
        run(tmp_path / "run", resume=True)


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
    recipe = task.recipe.with_options(dense={"epochs": 2, "dropout": 0.5}, retrain={"dropout": 0.2})
    seen = set()
    task.model[3].register_forward_pre_hook(lambda module, _: seen.add(module.p if module.training else None))
    result = train(task.model, task=task, folder=tmp_path / "run", recipe=recipe, masks=masks, precision=FP32)
    assert seen == {None, 0.2}
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


def test_a_decimal_ratio_is_kept_and_resumed(tmp_path, whole):
    decimal = run(tmp_path / "run", ratio=Decimal("0.6"))
    same_bits(whole, decimal)
    same_bits(whole, run(tmp_path / "run", ratio=0.6, resume=True))


def test_another_precision_than_that_of_the_run_is_refused(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(5))
    with pytest.raises(DetectPruneError, match="started in float32, not in bf16 autocast"):
        run(tmp_path / "run", precision=Precision(bf16=True), resume=True)


def test_a_text_where_a_list_of_patterns_belongs_is_refused(tmp_path):
    with pytest.raises(DetectPruneError, match="a list of patterns"):
        run(tmp_path / "run", exclude="0")
    assert not (tmp_path / "run").exists()
