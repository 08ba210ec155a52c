"""rho: how it begins, its bounds, and what of the optimizer it follows."""

import copy
from dataclasses import replace

import pytest
import torch
from admm_problems import Free, batches, network, step
from torch import nn
from torch.nn import functional as F

from detect_prune.pruning import (
    GlobalADMM,
    RhoSchedule,
    keep_count,
)


def trained_rhos(model, optimizer, admm, after_step=lambda: None):
    """rho after each update, of which there is one in ten steps."""
    admm.attach(optimizer)
    found = []
    for number, batch in enumerate(batches(0, 10 * admm.updates), 1):
        step(model, optimizer, batch)
        if number % 10 == 0:
            admm.update()
            found.append(admm.rho)
        after_step()
    return found


@pytest.mark.parametrize("importance", ["raw", "lamp"])
@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_the_first_penalty_is_a_tenth_of_the_gradient_of_ten_steps(factor, importance):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 1e-12)
    admm = GlobalADMM(model, 0.8, updates=40, importance=importance, floor=0.0)
    admm.attach(optimizer)
    squares = []
    for pictures, labels in batches(0, 10):
        assert admm.rho is None
        optimizer.zero_grad()
        (factor * F.cross_entropy(model(pictures), labels)).backward()
        squares.append(sum(float(weight.grad.square().sum()) for weight in admm.weights.values()))
        optimizer.step()
    assert admm.rho * _full_pull(admm, 0.8) == pytest.approx(0.1 * (sum(squares) / 10) ** 0.5, rel=1e-3)


def _full_pull(admm, ratio):
    """The length of the penalty's gradient per rho where U is zero: that of q w, of the weights that go."""
    weights = torch.cat([weight.detach().flatten() for weight in admm.weights.values()])
    worths = torch.cat([admm.q[name].expand(weight.numel()) for name, weight in admm.weights.items()])
    order = (worths * weights.square()).sort().indices
    return float((worths * weights)[order[: len(weights) - keep_count(len(weights), ratio)]].norm())


def _by_hand(optimizer):
    def begin_at(step):
        optimizer.param_groups[0]["lr"] = 0.1 * (step + 1) / 50

    return begin_at


def _by_a_scheduler(kind, **options):
    def scheduler(optimizer):
        schedule = kind(optimizer, **options)
        return lambda step: schedule.step() if step else None

    return scheduler


