"""Stopping a run anywhere and going on changes nothing; and what can't go on is refused."""

import itertools
import json
import os
import shutil
import signal
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import FP32, StopsItself, ToyTask, run, same_bits

from detect_prune.engine import journal
from detect_prune.engine import run as run_module
from detect_prune.engine.checkpoint import load_checkpoint, save_checkpoint
from detect_prune.engine.machine import describe_machine
from detect_prune.engine.pipeline import train
from detect_prune.engine.precision import Precision
from detect_prune.engine.run import Run
from detect_prune.engine.stop import Stopped
from detect_prune.engine.task import Metrics
from detect_prune.engine.trainer import Trainer
from detect_prune.errors import DetectPruneError
from detect_prune.files import UNFINISHED
from detect_prune.pruning import Masks


@pytest.mark.parametrize("at", [3, 64, 64 + 5, 64 + 37, 128, 128 + 10])
def test_a_run_that_is_stopped_and_resumed_ends_at_the_same_bits(tmp_path, whole, at):
    task = StopsItself(at)
    with pytest.raises(Stopped):
        run(tmp_path / "run", task)
    same_bits(whole, run(tmp_path / "run", resume=True))


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


def test_a_worker_that_dies_of_ctrl_c_is_a_stop(tmp_path, whole):
    """As where it can't be kept from hearing of it: on Windows, or while it is still being started."""

    class Dies(ToyTask):
        def batches(self, epoch, start):
            for number, batch in enumerate(super().batches(epoch, start), start):
                if (epoch, number) == (2, 3) and self.asked > 64:
                    os.kill(os.getpid(), signal.SIGINT)
                    raise RuntimeError("DataLoader worker (pid(s) 77) exited unexpectedly")
                yield batch

    with pytest.raises(Stopped):
        run(tmp_path / "run", Dies())
    assert load_checkpoint(tmp_path / "run" / "last.pt")["unfinished"]["trainer"]["step"] == 2 * 8 + 3
    same_bits(whole, run(tmp_path / "run", resume=True))


def test_a_worker_whose_death_is_told_in_a_step_leaves_the_last_checkpoint(tmp_path, whole):
    """torch tells of it by a signal, in the middle of anything: the state is torn then."""

    class Dies(ToyTask):
        def loss(self, model, batch):
            if self.asked == 64 + 20:
                model[1].running_mean.add_(1)
                os.kill(os.getpid(), signal.SIGTERM)
                raise RuntimeError("DataLoader worker (pid 77) is killed by signal: Terminated.")
            return super().loss(model, batch)

    with pytest.raises(Stopped, match="the last checkpoint is in"):
        run(tmp_path / "run", Dies())
    assert load_checkpoint(tmp_path / "run" / "last.pt")["unfinished"] is None
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


def test_a_finished_run_can_be_resumed_and_does_nothing(whole, monkeypatch):
    before = (whole.folder / "metrics.json").read_text()
    assert "not read: torn.png" in before
    monkeypatch.setattr(Run, "elapsed", lambda self: 1e6)
    assert run(whole.folder, resume=True, command="another").stages == whole.stages
    assert (whole.folder / "metrics.json").read_text() == before


@pytest.fixture
def purged(monkeypatch):
    """From which step on each run that begins in the test has TensorBoard forget."""
    steps, writer = [], journal.EventWriter
    monkeypatch.setattr(
        journal, "EventWriter", lambda folder, purge_step: steps.append(purge_step) or writer(folder, purge_step)
    )
    return steps


def test_a_run_that_dies_at_once_keeps_the_precision_it_chose(tmp_path, monkeypatch, purged):
    class PowerCut(ToyTask):
        def loss(self, model, batch):
            if self.asked == 5:
                raise RuntimeError("power cut")
            return super().loss(model, batch)

    chosen = iter(["fp32", "bf16"])
    monkeypatch.setattr(run_module, "choose_precision", lambda task: (next(chosen), {"fp32": 1.0}))
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run", PowerCut(), precision=None)
    resumed = run(tmp_path / "run", precision=None, resume=True)
    assert purged == [None, 0], "its steps and its first score are logged again"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["precision"] == "float32"
    same_bits(run(tmp_path / "straight"), resumed)


