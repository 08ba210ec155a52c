"""Properties of a projection, whatever the set."""

import pytest
import torch

from detect_prune.pruning import GlobalBudget, LayerwiseRatio, magnitude_masks


def problem(seed):
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.randn(30, generator=generator) * scale for name, scale in (("a", 1.0), ("b", 0.1), ("c", 3.0))
    }
    worth = {name: torch.rand(30, generator=generator) + 0.01 for name in values}
    return values, worth, generator


def apply(values, chosen):
    return {name: value * mask for (name, value), mask in zip(values.items(), chosen.masks)}


@pytest.mark.parametrize("constraint", [GlobalBudget(18), GlobalBudget(18, floor=0.5), LayerwiseRatio(0.8)])
@pytest.mark.parametrize("seed", range(5))
def test_idempotent_and_never_farther_than_a_random_feasible_point(constraint, seed):
    values, worth, generator = problem(seed)
    z = apply(values, constraint.project(values, worth))
    again = apply(z, constraint.project(z, worth))
    assert all(torch.equal(z[name], again[name]) for name in z)

    def distance(point):
        return sum(float((worth[name] * (point[name] - values[name]).square()).sum()) for name in values)

    assert sum(int((part != 0).sum()) for part in z.values()) == 18
    for _ in range(200):
        # A random point of S: the best values on a random support that the set allows.
        noise = {name: torch.rand(30, generator=generator) for name in values}
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


def test_costs_are_paid():
    values, _, _ = problem(1)
    ones = {name: torch.ones(()) for name in values}
    costs = {"a": 4.0, "b": 1.0, "c": 2.0}
    chosen = GlobalBudget(50, costs).project(values, ones)
    spent = sum(int(mask.sum()) * costs[name] for name, mask in zip(values, chosen.masks))
    assert 50 - 4 < spent <= 50


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