@pytest.mark.parametrize(
    "warm_up",
    [
        _by_hand,
        _by_a_scheduler(torch.optim.lr_scheduler.LinearLR, start_factor=0.02, total_iters=50),
        _by_a_scheduler(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=100, cycle_momentum=False),
        _by_a_scheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.2 * (1 + step // 40)),  # in stairs
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_the_first_rho_holds_at_the_end_of_a_warm_up(warm_up, before):
    """The gradient is measured while the rate is a small part of what it will be."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    admm = GlobalADMM(model, 0.8, importance="raw", rho=RhoSchedule(relative_start=1e6))
    if before:
        admm.attach(optimizer)
    schedule = warm_up(optimizer)
    if not before:
        admm.attach(optimizer)
    for number, batch in enumerate(batches(0, 11)):
        schedule(number)
        step(model, optimizer, batch)
    assert optimizer.param_groups[0]["lr"] < 0.03
    assert admm.rho == pytest.approx(admm.schedule.stable / 0.1)


@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize(
    ("kind", "rate", "options"),
    [
        (torch.optim.SGD, 0.03, {"momentum": 0.9}),
        (torch.optim.SGD, 0.03, {"momentum": 0.0}),  # which leaves no state that would tell of the step before
        (torch.optim.AdamW, 3e-3, {"weight_decay": 0.0}),
    ],
)
def test_the_rate_that_counts_is_that_of_the_steps(kind, rate, options, gradual):
    """Not what the optimizer was made with where its group has its own, nor what the rate was before ADMM began."""

    def rhos(make):
        model = network()
        optimizer = make(model)
        return trained_rhos(model, optimizer, GlobalADMM(model, 0.8, updates=30, gradual=gradual))

    def fallen(model):
        optimizer = kind(model.parameters(), 100 * rate, **options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.01**step)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        scheduler.step()
        return optimizer

    plain = rhos(lambda model: kind(model.parameters(), rate, **options))
    assert rhos(lambda model: kind([{"params": model.parameters(), "lr": rate}], 100 * rate, **options)) == plain
    # Adam counts the step that was taken.
    assert rhos(fallen) == pytest.approx(plain, rel=1e-6 if kind is torch.optim.SGD else 0.2)


@pytest.mark.parametrize("importance", ["raw", "fisher"])
@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_rho_suits_the_rate_that_is_to_come_and_the_worths_as_they_are(importance, warmup):
    """In a warm-up of half the steps the rate is ten times larger than now; fisher's largest worth grows."""
    model = network()
    rate, steps = 0.1, 240
    optimizer = torch.optim.SGD(model.parameters(), rate)
    admm = GlobalADMM(model, 0.8, updates=40, importance=importance)
    admm.attach(optimizer)
    for number, batch in enumerate(batches(0, steps), 1):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, number / max(1.0, warmup * steps))
        step(model, optimizer, batch)
        if number % (steps // 40) == 0:
            admm.update()
            assert admm.rho * rate <= admm.schedule.stable * (1 + 1e-6)
            before = [weight.detach().clone() for weight in admm.weights.values()]
            for weight in admm.weights.values():
                weight.grad = None
            admm._before_step(optimizer, (), {})
            for weight, w, z, u in zip(admm.weights.values(), before, admm.z.values(), admm.u.values()):
                assert (rate * weight.grad.abs() <= 0.5 * (w - z + u).abs() * (1 + 1e-5) + 1e-12).all()


@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize(("kind", "rate"), [(torch.optim.SGD, 0.1), (torch.optim.AdamW, 3e-3)])
def test_a_rate_that_rises_again_does_not_make_rho_too_large(kind, rate, gradual):
    model = network()
    optimizer = kind(model.parameters(), rate)
    restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 100)
    admm = GlobalADMM(model, 0.8, updates=40, gradual=gradual, importance="taylor")
    admm.attach(optimizer)
    pushes = []

    def multipliers():
        return {name: admm.rho * q.clamp(max=admm._rho.limit) * admm.u[name] for name, q in admm.q.items()}

    for number, batch in enumerate(batches(0, 400), 1):
        now = optimizer.param_groups[0]["lr"]
        before = None if admm._rho.limit is None else multipliers()
        step(model, optimizer, batch)
        if before is not None:
            for name, after in multipliers().items():
                torch.testing.assert_close(after, before[name], rtol=1e-4, atol=1e-7)
            pushes.append(now * admm.rho)
            assert all(now * admm.rho * q.clamp(max=admm._rho.limit).max() < 0.5001 for q in admm.q.values())
        if number % 10 == 0:
            admm.update()
        restarts.step()
    assert max(pushes) < 0.5001 and admm.report.worst < 0.1
    assert admm.cut().n_kept == keep_count(sum(weight.numel() for weight in admm.weights.values()), 0.8)


def test_a_rate_that_goes_up_and_down_is_taken_as_it_is_once_it_has_fallen():
    """However large the rate is that the optimizer was made with, and that no step has."""

    def rhos(made_with):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), made_with)
        cycle = torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 0.02, step_size_up=50, cycle_momentum=False)
        admm = GlobalADMM(model, 0.8, updates=40)
        return trained_rhos(model, optimizer, admm, cycle.step), admm.report.worst

    for found, worst in (rhos(0.02), rhos(1.0)):
        assert found == sorted(found) and worst < 0.02


