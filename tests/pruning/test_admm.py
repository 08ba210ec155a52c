"""ADMM as a whole: problems with known solutions, default schedules, growing ratios, resuming to the bit."""

import copy
import io
import itertools
from dataclasses import replace

import pytest
import torch
from admm_problems import Free, batches, network, solve, step
from torch import nn
from torch.nn import functional as F

from detect_prune.pruning import (
    GlobalADMM,
    Lamp,
    LayerwiseRatio,
    RhoSchedule,
    keep_count,
)


@pytest.mark.parametrize(("dual_step", "updates"), [(1.0, 60), (0.25, 120)])
@pytest.mark.parametrize("holds", [True, False])
def test_quadratic_keeps_the_largest_targets(dual_step, updates, holds):
    model = Free((10, 10), (20, 5))
    target = torch.randn(200, generator=torch.Generator().manual_seed(5)) + 0.5
    rho = RhoSchedule(start=1.0, stages=1, dual_step=dual_step, holds_support=holds)
    admm = GlobalADMM(model, 0.7, importance="raw", floor=0.0, rho=rho, updates=updates)
    solve(model, lambda: 0.5 * (model.vector() - target).square().sum(), admm, 0.3, 20)
    best = torch.zeros(200)
    support = target.abs().topk(60).indices
    best[support] = target[support]
    torch.testing.assert_close(model.vector().detach(), best, rtol=1e-3, atol=1e-4)
    assert admm.report.overall[0] < 1e-3


@pytest.mark.parametrize("dual_step", [1.0, 0.25])
def test_least_squares_with_a_planted_sparse_solution(dual_step):
    """The loss couples all weights, and its minimum over S is zero at a known place, which magnitude alone does not
    find."""
    generator = torch.Generator().manual_seed(2)
    planted = torch.zeros(80)
    planted[::8] = torch.randn(10, generator=generator).sign() * (1 + torch.rand(10, generator=generator))
    design = torch.randn(60, 80, generator=generator) / 60**0.5
    model = Free((4, 10), (10, 4))
    with torch.no_grad():
        dense = (
            torch.linalg.pinv(design) @ design @ planted
        )  # the shortest of the dense solutions, where training from zero ends
        for layer, part in zip(model.layers, dense.split(40)):
            layer.weight.copy_(part.view_as(layer.weight))
    assert set(dense.abs().topk(10).indices.tolist()) != set(range(0, 80, 8))
    rho = RhoSchedule(start=0.3, stages=1, dual_step=dual_step)
    admm = GlobalADMM(model, 0.875, importance="raw", floor=0.0, rho=rho, updates=200)
    solve(model, lambda: 0.5 * (design @ (model.vector() - planted)).square().sum(), admm, 0.1, 20)
    torch.testing.assert_close(model.vector().detach(), planted, rtol=1e-2, atol=1e-2)


def test_global_beats_layerwise_where_layers_differ():
    """Separable: each weight has its own target, all of the large ones in one layer; both optima are known."""
    generator = torch.Generator().manual_seed(1)
    target = torch.cat([1 + torch.rand(50, generator=generator), 0.1 * torch.rand(50, generator=generator)])
    losses = {}
    for name, constraint in (("global", None), ("layerwise", LayerwiseRatio(0.6))):
        model = Free((5, 10), (10, 5))
        admm = GlobalADMM(
            model,
            0.6 if constraint is None else None,
            constraint=constraint,
            importance="raw",
            floor=0.0 if constraint is None else None,
            rho=RhoSchedule(start=0.5, stages=20, least=1.1, most=1.1),
            updates=60,
        )
        solve(model, lambda m=model: 0.5 * (m.vector() - target).square().sum(), admm, 0.3, 20)
        losses[name] = float((model.vector().detach() - target).square().sum())
    squares = target.square()
    # The global optimum keeps the best one of the second layer, which may not die, and 39 of the first.
    best = squares.sum() - squares[:50].topk(39).values.sum() - squares[50:].max()
    assert losses["global"] == pytest.approx(float(best), rel=1e-3)
    layerwise = sum(float(part.sort().values[:30].sum()) for part in squares.split(50))
    assert losses["layerwise"] == pytest.approx(layerwise, rel=1e-2)
    assert losses["global"] < 0.5 * losses["layerwise"]


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 3e-3)])
def test_default_schedule_brings_w_to_z(make):
    model = network()
    optimizer = make(model.parameters())
    for batch in batches(0, 100):
        step(model, optimizer, batch)
    optimizer = make(model.parameters())
    admm = GlobalADMM(model, 0.8, updates=40)
    admm.attach(optimizer)
    for i, batch in enumerate(batches(1, 600), 1):
        step(model, optimizer, batch)
        if i % 15 == 0:
            residuals = admm.update()
    assert residuals.worst < 0.05 and "update 40" in str(residuals)
    masks = admm.cut(optimizer)
    n = sum(weight.numel() for weight in admm.weights.values())
    assert masks.n_kept == keep_count(n, 0.8)
    for batch in batches(2, 20):
        step(model, optimizer, batch)
    assert sum(int(weight.count_nonzero()) for weight in admm.weights.values()) <= masks.n_kept
    test = next(batches(3, 1))
    assert (model.eval()(test[0]).argmax(1) == test[1]).float().mean() > 0.9


