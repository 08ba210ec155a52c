"""One phase: rates, optimizers, the average, clipping, dropout, and batches that could not be read."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from toy import ToyTask, toy_network

from detect_prune import prune, train
from detect_prune.engine.ema import MovingAverage
from detect_prune.engine.precision import PRECISIONS
from detect_prune.engine.recipe import Phase
from detect_prune.engine.trainer import Trainer, build_optimizer, learning_rate
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import GlobalADMM, GlobalBudget, GradualMagnitude, magnitude_masks


def test_learning_rate_warms_up_peaks_and_ends_where_it_should():
    phase = Phase(1, 0.1, warmup=0.1, final_lr=0.02)
    rates = [learning_rate(phase, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.01) and rates[9] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(0.1) and rates[-1] == pytest.approx(0.002)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert learning_rate(phase, 0, 1) == pytest.approx(0.1)


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


def test_the_average_has_a_window_of_a_tenth_of_the_phase_and_begins_with_none():
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.9999, 100)
    assert average.decay == pytest.approx(0.9)
    model.weight.data.add_(1)
    average.update(model)
    # tau is two steps: d = 0.9 (1 - exp(-1 / 2)).
    assert float(model.weight.detach() - average.weights()["weight"]) == pytest.approx(0.9 * 0.39347, rel=1e-3)


def test_the_optimizers_are_those_that_a_phase_promises():
    sgd, plain, adamw = (
        build_optimizer(nn.Linear(2, 2), Phase(1, 0.1, name, momentum)).param_groups[0]
        for name, momentum in (("sgd", 0.8), ("sgd", 0.0), ("adamw", 0.8))
    )
    assert sgd["nesterov"] and sgd["momentum"] == 0.8 and not plain["nesterov"]
    assert adamw["betas"] == (0.8, 0.999)


class Sum(ToyTask):
    """Its gradient is one, everywhere and always."""

    def loss(self, model, batch):
        return model.weight.sum(), {}


def test_the_gradient_of_a_step_is_its_own():
    model = nn.Linear(2, 2, bias=False)
    before = model.weight.detach().clone()
    for report in Trainer(Sum(), model, Phase(1, 1.0, momentum=0.0), PRECISIONS["fp32"]).steps():
        torch.testing.assert_close(model.weight, before - report.lr)
        before = model.weight.detach().clone()
