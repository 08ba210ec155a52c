"""The engine's small parts against arithmetic done by hand."""

import gc
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import partial
from itertools import pairwise

import cv2
import pytest
import torch
from torch import nn
from toy import ToyTask, toy_network

from detect_prune import prune, train
from detect_prune.engine import stop as stop_module
from detect_prune.engine.batchnorm import can_reestimate, reestimate
from detect_prune.engine.ema import MovingAverage
from detect_prune.engine.machine import describe_machine, in_words
from detect_prune.engine.precision import PRECISIONS, choose_precision
from detect_prune.engine.recipe import Phase
from detect_prune.engine.stop import StopSignal
from detect_prune.engine.trainer import Trainer, learning_rate
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import GlobalADMM, GlobalBudget, GradualMagnitude, magnitude_masks


def test_learning_rate_warms_up_peaks_and_ends_where_it_should():
    phase = Phase(1, 0.1, warmup=0.1, final_lr=0.02)
    rates = [learning_rate(phase, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.01) and rates[9] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(0.1) and rates[-1] == pytest.approx(0.002)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert learning_rate(phase, 0, 1) == pytest.approx(0.1)


def test_reestimated_statistics_are_those_of_all_the_inputs_together():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    batches = [torch.randn(6, 3, 5, 5) * (i + 1) for i in range(4)]
    reestimate(model, batches)
    with torch.no_grad():
        maps = [model[0](batch) for batch in batches]
    means = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variances = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    assert torch.allclose(model[1].running_mean, means, atol=1e-5)
    assert torch.allclose(model[1].running_var, variances, rtol=1e-4)
    assert model[1].momentum == 0.1 and model.training and model[2].training


def test_frozen_batch_norms_keep_their_statistics_and_all_modules_their_modes():
    class HalfFrozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()

    model = HalfFrozen(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model.train()
    model[2].eval()
    batches = [torch.randn(6, 3, 5, 5) + 2 for _ in range(2)]
    reestimate(model, batches)
    assert (model[1].running_mean == 0).all() and (model[1].running_var == 1).all()
    assert model[2].running_mean.abs().min() > 0
    assert [module.training for module in model] == [True, False, False]


def test_a_network_without_batch_norm_needs_no_inputs():
    reestimate(nn.Linear(2, 2), iter([]))
    assert can_reestimate(nn.BatchNorm2d(2).eval()) and not can_reestimate(nn.Linear(2, 2))
    assert not can_reestimate(nn.BatchNorm2d(2, track_running_stats=False))


def test_the_average_of_constant_weights_is_the_weights_and_zeros_stay_zero():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].weight.data[0] = 0
    average = MovingAverage(model, 0.99, 1000)
    for _ in range(5):
        average.update(model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in average.weights().items())
    for _ in range(50):
        model[0].weight.data[1:] += 1
        average.update(model)
    assert not average.weights()["0.weight"][0].any()
    behind = model[0].weight.data[1:] - average.weights()["0.weight"][1:]
    assert (behind > 0).all() and (behind < 50).all()


def test_the_timed_step_leaves_no_trace():
    task = ToyTask()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    random = torch.get_rng_state()
    chosen, seconds = choose_precision(task)
    assert seconds.keys() == PRECISIONS.keys() and chosen == min(seconds, key=seconds.get)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_a_batch_that_could_not_be_read_is_a_step_without_a_change():
    class Unreadable(ToyTask):
        def batches(self, epoch, start):
            for number, batch in enumerate(super().batches(epoch, start), start):
                yield None if number == 1 else batch

    task = Unreadable()
    trainer = Trainer(task, task.model, Phase(1, 0.1), PRECISIONS["fp32"])
    steps = trainer.steps()
    next(steps)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    assert math.isnan(next(steps).loss)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert len(list(steps)) == 6


def test_a_signal_waits_for_the_end_of_a_guarded_step_and_only_once(monkeypatch, terminal):
    with StopSignal() as stop, stop.guard():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(stop_module, "forget_terminal", lambda number: None)  # the terminal of these tests stays
    for number in (signal.SIGTERM, signal.SIGHUP):
        with StopSignal(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_DFL


def test_a_terminal_that_closes_is_a_stop_and_nothing_more_is_written_there(tmp_path, terminal):
    program = """
import pathlib, sys, time
from detect_prune.engine.stop import StopSignal
with StopSignal() as stop, stop.guard():
    print("begun", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("to nobody", flush=True)
    pathlib.Path(sys.argv[1]).write_text("saved")
"""
    master, slave = pty.openpty()
    words = [sys.executable, "-c", program, str(tmp_path / "last")]
    with subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        assert os.read(master, 100).startswith(b"begun")
        os.close(master)
        process.send_signal(signal.SIGHUP)  # as the system does where the terminal is the process's own
        try:
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert (tmp_path / "last").read_text() == "saved"


def test_a_terminal_that_closes_stops_nothing_under_nohup(terminal):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop, stop.guard():
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested


def test_a_process_that_follows_waits_for_the_word_of_another_everywhere():
    with StopSignal(follows=True) as stop:
        with stop.guard():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_options_replace_fields_of_one_phase():
    recipe = ToyTask.recipe.with_options(admm={"epochs": 3, "lr": 0.5})
    assert recipe.admm == Phase(3, 0.5) and recipe.dense == ToyTask.recipe.dense


def test_a_recipe_without_updates_is_refused_before_any_training():
    with pytest.raises(DetectPruneError, match="at least one update"):
        replace(ToyTask.recipe, updates=0)
    with pytest.raises(DetectPruneError, match="at least one step"):
        replace(ToyTask.recipe, steps_per_update=0)


class Steep(ToyTask):
    """One linear layer, whose gradient is 1 where `steep` is false and 1000 where it is true."""

    def __init__(self, steep):
        super().__init__()
        self.steep = steep

    def loss(self, model, batch):
        return (model.weight * (1 + 999 * self.steep)).sum(), {}


def test_each_step_has_its_rate_and_its_gradient_is_clipped():
    model = nn.Linear(10, 10, bias=False)
    before = model.weight.detach().clone()
    phase = Phase(2, 1.0, momentum=0.0, warmup=0.5, clip=5.0)
    trainer = Trainer(Steep(torch.zeros(10, 10)), model, phase, PRECISIONS["fp32"])
    rates = [learning_rate(phase, step, trainer.total) for step in range(trainer.total)]
    assert len(set(rates)) > 8
    for rate, report in zip(rates, trainer.steps(), strict=True):
        # A hundred gradients of 1 have a norm of 10.
        torch.testing.assert_close(model.weight, before - 0.5 * rate)
        assert report.lr == rate
        before = model.weight.detach().clone()


def test_a_phase_that_keeps_an_average_ends_with_it():
    task = ToyTask()
    trainer = Trainer(task, task.model, Phase(1, 0.1, ema=0.9), PRECISIONS["fp32"])
    by_hand = MovingAverage(task.model, 0.9, trainer.total)
    for _ in trainer.steps():
        by_hand.update(task.model)
    last = {name: value.clone() for name, value in task.model.state_dict().items()}
    trainer.finish()
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, by_hand.weights()[name])
        assert not value.is_floating_point() or not torch.equal(value, last[name])


@pytest.mark.parametrize("pruned_while_training", [False, True])
def test_removed_weights_do_not_shorten_the_clipped_steps_of_the_others(pruned_while_training):
    model = nn.Linear(10, 10, bias=False)
    before = model.weight.detach().clone()
    masks = magnitude_masks(model, 0.9)
    removed = ~masks["weight"]
    pruner = GradualMagnitude(model, GlobalBudget(10), updates=1) if pruned_while_training else None
    if pruner is not None:
        pruner.masks.replace({"weight": masks["weight"]})
    phase = Phase(1, 1.0, momentum=0.0, warmup=0.0, clip=10.0)
    trainer = Trainer(Steep(removed), model, phase, PRECISIONS["fp32"], pruner=pruner, masks=None if pruner else masks)
    rate = next(trainer.steps()).lr
    assert not model.weight[removed].any()
    # Ten gradients of 1 have a norm below 10: nothing is clipped.
    torch.testing.assert_close(model.weight[~removed], before[~removed] - rate)


def test_outputs_that_admm_has_emptied_do_not_shorten_the_clipped_steps_of_the_others():
    model = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        model.weight[:7] = 0
    before = model.weight.detach().clone()
    admm = GlobalADMM(model, 0.7, gradual=True)
    admm._gone = {"weight": before[:, :1] == 0}
    phase = Phase(1, 1.0, momentum=0.0, warmup=0.0, clip=10.0)
    trainer = Trainer(Steep(before == 0), model, phase, PRECISIONS["fp32"], pruner=admm)
    rate = next(trainer.steps()).lr
    assert not model.weight[:7].any()
    # Thirty gradients of 1 have a norm below 10: nothing is clipped.
    torch.testing.assert_close(model.weight[7:], before[7:] - rate)


class Watched(ToyTask):
    """Notes the network's dropout in every step; step `break_at` fails."""

    def __init__(self, break_at=None):
        super().__init__()
        self.break_at, self.seen = break_at, []

    def loss(self, model, batch):
        self.seen.append(model[3].p)
        if len(self.seen) == self.break_at:
            raise ValueError("broken")
        return super().loss(model, batch)


@pytest.mark.parametrize("asked, used", [(None, 0.1), (0.0, 0.0), (0.3, 0.3)])
def test_a_phase_sets_the_dropout_for_its_steps_only(asked, used):
    task = Watched()
    for _ in Trainer(task, task.model, Phase(1, 0.1, dropout=asked), PRECISIONS["fp32"]).steps():
        assert task.model[3].p == 0.1
    assert task.seen == [used] * 8
    broken = Watched(break_at=2)
    with pytest.raises(ValueError, match="broken"):
        list(Trainer(broken, broken.model, Phase(1, 0.1, dropout=asked), PRECISIONS["fp32"]).steps())
    assert broken.model[3].p == 0.1


def test_the_dropout_of_a_step_lasts_through_its_backward_pass():
    task = Watched()
    step = Trainer(task, task.model, Phase(1, 0.1, dropout=0.3), PRECISIONS["fp32"]).steps()
    task.model[3].register_full_backward_hook(lambda module, *_: task.seen.append(module.p))
    next(step)
    assert task.seen == [0.3, 0.3]


@pytest.mark.parametrize("job, phase", [(train, "dense")] + [(prune, name) for name in ("dense", "admm", "retrain")])
def test_dropout_that_can_t_be_set_is_refused_before_anything_is_written(tmp_path, job, phase):
    task = ToyTask()
    task.model[3] = nn.Identity()
    recipe = task.recipe.with_options(**{phase: {"dropout": 0.2}})
    job = partial(prune, ratio=0.5, train_dense=True) if job is prune else job
    with pytest.raises(DetectPruneError, match=r"no nn\.Dropout"):
        job(task.model, task=task, folder=tmp_path / "run", recipe=recipe)
    assert not (tmp_path / "run").exists()


def test_statistics_can_t_come_from_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model[1].running_mean.fill_(3.0)
    with pytest.raises(ValueError, match="without inputs"):
        reestimate(model, [])
    assert (model[1].running_mean == 3).all() and not model[1].training


def test_the_timed_step_leaves_the_modes_alone():
    task = ToyTask()
    task.model.eval()
    task.model[1].train()
    modes = [module.training for module in task.model.modules()]
    choose_precision(task)
    assert [module.training for module in task.model.modules()] == modes


class Greedy(ToyTask):
    """Runs out of memory in every step that `refuse` says, which is given the number of the step."""

    def __init__(self, refuse, error):
        super().__init__()
        self.refuse, self.error = refuse, error

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        if self.refuse(self.asked):
            raise self.error
        return loss

    def settings(self):
        return {"batch": 32}


def out_of_memory():
    """What torch raises on a processor."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    return caught.value


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("no memory"), MemoryError(), out_of_memory()])
def test_a_precision_that_does_not_fit_into_memory_is_not_chosen(error):
    chosen, seconds = choose_precision(Greedy(lambda step: step == 1, error))
    assert len(seconds) == 2 and chosen != "fp32"
    task = Greedy(lambda step: True, error)
    task.model.eval()
    with pytest.raises(DetectPruneError, match="batch 32 does not fit into the memory of cpu"):
        choose_precision(task)
    assert not task.model.training
    with pytest.raises(DetectPruneError, match="batch 32 does not fit into the memory of cpu"):
        list(Trainer(task, task.model, Phase(1, 0.1), PRECISIONS["fp32"]).steps())


def test_a_precision_in_which_a_step_fails_is_left_out():
    class Stubborn(ToyTask):
        def loss(self, model, batch):
            if torch.is_autocast_enabled("cpu"):
                raise TypeError("Got unsupported ScalarType BFloat16")
            return super().loss(model, batch)

    with pytest.warns(UserWarning, match="bf16 is left out, for a step fails in it: Got unsupported"):
        _, seconds = choose_precision(Stubborn())
    assert seconds.keys() == {"fp32", "fp32-channels-last"}


def test_channels_last_is_asked_of_what_has_channels_and_two_sides_alone():
    model = torch.nn.Sequential(torch.nn.Conv3d(4, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Linear(4, 4))
    PRECISIONS["bf16"].prepare(model)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last) and model[0].weight.is_contiguous()
    PRECISIONS["fp32"].prepare(model)
    assert model[1].weight.is_contiguous()


def test_a_step_that_does_not_fit_leaves_its_memory_to_the_others():
    class Large(ToyTask):
        made = None

        def loss(self, model, batch):
            loss = super().loss(model, batch)
            if self.made is None:
                activations = torch.zeros(10)
                self.made = weakref.ref(activations)
                raise torch.cuda.OutOfMemoryError("no memory")
            gone.append(self.made() is None)
            return loss

    gone = []
    gc.disable()
    try:
        choose_precision(Large())
    finally:
        gc.enable()
    assert gone and all(gone)


def test_another_error_of_a_step_is_not_taken_for_a_lack_of_memory():
    task = Greedy(lambda step: True, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        choose_precision(task)
    with pytest.raises(RuntimeError, match="mat1"):
        list(Trainer(task, task.model, Phase(1, 0.1), PRECISIONS["fp32"]).steps())


@pytest.mark.parametrize("batches", [[], [None] * 8])
def test_an_epoch_without_a_picture_that_can_be_read_is_an_error(batches):
    class Unreadable(ToyTask):
        def batches(self, epoch, start):
            yield from batches[start:] if epoch else list(super().batches(epoch, start))

        def problems(self):
            return ["all are torn"]

    trainer = Trainer(Unreadable(), toy_network(), Phase(3, 0.1), PRECISIONS["fp32"])
    with pytest.raises(DetectPruneError, match=r"epoch 2 could be read\. all are torn"):
        list(trainer.steps())


def test_an_epoch_of_too_many_batches_ends_where_it_should():
    class Long(ToyTask):
        def batches(self, epoch, start):
            yield from super().batches(epoch, start)
            yield from super().batches(epoch + 1, 0)

    reports = list(Trainer(Long(), toy_network(), Phase(2, 0.1), PRECISIONS["fp32"]).steps())
    assert [report.step for report in reports] == list(range(1, 17))
    assert [report.epoch for report in reports] == [0] * 8 + [1] * 8


def test_the_machine_is_described_by_plain_values(monkeypatch):
    machine = describe_machine(torch.device("cpu"))
    assert machine["processor"] and machine["cores"] >= 1 and machine["torch"] == torch.__version__
    assert machine["opencv"] == cv2.__version__  # decodes, resizes and augments: another one, other bits
    assert json.loads(json.dumps(machine)) == machine
    assert re.search(r"memory [\d.]+ GB, ", in_words(machine))
    monkeypatch.delattr(os, "sysconf_names", raising=False)  # as on Windows
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    untold = describe_machine(torch.device("cpu"))
    assert untold["memory"] is None and "memory" not in in_words(untold)