def test_the_floor_binds_where_a_layer_would_die():
    model = network()
    with torch.no_grad():
        model[4].weight.mul_(1e-6)
    admm = GlobalADMM(model, 0.9, importance="raw", floor=0.5, rho=1.0, updates=2)
    admm.attach(torch.optim.SGD(model.parameters(), 0.1))
    residuals = admm.update()
    assert residuals.bound == ("4.weight",) and "floor binds in 4.weight" in str(residuals)
    assert admm.cut().bound == ("4.weight",)
    assert int((admm.z["4.weight"] != 0).sum()) == int(0.5 * keep_count(2074, 0.9) / 2074 * 1920)


@pytest.mark.parametrize("importance", ["raw", "normalised", "lamp", "fisher", "taylor"])
@pytest.mark.parametrize("stop", [4, 37, 60])
def test_resumes_to_the_bit(importance, stop):
    """Stopped while the gradient is still measured, between two updates, and right after one."""

    def build():
        model = network()
        # At the small rate it is the count of steps that sets rho, at the large one it is the residual.
        optimizer = torch.optim.SGD(model.parameters(), 0.003 if importance == "raw" else 0.05, momentum=0.9)
        admm = GlobalADMM(model, 0.8, updates=8, importance=importance)
        admm.attach(optimizer)
        return model, optimizer, admm

    def run(model, optimizer, admm, start, end):
        for i, batch in enumerate(batches(4, end)):
            if i < start:
                continue
            step(model, optimizer, batch)
            if i % 12 == 11:
                admm.update()

    whole = build()
    run(*whole, 0, 96)
    part = build()
    run(*part, 0, stop)
    file = io.BytesIO()
    torch.save([thing.state_dict() for thing in part], file)
    file.seek(0)
    fresh = build()
    for thing, state in zip(fresh, torch.load(file, weights_only=True)):
        thing.load_state_dict(state)
    run(*fresh, stop, 96)
    assert fresh[2].rho == whole[2].rho
    for name in whole[2].z:
        assert torch.equal(fresh[2].z[name], whole[2].z[name]) and torch.equal(fresh[2].u[name], whole[2].u[name])
    first, second = whole[2].cut(), fresh[2].cut()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), fresh[0].parameters()))


