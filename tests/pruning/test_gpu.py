"""What pruning does on a GPU is what it does on the processor."""

import copy

import pytest
import torch
from admm_problems import batches, network
from torch import nn
from torch.nn import functional as F

from detect_prune.pruning import (
    GlobalADMM,
    GlobalBudget,
    GradualMagnitude,
    Masks,
    keep_count,
    magnitude_masks,
    prunable_weights,
)
from detect_prune.pruning.selection import Items, select

WIDE = [(500, 800), (300, 32, 3, 3), (40, 90)]


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("costs", [(1.0, 1.0, 1.0), (1.0, 7.0, 2.5)])
def test_the_selection_is_the_same_to_the_weight(gpu, levels, costs):
    values = [torch.randn(shape) for shape in WIDE]
    if levels is not None:  # nearly all weights tie
        values = [value.mul(levels).round().clamp(-levels, levels) for value in values]
    values[1] = values[1].to(memory_format=torch.channels_last)
    worths = [torch.tensor(2.0), torch.rand(WIDE[1]) + 0.5, torch.tensor(0.1)]
    budget = 0.1 * sum(cost * value.numel() for value, cost in zip(values, costs))

    def choose(device):
        layers = [Items(v.to(device), q.to(device), c) for v, q, c in zip(values, worths, costs)]
        return select(layers, budget, floors=[0, 0, 700])

    here, there = choose("cpu"), choose(gpu)
    assert here.bound == there.bound
    assert all(mask.device.type == "cuda" for mask in there.masks)
    assert all(torch.equal(mask, other.cpu()) for mask, other in zip(here.masks, there.masks))


@pytest.mark.parametrize("importance", ["raw", "normalised", "lamp"])
def test_a_cut_at_once_is_the_same(gpu, importance):
    model = nn.Sequential(nn.Conv2d(32, 300, 3), nn.Linear(800, 500), nn.Linear(90, 40))
    masks = magnitude_masks(model, 0.9, importance=importance)
    there = magnitude_masks(copy.deepcopy(model).to(gpu), 0.9, importance=importance)
    assert there.n_kept == masks.n_kept
    # The worth of a layer is a sum in floating point, and two weights may be worth the same to the last bits.
    assert sum(int((masks[name] != there[name].cpu()).sum()) for name in masks) <= 2


def train(model, pruner, device, steps=64):
    """Trains and prunes in float64, in which the two devices hardly differ; returns what pruned, and the masks."""
    model.double().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    pruner = pruner(model)
    pruner.attach(optimizer)
    for step, (points, labels) in enumerate(batches(1, steps), 1):
        optimizer.zero_grad()
        F.cross_entropy(model(points.double().to(device)), labels.to(device)).backward()
        optimizer.step()
        if step % (steps // pruner.updates) == 0:
            pruner.update()
    return pruner, pruner.cut(optimizer)


@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize("importance", ["raw", "normalised", "lamp", "fisher", "fisher-layer", "taylor"])
def test_admm_goes_the_same_way(gpu, importance, gradual):
    def admm(model):
        return GlobalADMM(model, 0.8, updates=32, importance=importance, gradual=gradual)

    model = network()
    there = copy.deepcopy(model)
    (one, masks), (other, others) = train(model, admm, "cpu"), train(there, admm, gpu)
    assert other.rho == pytest.approx(one.rho, rel=1e-4)
    for name, weight in one.weights.items():
        assert torch.equal(masks[name], others[name].cpu())
        torch.testing.assert_close(other.weights[name].cpu(), weight, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(other.u[name].cpu(), one.u[name], rtol=1e-3, atol=1e-5)


def test_gradual_magnitude_goes_the_same_way(gpu):
    def gradual(model):
        total = sum(weight.numel() for weight in prunable_weights(model).values())
        return GradualMagnitude(model, GlobalBudget(total // 5), updates=32)

    model = network()
    there = copy.deepcopy(model)
    (_, masks), (_, others) = train(model, gradual, "cpu"), train(there, gradual, gpu)
    assert all(torch.equal(masks[name], others[name].cpu()) for name in masks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_penalty_and_the_masks_under_mixed_precision(gpu, dtype, kind):
    """fp16 with a loss scaler that meets overflows, and bf16; clipped, with momentum, decay and channels last."""
    model = network().to(gpu, memory_format=torch.channels_last)
    optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, 3e-3, fused=True),
    }[kind](model.parameters())
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40, enabled=dtype == torch.float16)
    admm = GlobalADMM(model, 0.8, updates=32, importance="taylor")
    admm.attach(optimizer)
    masks: Masks | None = None
    for step, (points, labels) in enumerate(batches(1, 320), 1):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype):
            loss = F.cross_entropy(model(points.to(gpu)), labels.to(gpu))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if masks is not None:
            masks.drop_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        if step > 32 and step % 8 == 0 and masks is None:
            admm.update()
            if admm.done == admm.updates:
                masks = admm.cut(optimizer)
        if masks is not None:
            assert all(not weight[~masks[name]].any() for name, weight in admm.weights.items())
    assert dtype == torch.bfloat16 or scaler.get_scale() < 2.0**40  # steps were skipped
    assert masks is not None and masks.n_kept == keep_count(masks.n_total, 0.8)
    assert loss.item() < 0.5 and admm.report.worst < 0.3