def test_resuming_needs_a_folder_and_says_where_it_begins_again(tmp_path, capsys):
    with pytest.raises(DetectPruneError, match="no such folder"):
        run(tmp_path / "nowhere", resume=True)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(Stopped):
        run(tmp_path / "empty", StopsItself(3), resume=True)
    assert "begins again" in capsys.readouterr().out


def test_a_resumed_run_purges_what_it_writes_again_and_no_more(tmp_path, purged):
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


def edited_recipe(folder, edit):
    state = load_checkpoint(folder / "last.pt")
    for phase in ("dense", "admm", "retrain"):
        edit(state["identity"]["recipe"][phase])
    save_checkpoint(folder / "last.pt", state)


def test_a_run_from_before_a_field_of_the_recipe_goes_on(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(70))
    edited_recipe(tmp_path / "run", lambda phase: phase.pop("dropout"))
    with pytest.raises(DetectPruneError, match=r"\(recipe: admm: dropout\)"):
        run(tmp_path / "run", resume=True, recipe=ToyTask.recipe.with_options(admm={"dropout": 0.2}))
    run(tmp_path / "run", resume=True)


def test_a_recipe_with_a_field_that_is_not_known_is_another_recipe(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(3))
    edited_recipe(tmp_path / "run", lambda phase: phase.update(invented=1))
    said = r"\(recipe: admm: invented, recipe: dense: invented, recipe: retrain: invented\)"
    with pytest.raises(DetectPruneError, match=said):
        run(tmp_path / "run", resume=True)


def test_another_ratio_can_t_resume_a_run(whole):
    with pytest.raises(DetectPruneError, match=r"\(ratio\)"):
        run(whole.folder, resume=True, ratio=0.7)


def test_the_settings_that_differ_are_named(tmp_path):
    class Told(ToyTask):
        digest = "8c736521"

        def settings(self):
            return super().settings() | {"cfg digest": self.digest}

    class Stops(Told, StopsItself):
        pass

    with pytest.raises(Stopped):
        run(tmp_path / "run", Stops(3))
    edited = Told()
    edited.digest = "1c736521"
    recipe = ToyTask.recipe.with_options(admm={"lr": 0.3})
    with pytest.raises(DetectPruneError, match=r"other settings \(data: cfg digest, recipe: admm: lr\)"):
        run(tmp_path / "run", edited, resume=True, recipe=recipe)


def test_a_run_from_before_a_setting_was_told_goes_on(tmp_path):
    class Told(ToyTask):
        def settings(self):
            return super().settings() | {"cfg digest": "8c736521"}

    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(3))
    run(tmp_path / "run", Told(), resume=True)


def test_what_a_kill_left_half_written_is_gone_when_the_run_goes_on(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(3))
    left = tmp_path / "run" / f"{UNFINISHED}last-x1y2.pt"
    left.touch()
    run(tmp_path / "run", resume=True)
    assert not left.exists()


@pytest.mark.parametrize("name", ["threads", "torch", "opencv", "processor", "gpu"])
def test_a_run_that_goes_on_with_other_arithmetic_says_so(tmp_path, monkeypatch, capsys, name):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(3))
    monkeypatch.setattr(run_module, "describe_machine", lambda device: describe_machine(device) | {name: "77"})
    run(tmp_path / "run", resume=True)
    said = capsys.readouterr().out
    assert said.count("and goes on with") == 1 and f"and goes on with {name} 77: " in said
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["machine"].get(name) != "77"
    run(tmp_path / "run", resume=True)  # a finished one computes nothing more
    assert "goes on with" not in capsys.readouterr().out


def test_a_log_that_can_t_be_closed_hides_neither_the_stop_nor_the_handlers(tmp_path, monkeypatch):
    def full(writer):
        raise DetectPruneError("TensorBoard's events can't be written")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(journal.EventWriter, "close", full)
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(3))
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(DetectPruneError, match="events can't be written"):
        run(tmp_path / "run", resume=True)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_folder_with_a_run_is_not_overwritten(whole):
    with pytest.raises(DetectPruneError, match="already holds a run"):
        run(whole.folder)