def test_accumulating_eight_equals_one_batch_of_eight():
    """Through ADMM, the cut and masked retraining, with clipping, momentum and weight decay."""
    results = []
    for parts in (1, 8):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 5)).double()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
        admm = GlobalADMM(model, 0.8, updates=4)
        admm.attach(optimizer)
        for i, (pictures, labels) in enumerate(batches(0, 36)):
            optimizer.zero_grad()
            for x, y in zip(pictures[:8].chunk(parts), labels[:8].chunk(parts)):
                (F.cross_entropy(model(x.double()), y) / parts).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if i in (5, 11, 17, 23):
                admm.update()
            if i == 23:
                masks = admm.cut(optimizer)
        assert all(not bool(admm.weights[name][~masks[name]].any()) for name in masks)
        results.append(torch.cat([weight.detach().flatten() for weight in admm.weights.values()]))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_a_ratio_that_grows_follows_the_cubic_and_is_complete_in_time():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for batch in batches(0, 100):
        step(model, optimizer, batch)
    admm = GlobalADMM(model, 0.8, updates=40, gradual=True)
    admm.attach(optimizer)
    n = sum(weight.numel() for weight in admm.weights.values())
    kept = []
    for i, batch in enumerate(batches(1, 600), 1):
        step(model, optimizer, batch)
        if i % 15 == 0:
            residuals = admm.update()
            kept.append(sum(int((z != 0).sum()) for z in admm.z.values()))
            shares = {name: float((z != 0).double().mean()) for name, z in admm.z.items()}
            assert residuals.kept == pytest.approx(shares)
    removed = n - keep_count(n, 0.8)
    wanted = [n - removed * (1 - (1 - i / 40) ** 3) for i in range(1, 41)]
    assert kept == pytest.approx(wanted, abs=1) and kept[-1] == keep_count(n, 0.8)
    assert residuals.worst < 0.05
    assert admm.cut().n_kept == keep_count(n, 0.8)


def test_where_the_ratio_grows_what_leaves_does_not_swing_and_what_stays_is_free():
    """One weight of two has to go, and the loss has nothing to say about it: it hardly goes beyond zero. The loss
    pushes the other, which goes as far as without ADMM."""

    def go(rho):
        model = Free((1, 2))
        (weight,) = (layer.weight for layer in model.layers)
        with torch.no_grad():
            weight.copy_(torch.tensor([[1.0, 2.0]]))
        optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
        admm = GlobalADMM(model, 0.5, updates=40, importance="raw", gradual=True, rho=rho)
        admm.attach(optimizer)
        lowest = 0.0
        for i in range(1, 961):
            optimizer.zero_grad()
            (-1e-3 * weight[0, 1]).backward()
            optimizer.step()
            left, stays = weight.detach().flatten().tolist()
            lowest = min(lowest, left)
            if i % 24 == 0:
                admm.update()
        assert abs(left) < 0.01
        return lowest, stays

    unpruned = 2 + 1e-3 * sum(0.1 * (1 - 0.9**i) / (1 - 0.9) for i in range(1, 961))
    lowest, stays = go(None)
    assert -0.35 < lowest < 0 and stays == pytest.approx(unpruned, rel=1e-4)
    assert go(replace(RhoSchedule.growing(), dual_step=1.0))[0] < -0.6
    assert go(replace(RhoSchedule.growing(), holds_support=True))[1] < 2 + 0.7 * (unpruned - 2)


