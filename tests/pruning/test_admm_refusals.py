"""What ADMM refuses, and scaled gradients, overflows and weight decay, with which it must agree."""

import copy

import numpy as np
import pytest
import torch
from admm_problems import Free, batches, network, step
from torch import nn
from torch.nn import functional as F

from detect_prune.pruning import (
    Diverged,
    GlobalADMM,
    GlobalBudget,
    GradualMagnitude,
    LayerwiseRatio,
    NOfM,
    Raw,
    RhoSchedule,
    magnitude_masks,
    parameter_groups,
    prunable_weights,
)


def test_what_is_refused():
    model = network()
    for arguments in ({}, {"ratio": 0.5, "constraint": LayerwiseRatio(0.5)}):
        with pytest.raises(ValueError, match="either"):
            GlobalADMM(model, **arguments)
    for arguments, sentence in (
        ({"ratio": 1.2}, "strictly"),
        ({"ratio": 0.5, "updates": 0}, "at least one"),
        ({"ratio": 0.5, "updates": 1.5}, "whole number"),
        ({"ratio": 0.5, "importance": Raw}, "object of such a class"),
        ({"ratio": 0.5, "rho": -1.0}, "positive"),
        ({"ratio": 0.5, "floor": 2}, "floor"),
        ({"constraint": LayerwiseRatio(0.5), "floor": 0.1}, "has its own"),
        ({"constraint": 0.5}, "a constraint was expected.*make_constraint"),
        ({"constraint": "2:4"}, "a constraint was expected"),
        # At once, though the worth is not yet known.
        ({"ratio": 0.9999, "importance": "taylor"}, "smaller"),
        (
            {"constraint": LayerwiseRatio({"0.wieght": 0.5}), "importance": "fisher"},
            "no pruned layer 0.wieght; 0.weight",
        ),
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
    late = network()
    optimizer = torch.optim.SGD(late.parameters(), 0.1)
    GlobalADMM(late, 0.5).attach(optimizer)
    late[4].requires_grad_(False)
    with pytest.raises(ValueError, match=r"4\.weight must not be trained"):
        optimizer.step()
    with pytest.raises(ValueError, match="attach"):
        admm.update()
    with pytest.raises(ValueError, match="another network"):
        admm.load_state_dict(GlobalADMM(nn.Linear(3, 3), 0.5).state_dict())
    for state in (model.state_dict(), GradualMagnitude(model, LayerwiseRatio(0.5), updates=1).state_dict()):
        with pytest.raises(ValueError, match="no state of what prunes"):
            admm.load_state_dict(state)
    with pytest.raises(ValueError, match="of 40 updates"):
        admm.load_state_dict(GlobalADMM(model, 0.5, updates=40).state_dict())
    with pytest.raises(ValueError, match=r"made for .*'stages': 9"):
        admm.load_state_dict(GlobalADMM(model, 0.5, updates=admm.updates, rho=RhoSchedule(stages=9)).state_dict())
    with pytest.raises(ValueError, match="climb the penalty"):
        admm.attach(torch.optim.SGD(model.parameters(), 0.1, maximize=True))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    admm.attach(optimizer)
    step(model, optimizer, next(batches(0, 1)))
    admm.update()
    with pytest.raises(ValueError, match="planned"):
        admm.update()
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: torch.zeros(()))


def test_a_state_that_means_the_same_is_taken():
    model = network()
    names = list(prunable_weights(model))
    for one, same in ((0.5, "0.50"), (dict.fromkeys(names, 0.5), dict.fromkeys(reversed(names), "0.500"))):
        state = GlobalADMM(model, constraint=LayerwiseRatio(one)).state_dict()
        GlobalADMM(model, constraint=LayerwiseRatio(same)).load_state_dict(state)
    state = GlobalADMM(model, 0.5, rho=1, floor=0).state_dict()
    GlobalADMM(model, 0.5, rho=np.float64(1), floor=0.0).load_state_dict(state)


