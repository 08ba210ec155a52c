"""ADMM against closed forms, its three updates one by one, resuming to the bit, and what it refuses."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from detect_prune.pruning import (
    GlobalADMM,
    LayerwiseRatio,
    RhoSchedule,
    keep_count,
    parameter_groups,
    prunable_weights,
    selection,
)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    )


def batches(seed, n):
    """Five kinds of pictures that can be told apart."""
    generator = torch.Generator().manual_seed(99)
    prototypes = torch.randn(5, 1, 6, 6, generator=generator)
    generator.manual_seed(seed)
    for _ in range(n):
        labels = torch.randint(5, (32,), generator=generator)
        yield prototypes[labels] + 0.5 * torch.randn(32, 1, 6, 6, generator=generator), labels


def step(model, optimizer, batch):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


class Free(nn.Module):
    """Layers whose weights are the variables of a problem; there is no input."""

    def __init__(self, *shapes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(columns, rows, bias=False) for rows, columns in shapes)

    def vector(self):
        return torch.cat([layer.weight.flatten() for layer in self.layers])


def solve(model, loss, admm, rate, steps_per_update):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    admm.attach(optimizer)
    for _ in range(admm.updates):
        for _ in range(steps_per_update):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        admm.update()
    return admm.cut()


# ---- problems with known solutions


def test_quadratic_keeps_the_largest_targets():
    model = Free((10, 10), (20, 5))
    target = torch.randn(200, generator=torch.Generator().manual_seed(5)) + 0.5
    admm = GlobalADMM(model, 0.7, importance="raw", floor=0.0, rho=1.0, updates=60)
    solve(model, lambda: 0.5 * (model.vector() - target).square().sum(), admm, 0.3, 20)
    best = torch.zeros(200)
    support = target.abs().topk(60).indices
    best[support] = target[support]
    torch.testing.assert_close(model.vector().detach(), best, rtol=1e-3, atol=1e-4)
    assert admm.residuals.overall[0] < 1e-3


def test_least_squares_with_a_planted_sparse_solution():
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
    assert (
        set(dense.abs().topk(10).indices.tolist()) != set(range(0, 80, 8))
        or float(dense.abs().topk(11).values[-1]) > 0.1
    )
    admm = GlobalADMM(model, 0.875, importance="raw", floor=0.0, rho=0.3, updates=200)
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
            floor=0.0,
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


# ---- the three updates


@pytest.mark.parametrize("importance", ["raw", "normalised", "lamp", "fisher", "fisher-layer"])
def test_the_gradient_gains_the_penalty_at_every_step(importance):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    admm = GlobalADMM(model, 0.8, updates=6, importance=importance, rho=RhoSchedule(stages=3, least=1.5, most=3.0))
    seen = {}
    optimizer.register_step_pre_hook(lambda *_: seen.update({n: w.grad.clone() for n, w in admm.weights.items()}))
    admm.attach(optimizer)
    optimizer.register_step_pre_hook(lambda *_: seen.update({f"+{n}": w.grad.clone() for n, w in admm.weights.items()}))
    rhos, with_penalty = set(), 0
    for i, batch in enumerate(batches(0, 60)):
        values = {name: weight.detach().clone() for name, weight in admm.weights.items()}
        step(model, optimizer, batch)
        for name, w in values.items():
            gained = seen[f"+{name}"] - seen[name]
            if admm.rho is None:
                assert torch.count_nonzero(gained) == 0
                continue
            expected = admm.rho * admm.q[name] * (w - admm.z[name] + admm.u[name])
            torch.testing.assert_close(gained, expected, rtol=1e-3, atol=1e-5 * float(seen[f"+{name}"].abs().max()))
            with_penalty += 1
        rhos.add(admm.rho)
        if i % 10 == 9:
            admm.update()
    assert with_penalty > 100 and len(rhos) >= 3


def test_z_starts_as_the_projection_of_the_weights():
    model = network()
    admm = GlobalADMM(model, 0.8, importance="raw", rho=1.0)
    z = torch.cat([value.flatten() for value in admm.z.values()])
    w = torch.cat([weight.detach().flatten() for weight in admm.weights.values()])
    k = keep_count(len(w), 0.8)
    threshold = w.abs().topk(k).values[-1]
    assert torch.equal(z, torch.where(w.abs() >= threshold, w, 0)) and int((z != 0).sum()) == k
    assert all(torch.count_nonzero(u) == 0 for u in admm.u.values())


def test_u_sums_what_is_left_and_holds_no_graph():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    admm = GlobalADMM(model, 0.8, rho=0.1, updates=5)
    admm.attach(optimizer)
    u = {name: torch.zeros_like(weight) for name, weight in admm.weights.items()}
    for batch in batches(0, 5):
        step(model, optimizer, batch)
        admm.update()
        for name, weight in admm.weights.items():
            u[name] += weight.detach() - admm.z[name]
            torch.testing.assert_close(admm.u[name], u[name], rtol=1e-4, atol=1e-6)
            assert not admm.u[name].requires_grad and not admm.z[name].requires_grad
            assert admm.u[name].untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("importance", ["raw", "normalised"])
def test_the_multiplier_stays_when_rho_and_worth_change(importance):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    admm = GlobalADMM(
        model,
        0.8,
        updates=6,
        importance=importance,
        rho=RhoSchedule(start=0.01, stages=2, least=2.5, most=2.5, effective=0.0),
    )
    admm.attach(optimizer)
    for i, batch in enumerate(batches(0, 3)):
        step(model, optimizer, batch)
        rho, q, before = admm.rho, dict(admm.q), {name: u.clone() for name, u in admm.u.items()}
        admm.update()
        for name, weight in admm.weights.items():
            u = before[name] + weight.detach() - admm.z[name]
            torch.testing.assert_close(admm.rho * admm.q[name] * admm.u[name], rho * q[name] * u, rtol=1e-4, atol=1e-8)
            if i == 2 and importance == "raw":
                torch.testing.assert_close(admm.u[name], u / 2.5, rtol=1e-4, atol=1e-7)
    assert admm.rho == pytest.approx(0.025)


def test_rho_starts_relative_to_the_gradient():
    rhos = []
    for factor in (1.0, 100.0):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 1e-12)
        admm = GlobalADMM(model, 0.8, updates=40)
        admm.attach(optimizer)
        for pictures, labels in batches(0, 12):
            optimizer.zero_grad()
            (factor * F.cross_entropy(model(pictures), labels)).backward()
            optimizer.step()
        rhos.append(admm.rho)
    assert rhos[1] == pytest.approx(100 * rhos[0], rel=1e-3)


def test_half_precision_weights_keep_an_exact_u():
    model = Free((4, 8)).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    admm = GlobalADMM(model, 0.5, rho=0.1, updates=3)
    admm.attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model.vector().square().sum().backward()
        optimizer.step()
        admm.update()
    assert admm.u["layers.0.weight"].dtype == torch.float32
    assert admm.cut().n_kept == 16


# ---- the whole way


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


@pytest.mark.parametrize("importance", ["raw", "normalised", "lamp", "fisher"])
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


# ---- a ratio that grows


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
    wanted = [n - removed * (1 - (1 - min(1.0, i / 30)) ** 3) for i in range(1, 41)]
    assert kept == pytest.approx(wanted, abs=1) and kept[-1] == keep_count(n, 0.8)
    assert residuals.worst < 0.05
    assert admm.cut().n_kept == keep_count(n, 0.8)


def test_a_ratio_that_grows_resumes_to_the_bit():
    def build():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        admm = GlobalADMM(model, 0.8, updates=8, gradual=True)
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
    for thing, state in zip(fresh, [copy.deepcopy(thing.state_dict()) for thing in part]):
        thing.load_state_dict(state)
    run(*fresh, 50, 96)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), fresh[0].parameters()))
    assert fresh[2].rho == whole[2].rho


# ---- what an update reports and costs


def test_residuals_are_lengths_relative_to_the_weights():
    model = network()
    admm = GlobalADMM(model, 0.8, rho=1.0, updates=3)
    admm.attach(torch.optim.SGD(model.parameters(), 0.05))
    for batch in batches(0, 2):
        step(model, admm._optimizer, batch)
        before = {name: z.clone() for name, z in admm.z.items()}
        residuals = admm.update()
        weights = {name: weight.detach() for name, weight in admm.weights.items()}
        for name, w in weights.items():
            assert residuals.primal[name] == pytest.approx(float((w - admm.z[name]).norm() / w.norm()), rel=1e-4)
            assert residuals.dual[name] == pytest.approx(
                float((before[name] - admm.z[name]).norm() / w.norm()), rel=1e-4
            )
        apart = sum(float((w - admm.z[name]).square().sum()) for name, w in weights.items())
        length = sum(float(w.square().sum()) for w in weights.values())
        assert residuals.overall[0] == pytest.approx((apart / length) ** 0.5, rel=1e-4)
        assert residuals.per_layer()["primal residual"] == residuals.primal
        assert residuals.per_layer()["dual residual"] == residuals.dual
        assert residuals.scalars()["worst primal residual"] == max(residuals.primal.values())


def test_an_update_in_chunks_is_the_update(monkeypatch):
    results = []
    for size in (1 << 20, 7):
        monkeypatch.setattr(selection, "_CHUNK", size)
        model = network().to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        admm = GlobalADMM(model, 0.8, rho=0.1, updates=3)
        admm.attach(optimizer)
        for i, batch in enumerate(batches(0, 3)):
            step(model, optimizer, batch)
            if i == 1:  # the weights may be laid out anew at any time
                model.to(memory_format=torch.contiguous_format)
            admm.update()
        results.append(torch.cat([part[name].flatten() for part in (admm.z, admm.u) for name in part]))
    assert torch.equal(*results)


def test_an_update_needs_less_than_one_copy_of_the_weights():
    model = Free((2000, 1000))  # one layer: whatever is done to a whole layer is done to all weights
    admm = GlobalADMM(model, 0.8, rho=RhoSchedule(start=0.1), updates=4)
    admm.attach(torch.optim.SGD(model.parameters(), 0.1))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        admm.update()
        admm.update()  # ends a stage
    now = peak = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    weights = 4 * 2_000_000
    assert 0.2 * weights < peak < weights  # the mask alone is a quarter


def test_the_first_rho_holds_at_the_end_of_a_warm_up():
    """The gradient is measured while the rate is a thousandth of what it will be."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.param_groups[0]["lr"] = 1e-4
    admm = GlobalADMM(model, 0.8, importance="raw", rho=RhoSchedule(relative_start=1e6))
    admm.attach(optimizer)
    for batch in batches(0, 11):
        step(model, optimizer, batch)
    assert admm.rho == pytest.approx(admm.schedule.stable / 0.1)


