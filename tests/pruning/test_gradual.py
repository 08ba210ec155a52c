"""Gradual magnitude does what its paper says, and stops and goes on as ADMM does."""

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detect_prune.pruning import (
    Diverged,
    GlobalBudget,
    GradualMagnitude,
    keep_count,
    make_constraint,
)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 5))
    with torch.no_grad():
        model[2].weight.mul_(2)  # as large as the others: no floor binds
    return model


def train(model, optimizer, steps, start=0):
    for i in range(start, start + steps):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(16, 10, generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.randint(5, (16,), generator=generator)).backward()
        optimizer.step()


def build(updates=6):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    gradual = GradualMagnitude(model, make_constraint(model, 0.9), updates=updates)
    gradual.attach(optimizer)
    return model, optimizer, gradual


def test_gradual_gives_nothing_back_where_what_is_left_of_the_budget_would_buy_it():
    """Sixteen costs 1 and 7.3: with the cheap layer's weights the rest could be filled up."""
    for seed in range(40):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 5))
        costs = {"0.weight": 1.0, "1.weight": 7.3}
        gradual = GradualMagnitude(model, GlobalBudget(20.0, costs, floor=0.0), updates=12)
        before = {name: gradual.masks[name].clone() for name in gradual.masks}
        for _ in range(12):
            with torch.no_grad():
                for name in gradual.masks:
                    gradual.weights[name].add_(0.3 * torch.randn_like(gradual.weights[name]) * gradual.masks[name])
            gradual.update()
            assert not any((gradual.masks[name] & ~before[name]).any() for name in before), seed
            before = {name: gradual.masks[name].clone() for name in gradual.masks}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("importance", ["raw", "lamp"])
def test_gradual_keeps_its_count_where_weights_that_stay_are_zero(importance, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)).to(dtype)
    gradual = GradualMagnitude(model, make_constraint(model, 0.5), updates=2, importance=importance)
    gradual.update()
    for name, weight in gradual.weights.items():  # the last ones: among equals the first ones would be kept
        left = gradual.masks[name].flatten().nonzero()[:, 0]
        weight.data.view(-1)[left[-20:]] = 0
    gradual.update()
    assert gradual.cut().n_kept == 100


def test_gradual_removes_the_smallest_along_the_cubic_and_never_gives_back():
    model, optimizer, gradual = build()
    before = None
    for i in range(1, 7):
        train(model, optimizer, 3, start=3 * i)
        values = torch.cat([weight.detach().abs().flatten() for weight in gradual.weights.values()])
        report = gradual.update()
        support = torch.cat([gradual.masks[name].flatten() for name in gradual.masks])
        removed = 600 * 0.9 * (1 - (1 - i / 6) ** 3)
        assert abs(600 - int(support.sum()) - removed) < 1 and report.update == i
        assert report.overall == pytest.approx(int(support.sum()) / 600)
        assert values[support].min() >= values[~support].max()
        assert before is None or not (support & ~before).any()
        before = support
        train(model, optimizer, 2, start=100 * i)
        for name, weight in gradual.weights.items():
            gone = ~gradual.masks[name]
            assert not weight[gone].any() and not optimizer.state[weight]["momentum_buffer"][gone].any()
    masks = gradual.cut(optimizer)
    train(model, optimizer, 3)
    assert masks.n_kept == 60 == sum(int(weight.count_nonzero()) for weight in gradual.weights.values())
    with pytest.raises(ValueError, match="planned"):
        gradual.update()


def test_gradual_goes_on_to_the_bit():
    def go(model, optimizer, gradual, start, end):
        for i in range(start, end):
            train(model, optimizer, 1, start=i)
            if i % 4 == 3:
                gradual.update()

    whole, part, fresh = build(), build(), build()
    go(*whole, 0, 24)
    go(*part, 0, 14)
    file = io.BytesIO()
    torch.save([thing.state_dict() for thing in part], file)
    file.seek(0)
    for thing, state in zip(fresh, torch.load(file, weights_only=True)):
        thing.load_state_dict(state)
    go(*fresh, 14, 24)
    assert all(torch.equal(one, other) for one, other in zip(whole[0].parameters(), fresh[0].parameters()))
    with pytest.raises(ValueError, match="of 6 updates"):
        build(updates=7)[2].load_state_dict(fresh[2].state_dict())
    looser = GradualMagnitude(fresh[0], make_constraint(fresh[0], 0.5), updates=6)
    with pytest.raises(ValueError, match="this state was made for"):
        looser.load_state_dict(fresh[2].state_dict())


def test_gradual_refuses_what_it_can_t_do():
    model = network()
    for options, match in (
        ({"updates": 0}, "at least one"),
        ({"updates": float("nan")}, "whole number"),
        ({"updates": "6"}, "whole number"),
        ({"importance": "fisher"}, "weights alone"),
    ):
        with pytest.raises(ValueError, match=match):
            GradualMagnitude(model, make_constraint(model, 0.5), **options)
    with pytest.raises(ValueError, match="a constraint was expected"):
        GradualMagnitude(model, 0.5)
    with pytest.raises(ValueError, match="no state of what prunes"):
        build()[2].load_state_dict({})


@pytest.mark.parametrize("updates", [0, 3])
def test_gradual_s_cut_is_the_whole_one_though_updates_are_missing(updates):
    _, optimizer, gradual = build()
    for _ in range(updates):
        gradual.update()
    before = {name: gradual.masks[name] for name in gradual.masks}
    masks = gradual.cut(optimizer)
    assert masks.n_kept == keep_count(masks.n_total, 0.9)
    assert all(not (masks[name] & ~before[name]).any() for name in masks), "nothing comes back"


def test_an_update_that_fails_is_still_to_be_made():
    _, _, gradual = build()
    for _ in range(gradual.updates - 1):
        gradual.update()
    weight = next(iter(gradual.weights.values())).detach()
    before = weight.clone()
    weight.fill_(float("nan"))
    with pytest.raises(Diverged):
        gradual.update()
    weight.copy_(before)
    masks = gradual.cut()
    assert masks.n_kept == keep_count(masks.n_total, 0.9)


def test_gradual_magnitude_reports_where_the_floor_binds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    with torch.no_grad():
        model[1].weight.mul_(1e-3)
    pruner = GradualMagnitude(model, GlobalBudget(40, floor=0.5), updates=1)
    assert pruner.update().bound == pruner.cut().bound == ("1.weight",)


def test_an_optimizer_before_is_let_go():
    model, first, gradual = build(updates=1)
    second = torch.optim.SGD(model.parameters(), 0.1)
    gradual.attach(second)
    gradual.update()
    gone = ~gradual.masks["0.weight"]
    for optimizer, held in ((second, True), (first, False)):
        model[0].weight.grad = torch.ones_like(model[0].weight)
        optimizer.step()
        assert bool(model[0].weight[gone].any()) is not held


def test_a_cut_without_an_optimizer_holds_nothing():
    model, optimizer, gradual = build(updates=1)
    gradual.update()
    gone = ~gradual.cut()["0.weight"]
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer.step()
    assert model[0].weight[gone].all()