@pytest.mark.parametrize("importance", ["fisher", "lamp", "taylor"])
def test_where_the_ratio_grows_u_does_not_outgrow_w_on_the_support(importance):
    """There no penalty opposes it, and it counts when the next support is chosen."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for batch in batches(0, 100):
        step(model, optimizer, batch)
    admm = GlobalADMM(model, 0.9, updates=40, importance=importance, gradual=True)
    admm.attach(optimizer)
    for i, batch in enumerate(batches(1, 600), 1):
        step(model, optimizer, batch)
        if i % 15 == 0:
            admm.update()
            for name, z in admm.z.items():
                assert admm.u[name][z != 0].norm() < 0.5 * admm.weights[name].norm()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("importance", ["lamp", "taylor"])
def test_a_ratio_that_grows_resumes_to_the_bit(importance, kind):
    def build():
        model = network()
        with torch.no_grad():
            model[4].weight[:4].mul_(1e-4)  # outputs that are gone when it stops
            model[4].bias[:4].fill_(0.5)  # and have a gradient
        # Adam's steps of one length would soon make large weights of tiny ones.
        sgd = kind is torch.optim.SGD
        optimizer = kind(model.parameters(), 0.005 if sgd else 1e-4, **({"momentum": 0.9} if sgd else {}))
        admm = GlobalADMM(model, 0.8, updates=8, gradual=True, importance=importance)
        admm.attach(optimizer)
        return model, optimizer, admm

    def run(model, optimizer, admm, start, end):
        for i, batch in enumerate(batches(4, end)):
            if i >= start:
                step(model, optimizer, batch)
                if i % 12 == 11:
                    admm.update()

    whole, part, fresh = build(), build(), build()
    run(*whole, 0, 96)
    run(*part, 0, 50)
    assert any(not row.any() for row in part[2].z["4.weight"])
    for thing, state in zip(fresh, [copy.deepcopy(thing.state_dict()) for thing in part]):
        thing.load_state_dict(state)
    run(*part, 50, 59)  # no update in between
    run(*fresh, 50, 59)
    assert all(torch.equal(a, b) for a, b in zip(part[0].parameters(), fresh[0].parameters()))
    run(*fresh, 59, 96)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), fresh[0].parameters()))
    assert fresh[2].rho == whole[2].rho


def test_the_defaults_are_those_that_the_documents_tell():
    admm = GlobalADMM(nn.Linear(20, 10), 0.9)
    assert isinstance(admm.importance, Lamp) and admm.constraint.floor == 0.05 and not admm.gradual


@pytest.fixture
def denormals_flushed():
    """As in every command: what the penalty halves step by step would soon slow down everything."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def test_an_output_without_a_weight_is_zero_at_once_so_that_the_cut_takes_nothing_away(denormals_flushed):
    """Before batch norm a filter does the same however small it is: without that its removal would come at one blow."""

    def go(**changed):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
        for batch in batches(0, 100):
            step(model, optimizer, batch)
        with torch.no_grad():
            model[0].weight[:3].mul_(0.01)  # raw magnitude takes them first
        schedule = replace(RhoSchedule.growing(), **changed)
        admm = GlobalADMM(model, 0.8, updates=40, importance="raw", gradual=True, rho=schedule)
        admm.attach(optimizer)
        for i, batch in enumerate(batches(1, 320), 1):
            step(model, optimizer, batch)
            for name, weight in admm.weights.items():
                empty = weight.detach().flatten(1).abs().sum(1) == 0
                assert not (empty & (admm.z[name] != 0).flatten(1).any(1)).any()
                if changed.get("empties_outputs", True) and admm.done:
                    assert torch.equal(empty, (admm.z[name] == 0).flatten(1).all(1))
            if i % 8 == 0:
                admm.update()
        pictures = next(batches(2, 1))[0]
        model.train()
        before = model(pictures).detach()
        masks = admm.cut()
        lost = any(not bool(masks[name].flatten(1).any(1).all()) for name in masks)
        return float((model(pictures).detach() - before).norm() / before.norm()), lost

    change, lost = go()
    assert lost and change < 0.02
    assert go(empties_outputs=False)[0] > 0.2


MAKES = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 3e-3, weight_decay=0.0),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("importance", ["raw", "lamp", "taylor", "fisher"])
def test_an_output_that_is_gone_stays_gone_and_has_no_gradient(importance, make, denormals_flushed):
    """Taylor's q of zeros would be of any size; before batch norm the gradient of zeros is."""
    model = network()
    optimizer = make(model.parameters())
    admm = GlobalADMM(model, 0.97, updates=40, importance=importance, gradual=True, floor=0.0)
    admm.attach(optimizer)
    gone = []
    for i, (pictures, labels) in enumerate(batches(1, 200), 1):
        optimizer.zero_grad()
        F.cross_entropy(model(pictures), labels).backward()
        admm.drop_gradients()
        optimizer.step()
        for name, row in gone[-1] if gone else ():
            weight = admm.weights[name]
            assert not any(part[row].any() for part in (weight, weight.grad, admm.u[name], admm.z[name]))
            moments = [m for m in optimizer.state[weight].values() if m is not None and m.shape == weight.shape]
            assert moments and not any(part[row].any() for part in moments)
        if i % 5 == 0:
            assert admm.update().worst < 1
            squares = [float((q * admm.weights[name].detach().square()).sum()) for name, q in admm.q.items()]
            plain = sum(float(weight.detach().square().sum()) for weight in admm.weights.values())
            if admm.done % 2 == 0 and admm.done < 30:  # the end of a stage
                assert sum(squares) == pytest.approx(plain, rel=1e-3)
            gone.append({(name, row) for name, z in admm.z.items() for row in range(len(z)) if not z[row].any()})
    assert all(before <= after for before, after in itertools.pairwise(gone)) and len(gone[-1]) > 5