# ---- refusals


def test_what_is_refused():
    model = network()
    for arguments in ({}, {"ratio": 0.5, "constraint": LayerwiseRatio(0.5)}):
        with pytest.raises(ValueError, match="either"):
            GlobalADMM(model, **arguments)
    for arguments, sentence in (
        ({"ratio": 1.2}, "strictly"),
        ({"ratio": 0.5, "updates": 0}, "at least one"),
        ({"ratio": 0.5, "rho": -1.0}, "positive"),
        ({"ratio": 0.5, "floor": 2}, "floor"),
    ):
        with pytest.raises(ValueError, match=sentence):
            GlobalADMM(model, **arguments)
    admm = GlobalADMM(model, 0.5, updates=1)
    with pytest.raises(ValueError, match=r"6\.weight"):
        admm.attach(torch.optim.SGD(model[:5].parameters(), 0.1))
    frozen = network()
    frozen[4].requires_grad_(False)
    with pytest.raises(ValueError, match=r"4\.weight must not be trained.*exclude"):
        GlobalADMM(frozen, 0.5).attach(torch.optim.SGD(frozen.parameters(), 0.1))
    with pytest.raises(ValueError, match="attach"):
        admm.update()
    with pytest.raises(ValueError, match="another network"):
        admm.load_state_dict(GlobalADMM(nn.Linear(3, 3), 0.5).state_dict())
    with pytest.raises(ValueError, match="of 40 updates"):
        admm.load_state_dict(GlobalADMM(model, 0.5, updates=40).state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    admm.attach(optimizer)
    step(model, optimizer, next(batches(0, 1)))
    admm.update()
    with pytest.raises(ValueError, match="planned"):
        admm.update()
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: torch.zeros(()))


