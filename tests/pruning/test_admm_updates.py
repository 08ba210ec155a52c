"""The penalty and the updates of Z and U one by one: what they are, report and cost."""

import copy
from dataclasses import replace

import pytest
import torch
from admm_problems import Free, batches, network, step
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from detect_prune.classification import LeNet5
from detect_prune.pruning import (
    DEFAULT_FLOOR,
    BlockBudget,
    GlobalADMM,
    LayerwiseRatio,
    NOfM,
    Raw,
    RhoSchedule,
    chunks,
    keep_count,
    magnitude_masks,
)
from detect_prune.pruning.saved_state import describe


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("importance", ["raw", "normalised", "lamp", "fisher", "fisher-layer", "taylor"])
def test_the_gradient_gains_the_penalty_at_every_step(importance, holds):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedule = RhoSchedule(stages=3, least=1.5, most=3.0, holds_support=holds)
    admm = GlobalADMM(model, 0.8, updates=6, importance=importance, rho=schedule)
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
            # 0.5 / (learning rate * rho) is the most that is stable; of these, it binds for single weights of fisher.
            q = admm.q[name].clamp(max=0.5 / (0.05 * admm.rho))
            expected = admm.rho * q * (w - admm.z[name] + admm.u[name])
            if not holds:
                expected = expected.masked_fill(admm.z[name] != 0, 0.0)
            torch.testing.assert_close(gained, expected, rtol=1e-3, atol=1e-5 * float(seen[f"+{name}"].abs().max()))
            with_penalty += 1
        rhos.add(admm.rho)
        if i % 10 == 9:
            admm.update()
    assert with_penalty > 100 and len(rhos) >= 3


@pytest.mark.parametrize("importance", ["raw", "taylor"])
def test_a_decoupled_penalty_moves_w_beside_adam_s_step(importance):
    """By the rate of each weight's own group; Adam sees the loss gradient and nothing else."""
    model = network()
    first, *rest = model.parameters()
    groups = [{"params": [first], "lr": 1e-3}, {"params": rest}]
    optimizer = torch.optim.AdamW(groups, 3e-3, weight_decay=0.0)
    admm = GlobalADMM(model, 0.8, updates=6, importance=importance, gradual=True)
    seen = {}
    admm.attach(optimizer)
    optimizer.register_step_pre_hook(lambda *_: seen.update({n: w.detach().clone() for n, w in admm.weights.items()}))
    moved = 0
    for i, batch in enumerate(batches(0, 60)):
        before = {name: weight.detach().clone() for name, weight in admm.weights.items()}
        pictures, labels = batch
        optimizer.zero_grad()
        F.cross_entropy(model(pictures), labels).backward()
        gradients = {name: weight.grad.clone() for name, weight in admm.weights.items()}
        optimizer.step()
        for name, weight in admm.weights.items():
            expected = gradients[name]
            if admm.rho is not None:
                gone = ~(admm.z[name] != 0).flatten(1).any(1)
                assert not gone.all()
                expected[gone] = 0
            assert torch.equal(weight.grad, expected)
            if admm.rho is None:
                assert torch.equal(seen[name], before[name])
                continue
            rate = 1e-3 if weight is first else 3e-3
            q = admm.q[name].clamp(max=0.5 / (3e-3 * admm.rho))
            w, z, u = before[name], admm.z[name], admm.u[name]
            expected = w - rate * admm.rho * (q * (w - z + u)).masked_fill(z != 0, 0.0)
            torch.testing.assert_close(seen[name], expected, rtol=1e-4, atol=1e-6)
            moved += 1
        if i % 10 == 9:
            admm.update()
            if i == 9:  # with q = 1, the whole way to Z - U until the next update
                assert admm.rho * 3e-3 * 10 == pytest.approx(1.0)
    assert moved > 100


def test_adam_brings_even_large_weights_to_z_where_the_penalty_is_decoupled():
    """A hundred times the way that its steps go in the whole phase."""
    model = Free((20, 20))
    with torch.no_grad():
        model.layers[0].weight.copy_(100 * torch.randn(20, 20, generator=torch.Generator().manual_seed(0)))

    def residual(rho):
        network = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.0)
        admm = GlobalADMM(network, 0.8, updates=40, importance="raw", gradual=True, rho=rho)
        admm.attach(optimizer)
        for number in range(1, 801):
            optimizer.zero_grad()
            network.vector().sum().backward()
            optimizer.step()
            if number % 20 == 0:
                admm.update()
        return admm.report.worst

    assert residual(None) < 0.01
    assert residual(replace(RhoSchedule.growing(), decoupled=False)) > 0.5


