"""The projection against brute force, a full sort and random rivals."""

import itertools
import math

import pytest
import torch

from detect_prune.pruning import chunks, selection
from detect_prune.pruning.selection import Items, select


@pytest.fixture(params=["sorted", "sampled"])
def route(request, monkeypatch):
    """Small problems are sorted outright; with tiny constants they take the route that 64 million weights take."""
    if request.param == "sampled":
        monkeypatch.setattr(chunks, "_CHUNK", 37)
        monkeypatch.setattr(selection, "_SORTABLE", 5)
        monkeypatch.setattr(selection, "_SAMPLE", 16)


def taken(layers, budget, floors=()):
    return torch.cat([mask.flatten() for mask in select(layers, budget, floors).masks])


@pytest.mark.parametrize("seed", range(8))
def test_keeps_just_the_largest(route, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 400, (5,), generator=generator).tolist()
    layers = [
        Items(torch.randn(size, generator=generator), torch.rand((), generator=generator) + 0.1)
        if i % 2
        else Items(torch.randn(size, generator=generator), torch.rand(size, generator=generator) + 0.1)
        for i, size in enumerate(sizes)
    ]
    scores = torch.cat([layer.values.square() * layer.worth for layer in layers]).double()
    for k in (1, 2, sum(sizes) // 3, sum(sizes) - 1, sum(sizes)):
        mask = taken(layers, k)
        assert int(mask.sum()) == k
        if k < sum(sizes):
            assert scores[mask].min() >= scores[~mask].max() * (1 - 1e-6)


@pytest.mark.parametrize("lay", ["contiguous", "channels last", "transposed", "one row"])
def test_a_worth_for_each_row_is_that_of_all_its_weights(route, lay):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1 if lay == "one row" else 12, 5, 3, 3, generator=generator)
    if lay == "channels last":
        values = values.contiguous(memory_format=torch.channels_last)
    if lay == "transposed":
        values = values.transpose(0, 1).contiguous().transpose(0, 1)
    rows = torch.rand(len(values), 1, 1, 1, generator=generator) + 0.1
    other = Items(torch.randn(300, generator=generator), torch.tensor(0.5))
    whole = rows.expand_as(values).contiguous()
    for k in (1, 45, 200, values.numel()):
        masks = [select([Items(values, worth), other], k).masks for worth in (rows, whole)]
        assert all(torch.equal(one, two) for one, two in zip(*masks)) and sum(int(m.sum()) for m in masks[0]) == k
    for one, two in zip(selection.chunks(values, rows), selection.chunks(values, whole), strict=True):
        assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("levels", [1, 2, 3, 17])
def test_exact_with_mass_ties(route, levels):
    generator = torch.Generator().manual_seed(levels)
    layers = [Items(torch.randint(0, levels, (n,), generator=generator).float(), torch.tensor(1.0)) for n in (900, 100)]
    whole = torch.cat([layer.values for layer in layers])
    for k in range(1, 1000, 83):
        mask = taken(layers, k)
        assert int(mask.sum()) == k
        assert whole[mask].sum() == whole.sort(descending=True).values[:k].sum()


@pytest.mark.parametrize("kinds", list(itertools.permutations((torch.float32, torch.bfloat16, torch.float64), 2)))
def test_exact_where_layers_differ_in_precision(route, kinds):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        layers = [
            Items(torch.randn(300, generator=generator).to(kind), torch.rand((), generator=generator) + 0.1)
            for kind in kinds
        ]
        mask = taken(layers, 120)
        scores = torch.cat([layer.values.double().abs() * layer.worth.double().sqrt() for layer in layers])
        assert int(mask.sum()) == 120 and scores[mask].min() >= scores[~mask].max() * (1 - 1e-6)


def test_a_threshold_is_not_rounded_for_a_layer_of_less_precision(route):
    """0.3 in float32 is above 0.3, which is the threshold."""
    layers = [Items(torch.tensor([0.3], dtype=kind), torch.tensor(1.0)) for kind in (torch.float32, torch.float64)]
    assert taken(layers, 1).tolist() == [True, False]


def test_ties_go_to_the_first(route):
    layers = [Items(torch.ones(50), torch.tensor(1.0)), Items(torch.ones(50), torch.tensor(1.0))]
    assert taken(layers, 60).tolist() == [True] * 60 + [False] * 40