@pytest.mark.parametrize("warmup", [0, 300])
@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize(("kind", "rate"), [(torch.optim.SGD, 0.1), (torch.optim.AdamW, 3e-3)])
def test_rho_follows_an_optimizer_that_has_loaded_its_state(kind, rate, gradual, warmup):
    """Whatever rate the new one was made with: torch does not load that."""

    def begin(made_with):
        model = network()
        optimizer = kind(model.parameters(), made_with)
        admm = GlobalADMM(model, 0.8, updates=40, gradual=gradual)
        admm.attach(optimizer)
        return model, optimizer, admm

    def rhos(stop):
        parts, found = begin(rate), []
        for number, batch in enumerate(batches(0, 400), 1):
            if number == stop:
                states = copy.deepcopy([part.state_dict() for part in parts])
                parts = begin(100 * rate)
                for part, state in zip(parts, states):
                    part.load_state_dict(state)
            model, optimizer, admm = parts
            for group in optimizer.param_groups:
                group["lr"] = rate * (number / warmup if number < warmup else 1 - (number - warmup) / 401)
            step(model, optimizer, batch)
            if number % 10 == 0:
                admm.update()
                found.append(admm.rho)
        return found

    assert rhos(206) == rhos(None)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=1.0), "a momentum of 1 .* below 1 is needed"),
        (
            lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, dampening=1),
            "a dampening of 1 .* below 1",
        ),
        (lambda parameters: torch.optim.Optimizer(parameters, {"step_size": 0.1}), "have no 'lr'"),
        (lambda parameters: torch.optim.Optimizer(parameters, {"lr": None}), "have no 'lr'"),
    ],
)
def test_an_optimizer_whose_steps_have_no_known_length_is_refused(make, named):
    model = network()
    with pytest.raises(ValueError, match=named):
        GlobalADMM(model, 0.8).attach(make(model.parameters()))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_groups_without_a_pruned_weight_have_no_part_in_rho(kind):
    def rhos(*other):
        model = network()
        parameters = dict(model.named_parameters())
        pruned = [parameters.pop(name) for name in ("0.weight", "4.weight", "6.weight")]
        rest = {"params": list(parameters.values()), "lr": 0.0}
        groups = [rest | options for options in other] + [{"params": pruned, "lr": 0.01, **momentum}]
        optimizer = kind(groups, lr=0.01)
        admm = GlobalADMM(model, 0.8, updates=30, gradual=True)
        admm.attach(optimizer)
        found = []
        for number, batch in enumerate(batches(0, 300), 1):
            model.zero_grad()
            F.cross_entropy(model(batch[0]), batch[1]).backward()
            for parameter in parameters.values():
                parameter.grad = None  # the same for every rate
            optimizer.step()
            if number % 10 == 0:
                admm.update()
                found.append(admm.rho)
        return found

    momentum = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    alone = rhos({})
    assert rhos({"lr": 1.0} | ({"momentum": 0.5} if momentum else {})) == alone


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-3])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("gradual", [False, True])
def test_a_layer_of_almost_nothing_does_not_switch_off_the_rest(size, kind, gradual):
    """Its q is up to 10^30 times that of the others, which need a penalty all the same. (With a constant rate, Adam's W
    goes on swinging.)"""
    model = Free((20, 20), (20, 20))
    targets = torch.randn(800, generator=torch.Generator().manual_seed(0))
    targets[400:] *= size
    with torch.no_grad():
        for weight, target in zip(model.parameters(), targets.split(400)):
            weight.copy_(target.view(20, 20))
    optimizer = kind(model.parameters(), 0.02)
    admm = GlobalADMM(model, 0.8, updates=40, gradual=gradual)
    admm.attach(optimizer)
    for number in range(1, 801):
        optimizer.zero_grad()
        (model.vector() - targets + 0.1).square().sum().backward()
        optimizer.step()
        if number % 20 == 0:
            report = admm.update()
    assert admm.rho > (0.1 if gradual else 1) and (kind is torch.optim.AdamW or report.worst < 0.05)
    assert admm.cut().n_kept == 160


