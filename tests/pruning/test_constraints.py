"""Properties of a projection, whatever the set."""

import math
from itertools import pairwise

import pytest
import torch

from detect_prune.classification import LeNet5
from detect_prune.pruning import (
    BlockBudget,
    GlobalBudget,
    LayerwiseRatio,
    NOfM,
    keep_count,
    magnitude_masks,
    prunable_weights,
)
from detect_prune.pruning.budgets import ratio_budget


def problem(seed):
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.randn(6, 5, generator=generator) * scale for name, scale in (("a", 1.0), ("b", 0.1), ("c", 3.0))
    }
    worth = {name: torch.rand(6, 5, generator=generator) + 0.01 for name in values}
    return values, worth, generator


def apply(values, chosen):
    return {name: value * mask for (name, value), mask in zip(values.items(), chosen.masks)}


SETS = [
    GlobalBudget(18),
    GlobalBudget(18, floor=0.5),
    LayerwiseRatio(0.8),
    NOfM(1, 5),
    BlockBudget(18, 3),
    BlockBudget(18, 1, dim=1),
]


@pytest.mark.parametrize("constraint", SETS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("seed", range(5))
def test_idempotent_and_never_farther_than_a_random_feasible_point(constraint, seed):
    values, worth, generator = problem(seed)
    z = apply(values, constraint.project(values, worth))
    again = apply(z, constraint.project(z, worth))
    assert all(torch.equal(z[name], again[name]) for name in z)

    def distance(point):
        return sum(float((worth[name] * (point[name] - values[name]).square()).sum()) for name in values)

    assert sum(int((part != 0).sum()) for part in z.values()) == 18
    for trial in range(400):
        # A random point of S: the best values on a support that the set allows, from anywhere to a swap away from Z's.
        # (Far ones alone would prove nothing: all of them are far worse than what a wrong q chooses.)
        nearness = trial % 4 * 0.3
        noise = {name: torch.rand(6, 5, generator=generator) + nearness * (z[name] != 0) for name in values}
        support = constraint.project(noise, {name: torch.ones(()) for name in values})
        assert distance(z) <= distance(apply(values, support)) + 1e-6


def test_the_floor_holds_and_is_reported():
    values, worth, _ = problem(0)
    values["b"] *= 1e-3
    ones = {name: torch.ones(()) for name in worth}
    loose = GlobalBudget(18).project(values, ones)
    assert [int(mask.sum()) for mask in loose.masks][1] == 1 and loose.bound == [1]
    held = GlobalBudget(18, floor=0.5).project(values, ones)
    counts = [int(mask.sum()) for mask in held.masks]
    assert counts[1] == 3 and sum(counts) == 18 and held.bound == [1]


def test_the_floor_holds_where_costs_differ():
    values, _, _ = problem(0)
    values["b"] *= 1e-3
    ones = {name: torch.ones(()) for name in values}
    sizes = {name: value.numel() for name, value in values.items()}
    costs = {"a": 4.0, "b": 3.0, "c": 1.0}
    budget = 0.3 * sum(size * costs[name] for name, size in sizes.items())
    loose = GlobalBudget(budget, costs).project(values, ones)
    held = GlobalBudget(budget, costs, floor=0.5).project(values, ones)
    counts = dict(zip(values, (int(mask.sum()) for mask in held.masks)))
    assert int(loose.masks[1].sum()) == 1 and counts["b"] == int(0.5 * 0.3 * sizes["b"]) > 1
    assert [list(values)[layer] for layer in held.bound] == ["b"]
    spent = sum(count * costs[name] for name, count in counts.items())
    assert budget - max(costs.values()) < spent <= budget


def test_costs_are_paid():
    values, _, _ = problem(1)
    ones = {name: torch.ones(()) for name in values}
    costs = {"a": 4.0, "b": 1.0, "c": 2.0}
    chosen = GlobalBudget(50, costs).project(values, ones)
    spent = sum(int(mask.sum()) * costs[name] for name, mask in zip(values, chosen.masks))
    assert 50 - 4 < spent <= 50
    with pytest.raises(ValueError, match="costs for d, and no such layer"):
        GlobalBudget(50, costs | {"d": 1.0}).project(values, ones)
    for wrong in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="costs more than nothing"):
            GlobalBudget(50, {"a": wrong})
    for wrong in (math.inf, math.nan):
        with pytest.raises(ValueError, match="finite"):
            GlobalBudget(wrong)


def test_layerwise_ratios():
    values, worth, _ = problem(2)
    chosen = LayerwiseRatio({"a": 0.5, "b": "0.9", "c": 0.1}).project(values, worth)
    assert [int(mask.sum()) for mask in chosen.masks] == [15, 3, 27]
    with pytest.raises(ValueError, match="c"):
        LayerwiseRatio({"a": 0.5, "b": 0.9}).project(values, worth)
    with pytest.raises(ValueError, match="strictly between"):
        LayerwiseRatio({"a": 1.0})


def test_magnitude_masks_are_the_global_largest():
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 5))
    masks = magnitude_masks(model, 0.57)
    whole = torch.cat([model[i].weight.detach().abs().flatten() for i in (0, 1)])
    kept = torch.cat([masks[name].flatten() for name in masks])
    assert masks.n_kept == 750 - 427 and whole[kept].min() > whole[~kept].max()
    with pytest.raises(ValueError, match="either"):
        magnitude_masks(model)


@pytest.mark.parametrize("ratio", [0.29, 0.57, 0.58, 0.992])
@pytest.mark.parametrize("levels", [1, 3, 40])
def test_k_is_exact_on_lenet_whatever_the_ties(ratio, levels):
    weights = prunable_weights(LeNet5())
    generator = torch.Generator().manual_seed(levels)
    values = {
        name: torch.randint(-levels, levels + 1, weight.shape, generator=generator).float() / levels
        for name, weight in weights.items()
    }
    ones = {name: torch.ones(()) for name in values}
    kept = sum(int(mask.sum()) for mask in ratio_budget(values, ratio).project(values, ones).masks)
    assert kept == keep_count(430500, ratio) == 430500 - round(ratio * 1000) * 430500 // 1000


@pytest.mark.parametrize("constraint", SETS, ids=lambda one: type(one).__name__)
def test_with_little_progress_the_set_is_larger(constraint):
    values, worth, _ = problem(3)
    supports = [
        torch.cat([mask.flatten() for mask in constraint.project(values, worth, progress).masks])
        for progress in (0.0, 0.3, 0.7, 1.0)
    ]
    assert supports[0].all() and torch.equal(
        supports[3], torch.cat([mask.flatten() for mask in constraint.project(values, worth).masks])
    )
    assert all((small <= large).all() and small.sum() < large.sum() for large, small in pairwise(supports))
    sizes = {name: value.numel() for name, value in values.items()}
    shares = [constraint.keep_share(sizes, progress) for progress in (0.0, 0.5, 1.0)]
    assert shares[0] == 1 and shares[0] > shares[1] > shares[2] == pytest.approx(0.2)


def test_every_layer_that_a_floor_holds_is_named():
    values = {"a": torch.full((10,), 3.0), "b": torch.full((10,), 0.1), "c": torch.full((10,), 0.2)}
    ones = {name: torch.ones(()) for name in values}
    assert GlobalBudget(10, floor=0.5).project(values, ones).bound == [1, 2]