def test_tiny_weights_are_no_ties():
    """The square of 1e-30 is zero in float32; its place in the order must not depend on that."""
    assert taken([Items(torch.tensor([1e-30, 2e-30, 3e-30, 0.0]), torch.tensor(1.0))], 2).tolist() == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("flush", [False, True])
def test_more_are_wanted_than_are_not_zero(route, flush):
    """As where a network that has been pruned is pruned again, to less. Above zero the search once went on from one
    denormal number to the next, and with a processor that takes them for zero (commands ask for that) for ever."""
    values = torch.zeros(5000)
    values[::50] = torch.linspace(1, 2, 100)
    torch.set_flush_denormal(flush)
    try:
        mask = taken([Items(values[:3000], torch.tensor(1.0)), Items(values[3000:], torch.tensor(1.0))], 300)
    finally:
        torch.set_flush_denormal(False)
    assert int(mask.sum()) == 300 and mask[::50].all()


@pytest.mark.parametrize("seed", range(20))
def test_unequal_costs_are_within_one_item_of_the_relaxed_optimum(route, seed):
    generator = torch.Generator().manual_seed(seed)
    costs = [1.0, 7.0, 2.5]
    layers = [Items(torch.randn(40 + 20 * i, generator=generator), torch.tensor(1.0), c) for i, c in enumerate(costs)]
    gains = torch.cat([layer.values.square() for layer in layers]).double()
    prices = torch.cat([torch.full((len(layer),), layer.cost) for layer in layers]).double()
    budget = float(torch.rand((), generator=generator)) * float(prices.sum())
    mask = taken(layers, budget)
    order = (gains / prices).argsort(descending=True)
    left, relaxed = budget, 0.0
    for i in order.tolist():
        part = min(1.0, left / float(prices[i]))
        relaxed, left = relaxed + part * float(gains[i]), left - part * float(prices[i])
    assert float(prices[mask].sum()) <= budget
    assert relaxed - float(gains[mask].sum()) <= float(gains.max())
    free = budget - float(prices[mask].sum())
    assert free < max(costs)


def test_floors_are_the_constrained_optimum():
    """Against every subset of 9 weights in 3 layers."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        values = [torch.rand(3, generator=generator) * scale for scale in (1.0, 0.1, 0.01)]
        layers = [Items(value, torch.tensor(1.0)) for value in values]
        chosen = select(layers, 4, [1, 1, 1])
        got = sum(float(value[mask].square().sum()) for value, mask in zip(values, chosen.masks))
        best = 0.0
        for subset in itertools.combinations(range(9), 4):
            if all(any(i // 3 == layer for i in subset) for layer in range(3)):
                best = max(best, sum(float(values[i // 3][i % 3]) ** 2 for i in subset))
        assert got == pytest.approx(best, rel=1e-6)
        assert all(mask.any() for mask in chosen.masks)
    assert select(layers, 9, [1, 1, 1]).bound == []


def test_floors_that_cost_too_much_are_refused():
    with pytest.raises(ValueError, match="floors"):
        select([Items(torch.ones(3), torch.tensor(1.0))] * 3, 2, [1, 1, 1])


def test_nan_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        select([Items(torch.full((5,), float("nan")), torch.tensor(1.0))], 2)


def test_a_budget_that_is_the_cost_of_all_but_for_rounding_is_no_nan():
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        costs = torch.rand(3, generator=generator).double().sqrt().tolist()
        layers = [Items(torch.rand(50, generator=generator), torch.tensor(1.0), cost) for cost in costs]
        kept = sum(int(mask.sum()) for mask in select(layers, math.nextafter(sum(50 * c for c in costs), 0)).masks)
        assert kept >= 149, seed


def test_channels_last_selects_the_same(route):
    values = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    worth = torch.rand(6, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    plain = select([Items(values, worth)], 99).masks[0]
    other = select([Items(values.to(memory_format=torch.channels_last), worth)], 99).masks[0]
    assert torch.equal(plain, other)


def test_a_worth_of_another_shape_is_refused():
    for good in ((), (4, 1), (4, 6)):
        Items(torch.ones(4, 6), torch.ones(good))
    for wrong in ((1, 6), (6,), (4,), (6, 4), (1, 1)):
        with pytest.raises(ValueError, match=r"a worth of the shape .* for values of \(4, 6\)"):
            Items(torch.ones(4, 6), torch.ones(wrong))