@pytest.mark.parametrize("kind, rho", [(torch.optim.SGD, 0.1 / (1e-3 * 5)), (torch.optim.RMSprop, 1e-6)])
def test_rho_moves_w_between_two_updates_where_steps_follow_the_gradient(kind, rho):
    """A tenth of a removed weight goes in the five steps between two updates; adaptive steps have their own length."""
    model = network()
    optimizer = kind(model.parameters(), 1e-3)
    admm = GlobalADMM(model, 0.8, updates=4, rho=RhoSchedule(start=1e-6, stages=2, most=1.0))
    admm.attach(optimizer)
    for number, batch in enumerate(batches(0, 10), 1):
        step(model, optimizer, batch)
        if number % 5 == 0:
            admm.update()
    assert admm.rho == pytest.approx(rho)


@pytest.mark.parametrize(
    ("options", "steps_in_rates"),
    [
        ({}, 1),
        ({"momentum": 0.9}, 10),
        ({"momentum": 0.9, "dampening": 0.5}, 5),
        ({"momentum": 0.5, "dampening": 0.9}, 0.2),
        ({"dampening": 0.5}, 1),
    ],
)
def test_the_first_rho_knows_how_far_a_steady_gradient_moves_a_weight(options, steps_in_rates):
    model = nn.Linear(3, 3, bias=False)
    start = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, **options)
    for _ in range(200):
        before = model.weight.detach().clone()
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    step_length = float((before - model.weight.detach()).mean())
    assert step_length == pytest.approx(1e-3 * steps_in_rates, rel=1e-3), "what torch does"
    model.weight.data.copy_(start)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, **options)
    admm = GlobalADMM(model, 0.5, updates=40, importance="raw", gradual=True)
    admm.attach(optimizer)
    for _ in range(20):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    admm.update()
    assert admm.rho * 20 * step_length == pytest.approx(admm.schedule.effective, rel=1e-3)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.Adagrad])
def test_a_warm_up_in_stairs_is_seen_also_where_the_optimizer_is_made_with_a_state(kind):
    model = nn.Linear(40, 40)
    optimizer = kind(model.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda stair: 0.1 * (1 + 9 * stair))
    admm = GlobalADMM(model, 0.5, updates=40, importance="raw", gradual=True)
    admm.attach(optimizer)
    for _ in range(20):
        model.weight.grad = torch.randn(40, 40)
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    admm.update()
    scheduler.step()
    assert admm.rho * 0.01 * 20 == pytest.approx(1), "of the rate that the warm-up rises to"


