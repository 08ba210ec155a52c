"""The engine's small parts against arithmetic done by hand."""

import math
import os
import signal

import pytest
import torch
from torch import nn
from toy import ToyTask

from detect_prune.engine.batchnorm import reestimate
from detect_prune.engine.ema import MovingAverage
from detect_prune.engine.precision import CANDIDATES, choose_precision
from detect_prune.engine.stop import StopSignal
from detect_prune.engine.task import Phase, Recipe
from detect_prune.engine.trainer import Trainer, learning_rate


def test_learning_rate_warms_up_peaks_and_ends_where_it_should():
    phase = Phase(1, 0.1, warmup=0.1, final_lr=0.02)
    rates = [learning_rate(phase, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.01) and rates[9] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(0.1) and rates[-1] == pytest.approx(0.002)
    assert all(a > b for a, b in zip(rates[10:], rates[11:]))
    assert learning_rate(phase, 0, 1) == pytest.approx(0.1)


def test_reestimated_statistics_are_those_of_all_the_inputs_together():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    batches = [torch.randn(6, 3, 5, 5) * (i + 1) for i in range(4)]
    assert reestimate(model, batches) == 4
    with torch.no_grad():
        maps = [model[0](batch) for batch in batches]
    means = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variances = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    assert torch.allclose(model[1].running_mean, means, atol=1e-5)
    assert torch.allclose(model[1].running_var, variances, rtol=1e-4)
    assert model[1].momentum == 0.1 and model.training and model[2].training


def test_a_network_without_batch_norm_needs_no_inputs():
    assert reestimate(nn.Linear(2, 2), iter([])) == 0


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
    assert chosen in CANDIDATES and len(seconds) == 3 and str(chosen) == min(seconds, key=seconds.get)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_a_batch_that_could_not_be_read_is_a_step_without_a_change():
    class Unreadable(ToyTask):
        def batches(self, epoch, start):
            for number, batch in enumerate(super().batches(epoch, start), start):
                yield None if number == 1 else batch

    task = Unreadable()
    trainer = Trainer(task, task.model, Phase(1, 0.1), CANDIDATES[0])
    steps = trainer.steps()
    next(steps)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    assert math.isnan(next(steps).loss)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert len(list(steps)) == 6


def test_a_signal_waits_for_the_end_of_a_guarded_step_and_only_once():
    with StopSignal() as stop:
        with stop.guard():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    with StopSignal(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_recipe_survives_being_written_down():
    recipe = ToyTask.recipe.with_options(admm={"epochs": 3, "lr": 0.5})
    assert recipe.admm == Phase(3, 0.5) and recipe.dense == ToyTask.recipe.dense
    assert Recipe.from_dict(recipe.as_dict()) == recipe