@pytest.mark.parametrize("importance", ["raw", "normalised", "lamp", "fisher", "fisher-layer", "taylor"])
def test_z_is_the_projection_in_the_norm_of_the_penalty(importance):
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(50)  # so that the choice is another where q is left out
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    admm = GlobalADMM(model, 0.8, updates=4, importance=importance, rho=1e-3, floor=0.0)
    admm.attach(optimizer)
    for batch in batches(0, 12):
        step(model, optimizer, batch)
    values = {name: weight.detach() + admm.u[name] for name, weight in admm.weights.items()}
    masks = [admm.constraint.project(values, worth).masks for worth in (admm.q, dict.fromkeys(values, torch.ones(())))]
    admm.update()
    support = [z != 0 for z in admm.z.values()]
    assert all(map(torch.equal, support, masks[0]))
    assert all(map(torch.equal, support, masks[1])) == (importance == "raw")


def test_the_penalty_counts_once_and_ends_with_the_cut():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    admm = GlobalADMM(model, 0.8, rho=1.0, updates=4)
    admm.attach(optimizer)
    admm.attach(optimizer)
    optimizer.zero_grad(set_to_none=False)
    before = {name: weight.detach().clone() for name, weight in admm.weights.items()}
    optimizer.step()
    for name, weight in admm.weights.items():
        torch.testing.assert_close(weight.grad, admm.q[name] * (before[name] - admm.z[name]))
    admm.cut(optimizer)
    optimizer.zero_grad()
    optimizer.step()
    assert all(weight.grad is None for weight in admm.weights.values())


def test_z_starts_as_the_projection_of_the_weights():
    model = network()
    admm = GlobalADMM(model, 0.8, importance="raw", rho=1.0)
    z = torch.cat([value.flatten() for value in admm.z.values()])
    w = torch.cat([weight.detach().flatten() for weight in admm.weights.values()])
    k = keep_count(len(w), 0.8)
    threshold = w.abs().topk(k).values[-1]
    assert torch.equal(z, torch.where(w.abs() >= threshold, w, 0)) and int((z != 0).sum()) == k
    assert all(torch.count_nonzero(u) == 0 for u in admm.u.values())


@pytest.mark.parametrize("dual_step", [1.0, 0.25, 1.5])
def test_u_sums_what_is_left_and_holds_no_graph(dual_step):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    admm = GlobalADMM(model, 0.8, rho=RhoSchedule(start=0.1, stages=1, dual_step=dual_step), updates=5)
    admm.attach(optimizer)
    u = {name: torch.zeros_like(weight) for name, weight in admm.weights.items()}
    for batch in batches(0, 5):
        step(model, optimizer, batch)
        admm.update()
        for name, weight in admm.weights.items():
            u[name] += dual_step * (weight.detach() - admm.z[name])
            torch.testing.assert_close(admm.u[name], u[name], rtol=1e-4, atol=1e-6)
            assert not admm.u[name].requires_grad and not admm.z[name].requires_grad
            assert admm.u[name].untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("importance", ["raw", "normalised", "fisher", "lamp", "taylor"])