def test_diverged_weights_are_refused():
    model = network()
    admm = GlobalADMM(model, 0.5, rho=1.0)
    with torch.no_grad():
        model[4].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"not finite|not a number"):
        admm.update()


def test_scaled_gradients_of_a_fused_optimizer_are_refused():
    model = Free((4, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    admm = GlobalADMM(model, 0.5, rho=1.0)
    admm.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model.vector().square().sum()).backward()
    with pytest.raises(ValueError, match="fused"):
        scaler.step(optimizer)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    optimizer.zero_grad()
    admm.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model.vector().square().sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)


@pytest.mark.parametrize("importance", ["raw", "fisher"])
def test_an_overflow_that_a_fused_optimizer_skips_is_no_step_for_admm(importance):
    """As if that step had not been, and as with a plain optimizer, which the scaler does not call."""
    results = []
    for fused, overflow in ((True, None), (True, 3), (False, 3)):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
        admm = GlobalADMM(model, 0.8, updates=4, importance=importance)
        admm.attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        steps = list(batches(0, 12))
        if overflow is not None:
            steps.insert(overflow, steps[0])
        for i, (pictures, labels) in enumerate(steps):
            optimizer.zero_grad()
            # Without the statistics of a batch that is not to count.
            model.train(i != overflow)
            scaler.scale(F.cross_entropy(model(pictures), labels)).backward()
            if i == overflow:
                model[4].weight.grad[0, 0] = float("inf")
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert admm.state_dict()["steps"] == 12
        admm.update()
        results.append((admm.rho, torch.cat([weight.detach().flatten() for weight in admm.weights.values()])))
    for rho, weights in results[1:]:
        assert rho == pytest.approx(results[0][0], rel=1e-4)
        torch.testing.assert_close(weights, results[0][1], rtol=1e-4, atol=1e-6)