@pytest.mark.parametrize(("effective", "rate", "larger"), [(0.0, 1e-6, False), (1.0, 1e-6, True), (1.0, 0.1, False)])
def test_where_the_ratio_grows_the_first_rho_follows_from_all_steps_before_the_first_update(effective, rate, larger):
    """From how far they go, however long the gradient is; where that is not to count, from the gradient of them all."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.5)
    schedule = RhoSchedule(relative_start=2.0, effective=effective, stable=1e9)
    admm = GlobalADMM(model, 0.8, updates=40, importance="raw", gradual=True, rho=schedule)
    admm.attach(optimizer)
    squares = []
    for number, (pictures, labels) in enumerate(batches(0, 15), 1):
        optimizer.zero_grad()
        (number * F.cross_entropy(model(pictures), labels)).backward()
        squares.append(sum(float(weight.grad.square().sum()) for weight in admm.weights.values()))
        optimizer.step()
        assert admm.rho is None
    pull = _full_pull(admm, 0.8)
    admm.update()
    measured, settled = 2 * (sum(squares) / 15) ** 0.5 / pull, effective * (1 - 0.5) / (rate * 15)
    assert admm.rho == pytest.approx(settled or measured, rel=1e-3) and (settled > measured) == larger


def test_while_the_ratio_grows_rho_grows_by_as_much_as_w_lags_more_than_a_quarter_behind():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-9)  # W stays where it is
    schedule = replace(RhoSchedule.growing(), decoupled=False)
    admm = GlobalADMM(model, 0.97, updates=40, gradual=True, rho=schedule)
    admm.attach(optimizer)
    lags = []
    for number, batch in enumerate(batches(0, 28), 1):  # from the 30th on rho grows to bring W to Z
        step(model, optimizer, batch)
        before = admm.rho
        lags.append(admm.update().worst)
        if number == 1:
            continue
        wanted = max(lags[-1] / 0.25, 1) if number % 2 == 0 else 1  # a stage has two updates
        assert admm.rho / before == pytest.approx(wanted)
    assert min(lags) < 0.25 and max(lags) > 0.5


def test_rho_may_grow_where_the_rate_has_fallen():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = RhoSchedule(start=1.0, least=50.0, most=50.0, effective=0.0)
    admm = GlobalADMM(model, 0.8, updates=4, importance="raw", rho=schedule)
    admm.attach(optimizer)
    rhos = []
    for rate, batch in zip((0.1, 0.01, 0.001), batches(0, 3)):
        optimizer.param_groups[0]["lr"] = rate
        step(model, optimizer, batch)
        admm.update()
        rhos.append(admm.rho)
    assert rhos == pytest.approx([5.0, 50.0, 500.0], rel=1e-3)


@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_the_first_rho_of_half_precision_is_that_of_single(size):
    """The squares of a million weights add up to more than float16 holds, or each of them is less than it does."""

    def rho(dtype):
        model = torch.nn.Linear(1000, 1000, bias=False)
        with torch.no_grad():
            model.weight.copy_(size * torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0)))
        model.to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), 1e-9)
        admm = GlobalADMM(model, 0.5, importance="raw")
        admm.attach(optimizer)
        for _ in range(11):
            model.weight.grad = torch.full_like(model.weight, 0.01)
            optimizer.step()
        return admm.rho

    assert rho(torch.float16) == pytest.approx(rho(torch.float32), rel=1e-2)


def rising(number):
    """A warm-up by hand, in stairs of an epoch each."""
    return 0.02 * (1 + min(number // 16, 4))


def falling(number):
    return 0.1 * (1 - number / 200)


def going_up_and_down(number):
    return 0.1 * (1 - (number % 30) / 31)


def over_two_hills(number):
    """The first stop is on the first hill, from which it only falls, the second before the other one."""
    return 0.02 if number < 10 else 0.05 if number < 20 else 0.03 if number < 50 else 0.06


def run_with(rate, thing, start, end):
    model, optimizer, admm = thing
    for number, batch in enumerate(batches(4, end)):
        if number >= start:
            optimizer.param_groups[0]["lr"] = rate(number)
            step(model, optimizer, batch)
            if number % 12 == 11:
                admm.update()


@pytest.mark.parametrize("rate", [rising, falling, going_up_and_down, over_two_hills])
@pytest.mark.parametrize("importance", ["fisher", "lamp"])
@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize("stop", [20, 50])
def test_what_is_known_of_the_rate_survives_a_stop(rate, importance, gradual, stop):
    """The optimizer of the run that goes on is made with another rate; and one that has gone on goes back as well."""

    def build():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        admm = GlobalADMM(model, 0.8, updates=8, importance=importance, gradual=gradual)
        admm.attach(optimizer)
        return model, optimizer, admm

    whole = build()
    run_with(rate, whole, 0, stop)
    saved = [copy.deepcopy(thing.state_dict()) for thing in whole]
    run_with(rate, whole, stop, 96)
    ended = [weight.clone() for weight in whole[0].parameters()]
    for thing in (build(), whole):
        for part, state in zip(thing, copy.deepcopy(saved)):
            part.load_state_dict(state)
        run_with(rate, thing, stop, 96)
        assert all(torch.equal(a, b) for a, b in zip(ended, thing[0].parameters()))