def test_the_best_weights_are_no_run_to_go_on_with(tmp_path, whole):
    shutil.copytree(whole.folder, tmp_path / "run")
    shutil.copy(tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt")
    with pytest.raises(DetectPruneError, match=r"last\.pt: .* as best\.pt has them, .* \(--weights\)"):
        run(tmp_path / "run", resume=True)


def test_a_checkpoint_that_lacks_anything_is_one_sentence(tmp_path, whole):
    shutil.copytree(whole.folder, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    for name in saved.keys() - {"format", "losses"}:
        save_checkpoint(tmp_path / "run" / "last.pt", {key: value for key, value in saved.items() if key != name})
        with pytest.raises(DetectPruneError, match=rf"last\.pt: this is no state of a run, for it has no '{name}'"):
            run(tmp_path / "run", resume=True)


def test_a_run_from_before_losses_were_kept_goes_on(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(at=100))
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    assert saved.pop("losses")
    save_checkpoint(tmp_path / "run" / "last.pt", saved)
    run(tmp_path / "run", resume=True)
    assert "retrain" in json.loads((tmp_path / "run" / "metrics.json").read_text())["training loss"]


def test_the_checkpoint_of_something_else_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(DetectPruneError, match=r"last\.pt: not a checkpoint"):
        run(tmp_path, resume=True)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "last.pt")
    with pytest.raises(DetectPruneError, match="not a checkpoint of this program"):
        run(tmp_path, resume=True)


@pytest.mark.filterwarnings("error:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_is_damaged_in_a_checkpoint_is_one_sentence(tmp_path, zipped):
    """In old files, which are no zip, as the published weights of the ResNets are, a value may be another one then,
    which no reader could tell."""
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"done": ["dense", "cut"], "model": {"weight": torch.arange(6.0)}, "seconds": 1.5})
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=zipped)
    whole, read = file.read_bytes(), 0
    generator = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), generator.integers(1, 4)):
            damaged[place] = generator.integers(0, 256)
        file.write_bytes(damaged[: generator.integers(len(whole) // 2, 2 * len(whole))])
        try:
            found = load_checkpoint(file)
            read += 1
            if zipped:
                assert found["done"] == ["dense", "cut"] and found["seconds"] == 1.5
                assert torch.equal(found["model"]["weight"], torch.arange(6.0))
        except DetectPruneError as error:
            assert str(file) in str(error)
    assert 0 < read < 400
    file.unlink()
    file.mkdir()
    with pytest.raises(DetectPruneError, match="this is a folder; a checkpoint of a run was expected here"):
        load_checkpoint(file)


def test_a_decimal_ratio_is_kept_and_resumed(tmp_path, whole):
    decimal = run(tmp_path / "run", ratio=Decimal("0.6"))
    same_bits(whole, decimal)
    same_bits(whole, run(tmp_path / "run", ratio=0.6, resume=True))


def test_another_precision_than_that_of_the_run_is_refused(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(5))
    with pytest.raises(DetectPruneError, match="started in float32, not in bf16 autocast"):
        run(tmp_path / "run", precision=Precision(bf16=True), resume=True)


def test_gradual_may_stop_after_its_last_update(tmp_path):
    """What that update found is told after the cut, when the run goes on."""
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1}, admm={"epochs": 4}, retrain={"epochs": 1})
    with pytest.raises(Stopped):
        run(tmp_path / "run", StopsItself(8 + 32), method="gradual", recipe=recipe)
    assert run(tmp_path / "run", method="gradual", recipe=recipe, resume=True).stages[-1]["kept"] == 128


@pytest.fixture
def clock(monkeypatch):
    """A second passes whenever somebody asks."""
    ticks = itertools.count()
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    return ticks


def test_a_checkpoint_is_written_so_many_seconds_after_the_last(tmp_path, monkeypatch, clock):
    saved, save = [], Run._save_phase

    def watched(run, trainer, pruner):
        saved.append(trainer.step)
        save(run, trainer, pruner)

    monkeypatch.setattr(Run, "_save_phase", watched)
    recipe = ToyTask.recipe.with_options(dense={"epochs": 4})
    run(tmp_path / "run", method="dense", ratio=None, recipe=recipe, save_every=8)
    assert len(saved) > 1 and all(later - earlier > 4 for earlier, later in itertools.pairwise(saved))


def test_no_second_of_work_is_counted_twice(tmp_path, clock):
    recipe = ToyTask.recipe.with_options(dense={"epochs": 1})
    run(tmp_path / "run", method="dense", ratio=None, recipe=recipe, save_every=0)
    assert 0 < json.loads((tmp_path / "run" / "metrics.json").read_text())["seconds"] <= next(clock)