@pytest.mark.parametrize("rho", [np.float64(0.3), RhoSchedule(start=np.float64(0.3), most=np.float64(3))])
def test_numbers_of_numpy_s_are_saved_as_plain_ones(tmp_path, rho):
    model = network()
    admm = GlobalADMM(model, 0.5, rho=rho, updates=np.int64(3))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    admm.attach(optimizer)
    for batch in batches(0, 2):
        step(model, optimizer, batch)
        admm.update()
    gradual = GradualMagnitude(model, LayerwiseRatio(0.5), updates=np.int64(3))
    torch.save((admm.state_dict(), gradual.state_dict()), tmp_path / "state.pt")
    assert [state["updates"] for state in torch.load(tmp_path / "state.pt", weights_only=True)] == [3, 3]


def test_only_what_trains_pruned_weights_must_not_maximize():
    model, multiplier = network(), nn.Parameter(torch.zeros(1))
    groups = [{"params": model.parameters()}, {"params": [multiplier], "maximize": True}]
    GlobalADMM(model, 0.5).attach(torch.optim.SGD(groups, 0.1))


@pytest.mark.parametrize("wrong", [{"stable": 0.0}, {"stable": -1.0}, {"effective": -0.1}, {"goal": 0.0}])
def test_a_schedule_that_can_t_be_followed_is_refused(wrong):
    with pytest.raises(ValueError, match="can't be followed"):
        RhoSchedule(**wrong)


def test_diverged_weights_are_refused():
    model = network()
    admm = GlobalADMM(model, 0.5, rho=1.0)
    with torch.no_grad():
        model[4].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"not finite|not a number"):
        admm.update()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(None)])
def test_no_cut_hides_what_is_not_finite(bad, rows):
    model = network()
    admm = GlobalADMM(model, 0.5, rho=1.0)
    gradual = GradualMagnitude(model, GlobalBudget(50))
    with torch.no_grad():
        model[4].weight[rows, :3] = bad
    for cut in (
        admm.cut,
        gradual.update,
        lambda: magnitude_masks(model, 0.5),
        lambda: GlobalADMM(model, 0.5),
        lambda: GlobalADMM(model, 0.5, importance="taylor"),
    ):
        with pytest.raises(Diverged, match=r"4\.weight are not finite"):
            cut()


def test_a_state_that_was_made_for_something_else_is_refused():
    model = network()
    state = GlobalADMM(model, 0.9, updates=4).state_dict()
    per_layer = GlobalADMM(model, 0.9, updates=4, importance="fisher-layer")
    with pytest.raises(ValueError, match="this state was made for"):
        per_layer.load_state_dict(GlobalADMM(model, 0.9, updates=4, importance="fisher").state_dict())
    groups = GlobalADMM(model, constraint=NOfM(4, 8), updates=4)
    with pytest.raises(ValueError, match="this state was made for"):
        groups.load_state_dict(GlobalADMM(model, constraint=NOfM(2, 4), updates=4).state_dict())
    for other in (
        GlobalADMM(model, 0.5, updates=4),
        GlobalADMM(model, 0.9, updates=4, floor=0.9),
        GlobalADMM(model, 0.9, updates=4, importance="raw"),
        GlobalADMM(model, 0.9, updates=4, gradual=True),
        GlobalADMM(model, constraint=LayerwiseRatio(0.9), updates=4),
    ):
        with pytest.raises(ValueError, match="this state was made for"):
            other.load_state_dict(state)


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


def test_of_a_state_that_lacks_something_nothing_is_taken():
    admm, other = (GlobalADMM(network(), ratio, rho=1.0) for ratio in (0.8, 0.8))
    other.update()
    state, before = other.state_dict(), {name: z.clone() for name, z in admm.z.items()}
    for key in state:
        with pytest.raises(ValueError, match="its own state_dict"):
            admm.load_state_dict({name: value for name, value in state.items() if name != key})
    assert all(torch.equal(before[name], z) for name, z in admm.z.items())
    with pytest.raises(KeyError):
        admm.load_state_dict(state | {"u": {}})
    with pytest.raises(ValueError, match="torn"):
        admm.update()
    admm.load_state_dict(state)
    admm.update()


def test_a_weight_that_is_no_number_is_found_wherever_it_lies():
    """A layer is looked at in stretches."""
    model = nn.Linear(1000, 600, bias=False)
    admm = GlobalADMM(model, 0.5, rho=1.0)
    with torch.no_grad():
        model.weight[-1, -1] = float("nan")
    with pytest.raises(Diverged):
        admm.cut()
    with pytest.raises(Diverged):
        magnitude_masks(model, 0.5)