@pytest.mark.parametrize("stable", [0.5, 1e-3])
def test_the_multiplier_stays_when_rho_and_worth_change(importance, stable):
    """With the small limit, what the penalty takes of q is bounded, and rho as well."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    admm = GlobalADMM(
        model,
        0.8,
        updates=6,
        importance=importance,
        rho=RhoSchedule(start=0.01, stages=2, least=2.5, most=2.5, effective=0.0, stable=stable),
    )
    admm.attach(optimizer)
    for batch in batches(9, 12):  # until fisher has been measured
        step(model, optimizer, batch)

    def pull(name):
        return admm.rho * admm.q[name].clamp(max=stable / (0.05 * admm.rho))

    for batch in batches(0, 3):
        step(model, optimizer, batch)
        before = {name: (u.clone(), pull(name)) for name, u in admm.u.items()}
        admm.update()
        for name, weight in admm.weights.items():
            u, was = before[name]
            multiplier = was * (u + weight.detach() - admm.z[name])
            torch.testing.assert_close(pull(name) * admm.u[name], multiplier, rtol=1e-4, atol=1e-8)
    assert admm.rho == pytest.approx(min(0.025, stable / 0.05))


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


@pytest.mark.parametrize("importance", ["lamp", "taylor", "fisher"])
def test_residuals_are_lengths_relative_to_the_weights(importance):
    """In the norm of the penalty where a layer has more than one q."""
    model = network()
    admm = GlobalADMM(model, 0.8, rho=1.0, updates=3, importance=importance)
    admm.attach(torch.optim.SGD(model.parameters(), 0.05))
    for batch in batches(0, 12):
        step(model, admm._optimizer, batch)
    for batch in batches(1, 2):
        step(model, admm._optimizer, batch)
        before = {name: z.clone() for name, z in admm.z.items()}
        scales = {name: q.sqrt() if q.dim() else 1.0 for name, q in admm.q.items()}
        residuals = admm.update()
        weights = {name: weight.detach() for name, weight in admm.weights.items()}
        lengths = {name: float((scales[name] * w).norm()) for name, w in weights.items()}
        gaps = {name: float((scales[name] * (w - admm.z[name])).norm()) for name, w in weights.items()}
        for name in weights:
            assert residuals.primal[name] == pytest.approx(gaps[name] / lengths[name], rel=1e-4)
            way = float((scales[name] * (before[name] - admm.z[name])).norm())
            assert residuals.dual[name] == pytest.approx(way / lengths[name], rel=1e-4)
        apart, length = (sum(part**2 for part in each.values()) for each in (gaps, lengths))
        assert residuals.overall[0] == pytest.approx((apart / length) ** 0.5, rel=1e-4)
        assert residuals.per_layer()["primal residual"] == residuals.primal
        assert residuals.per_layer()["dual residual"] == residuals.dual
        assert residuals.scalars()["worst primal residual"] == max(residuals.primal.values())


def test_an_update_in_chunks_is_the_update(monkeypatch):
    results = []
    for size in (1 << 20, 7):
        monkeypatch.setattr(chunks, "_CHUNK", size)
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


@pytest.mark.parametrize("importance", ["lamp", "taylor"])
def test_an_update_needs_less_than_one_copy_of_the_weights(importance):
    model = Free((2000, 1000))  # one layer: whatever is done to a whole layer is done to all weights
    admm = GlobalADMM(model, 0.8, importance=importance, rho=RhoSchedule(start=0.1), updates=4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    admm.attach(optimizer)
    model.vector().square().sum().backward()
    optimizer.step()
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


class Watching(Raw):
    """Keeps what it is shown."""

    observes = True

    def __init__(self):
        self.seen = []

    def observe(self, gradients):
        self.seen.append({name: gradient.clone() for name, gradient in gradients.items()})


@pytest.mark.parametrize("gradual", [False, True])
def test_what_measures_a_worth_sees_the_gradient_of_the_loss_alone_once_a_step(gradual):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    admm = GlobalADMM(model, 0.8, updates=30, importance=Watching(), gradual=gradual)
    losses = []
    optimizer.register_step_pre_hook(lambda *_: losses.append({n: w.grad.clone() for n, w in admm.weights.items()}))
    admm.attach(optimizer)
    gains = 0
    for number, batch in enumerate(batches(0, 150), 1):
        step(model, optimizer, batch)
        gains += any(not torch.equal(weight.grad, losses[-1][name]) for name, weight in admm.weights.items())
        if number % 5 == 0:
            admm.update()
    assert gains > 100, "the penalty is there"
    for seen, loss in zip(admm.importance.seen, losses, strict=True):
        for name, gradient in loss.items():
            # Where the ratio grows, outputs that are gone have none.
            expected = gradient.masked_fill(seen[name] == 0, 0) if gradual else gradient
            assert torch.equal(seen[name], expected)


def test_the_cut_projects_w_itself_and_neither_u_nor_the_last_z_has_a_part_in_it():
    model = network()
    admm = GlobalADMM(model, 0.8, floor=0.0, importance="raw")
    for u, z in zip(admm.u.values(), admm.z.values()):
        u.copy_(100 * torch.randn(u.shape, generator=torch.Generator().manual_seed(0)))
        z.fill_(1.0)
    values = torch.cat([weight.detach().flatten() for weight in admm.weights.values()])
    masks = admm.cut()
    kept = torch.cat([masks[name].flatten() for name in masks])
    assert int(kept.sum()) == keep_count(len(values), 0.8)
    assert values[kept].abs().min() >= values[~kept].abs().max()


def test_an_update_that_was_broken_off_is_not_gone_on_with(monkeypatch):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    admm = GlobalADMM(model, 0.8, updates=40, rho=0.1)
    admm.attach(optimizer)
    first, second = batches(0, 2)
    step(model, optimizer, first)
    saved = copy.deepcopy(admm.state_dict())

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(admm.constraint, "project", interrupted)
        with pytest.raises(KeyboardInterrupt):
            admm.update()
    for go_on in (admm.update, admm.state_dict, lambda: step(model, optimizer, second)):
        with pytest.raises(ValueError, match="broken off"):
            go_on()
    admm.load_state_dict(saved)
    step(model, optimizer, second)
    admm.update()


def test_a_first_update_before_any_penalty_leaves_u_what_it_is():
    """It ends a stage, and the q of the small layer is above what the penalty takes."""
    model = Free((20, 20), (20, 20))
    with torch.no_grad():
        model.layers[1].weight.mul_(1e-6)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    admm = GlobalADMM(model, 0.8, updates=20)
    admm.attach(optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        model.vector().square().sum().backward()
        optimizer.step()
    admm.update()
    for name, weight in admm.weights.items():
        assert admm.u[name].norm() <= weight.norm() * (1 + 1e-6)


def test_where_the_ratio_grows_the_last_worth_is_that_of_the_whole_removal():
    """LAMP's q depends on how much is kept: that of the half-grown removal would starve one layer for another."""
    model = network()
    with torch.no_grad():
        model[0].weight.pow_(3)
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    schedule = RhoSchedule(start=1e-3, effective=0.0)
    admm = GlobalADMM(model, 0.97, updates=40, gradual=True, rho=schedule, floor=0.0)
    admm.attach(optimizer)
    for batch in batches(0, 28):  # from the 30th on q stays, unless W is far from Z
        step(model, optimizer, batch)
        admm.update()
    whole = GlobalADMM(model, 0.97, rho=1.0, floor=0.0)
    for name, q in whole.q.items():
        torch.testing.assert_close(admm.q[name], q, rtol=0.02, atol=0.0)