def test_scaled_gradients_of_a_plain_optimizer_are_right():
    results = []
    for scale in (False, True):
        torch.manual_seed(0)
        model = Free((4, 4))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        admm = GlobalADMM(model, 0.5, rho=1.0)
        admm.attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", enabled=scale)
        scaler.scale(model.vector().square().sum()).backward()
        scaler.step(optimizer)
        results.append(model.vector().detach())
    torch.testing.assert_close(*results)


def test_parameter_groups_leave_decay_out_of_the_penalty():
    model = network()
    admm = GlobalADMM(model, 0.5, exclude=["6"])
    plain, held = parameter_groups(model, 0.1), parameter_groups(model, 0.1, admm)
    for groups in (plain, held):
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    decay = {id(p): group["weight_decay"] for group in held for p in group["params"]}
    assert decay[id(model[0].weight)] == decay[id(model[4].weight)] == 0
    assert decay[id(model[6].weight)] == 0.1 and decay[id(model[4].bias)] == decay[id(model[1].weight)] == 0
    assert {id(p) for p in plain[0]["params"]} == {id(w) for w in prunable_weights(model).values()}
    optimizer = torch.optim.SGD(held, 0.1, momentum=0.9)
    step(model, optimizer, next(batches(0, 1)))
    torch.optim.SGD(parameter_groups(model, 0.1, admm), 0.1, momentum=0.9).load_state_dict(
        copy.deepcopy(optimizer.state_dict())
    )