def test_the_worth_stays_once_w_is_near_z():
    """LAMP's q follows from the weights, and of weights that have nearly gone it makes anything."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for batch in batches(0, 100):
        step(model, optimizer, batch)
    admm = GlobalADMM(model, 0.8, updates=40)
    admm.attach(optimizer)
    stayed = []
    for number, batch in enumerate(batches(1, 600), 1):
        step(model, optimizer, batch)
        if number % 15 == 0:
            before = dict(admm.q)
            near = admm.update().worst <= 0.2
            same = all(torch.equal(admm.q[name], q) for name, q in before.items())
            if admm.schedule.ends_stage(admm.done, admm.updates):
                assert same == near
                stayed.append(same)
    assert stayed.count(True) > 5 and stayed.count(False) > 2
    assert admm.report.worst < 0.02 and admm.report.overall[1] < 0.02


@pytest.mark.parametrize("constraint", [LayerwiseRatio(0.8), NOfM(2, 8), BlockBudget(100, 4)], ids=describe)
def test_taylor_serves_every_set(constraint):
    """Even where no gradient reaches a layer for a while: what was seen of it before still counts."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    admm = GlobalADMM(model, constraint=constraint, updates=8, importance="taylor")
    admm.attach(optimizer)
    first = next(iter(admm.weights.values()))
    for number, batch in enumerate(batches(0, 80), 1):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        if 40 < number < 60:
            first.grad = None
        optimizer.step()
        if number % 10 == 0:
            admm.update()
            assert all(bool((q > 0).all()) and bool(q.isfinite().all()) for q in admm.q.values())
    masks = admm.cut()
    assert masks.n_kept < 0.5 * masks.n_total


@pytest.mark.parametrize(
    ("rho", "updates", "off"),
    [
        (1e-3, 40, 0),  # one q from the first step to the last
        (1e-3, 10, 0),
        # After three quarters of the updates q is asked for all but the whole.
        (replace(RhoSchedule.growing(), start=1e-3), 40, 0.02),
        (replace(RhoSchedule.growing(), start=1e-3), 29, 0.02),
        (replace(RhoSchedule.growing(), start=1e-3), 10, 0),
        # With few stages the last q is old; here W is still what it was then.
        (replace(RhoSchedule.growing(), start=1e-3, stages=2, empties_outputs=False), 40, 0),
        (replace(RhoSchedule.growing(), start=1e-3, stages=4, empties_outputs=False), 40, 0),
        (replace(RhoSchedule.growing(), start=1e-3, stages=2, empties_outputs=False), 15, 0),
    ],
)
def test_a_growing_ratio_is_cut_by_what_weights_are_worth_for_the_whole_removal(rho, updates, off):
    """LAMP's q depends on how much is removed; that of the first tenth would empty LeNet's largest layer."""
    torch.manual_seed(0)
    model = LeNet5()
    admm = GlobalADMM(model, 0.99, updates=40, gradual=True, importance="lamp", rho=rho)
    for _ in range(updates):
        admm.update()
    expected = magnitude_masks(model, 0.99, importance="lamp", floor=DEFAULT_FLOOR).kept()
    for name, (kept, _) in admm.cut().kept().items():
        assert kept == pytest.approx(expected[name][0], rel=off)
