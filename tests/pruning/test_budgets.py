"""From one number to a set: what is counted, and that just so much of it is left."""

from decimal import Decimal

import numpy as np
import pytest
import torch
from torch import nn

from detect_prune.classification import LeNet5
from detect_prune.pruning import (
    BlockBudget,
    GlobalADMM,
    GlobalBudget,
    LayerwiseRatio,
    NOfM,
    bytes_per_weight,
    count_macs,
    keep_count,
    macs_per_weight,
    magnitude_masks,
    make_constraint,
    prunable_weights,
)
from detect_prune.pruning.budgets import bytes_budget, macs_budget, ratio_budget

PICTURE = torch.zeros(1, 1, 28, 28)
DENSE_MACS = 24 * 24 * 500 + 8 * 8 * 25000 + 400000 + 5000


def lenet():
    torch.manual_seed(0)
    return LeNet5()


def test_a_weight_costs_its_output_positions():
    model = lenet()
    assert macs_per_weight(model, prunable_weights(model), PICTURE) == {
        "conv1.weight": 24 * 24,
        "conv2.weight": 8 * 8,
        "fc1.weight": 1,
        "fc2.weight": 1,
    }


@pytest.mark.parametrize("ratio", [0.3, 0.8, "0.95"])
def test_macs_left_are_the_budget_to_within_one_weight(ratio):
    model = lenet()
    constraint = make_constraint(model, ratio, budget="macs", example_input=PICTURE)
    assert constraint.budget == keep_count(DENSE_MACS, ratio)
    magnitude_masks(model, constraint=constraint).apply()
    spent = sum(layer.nonzero for layer in count_macs(model, PICTURE).values())
    assert constraint.budget - 24 * 24 < spent <= constraint.budget


def test_macs_are_those_of_the_chosen_layers():
    model = lenet()
    constraint = make_constraint(model, 0.5, budget="macs", example_input=PICTURE, exclude=["conv1"])
    assert constraint.budget == (DENSE_MACS - 24 * 24 * 500) / 2


def test_admm_takes_a_budget_of_macs_to_the_cut():
    model = lenet()
    constraint = make_constraint(model, 0.9, budget="macs", example_input=PICTURE)
    admm = GlobalADMM(model, constraint=constraint, rho=1e-3, updates=2)
    admm.attach(torch.optim.SGD(model.parameters(), 0.01))
    admm.update()
    admm.cut()
    spent = sum(layer.nonzero for layer in count_macs(model, PICTURE).values())
    assert constraint.budget - 24 * 24 < spent <= constraint.budget


def test_admm_ranks_by_lamp_over_cost():
    model = lenet()
    constraint = make_constraint(model, 0.9, budget="macs", example_input=PICTURE)
    found = GlobalADMM(model, constraint=constraint, importance="lamp", updates=2).cut()
    expected = magnitude_masks(lenet(), constraint=constraint, importance="lamp")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_shared_weight_works_in_both_layers_and_an_idle_one_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    model = Net()
    x = torch.zeros(2, 4)
    assert macs_per_weight(model, prunable_weights(model, include=["one"]), x) == {"one.weight": 2}
    with pytest.raises(ValueError, match=r"layer of idle\.weight was seen"):
        macs_budget(model, prunable_weights(model), 0.5, x)


def test_a_weight_that_is_used_once_for_a_batch_is_not_free():
    class Once(nn.Linear):
        def forward(self, x):
            return x + super().forward(torch.ones(1, 4))

    model = Once(4, 4)
    assert macs_per_weight(model, prunable_weights(model), torch.zeros(64, 4)) == {"weight": 1}


def test_bytes():
    weights = prunable_weights(lenet())
    assert set(bytes_per_weight(weights).values()) == {4.0}
    costs = bytes_per_weight(weights, {"conv*": 16, "fc2.weight": 4, "*": 8})
    assert list(costs.values()) == [2.0, 2.0, 1.0, 0.5]
    assert bytes_budget(weights, 0.29).budget == 4 * (430500 - 124845)
    half = bytes_budget(weights, 0.5, {"conv*": 16, "fc2.weight": 4, "*": 8})
    assert half.budget == (2 * 25500 + 400000 + 2500) / 2
    for bits, match in (({"nosuch": 8}, "nosuch"), ({"fc1": 0}, "more than 0 bits"), ({"fc1": float("inf")}, "bits")):
        with pytest.raises(ValueError, match=match):
            bytes_per_weight(weights, bits)


@pytest.mark.parametrize("bits", [1.6, 0.1, 1.58, 3])
@pytest.mark.parametrize("ratio", [0.5, 0.9, "0.7"])
@pytest.mark.parametrize("length", [None, 10])
def test_parts_of_a_bit_add_up(bits, ratio, length):
    model = nn.Linear(100, 10)
    pattern = None if length is None else f"1x{length}"
    constraint = make_constraint(model, ratio, budget="bytes", bits={"*": bits}, pattern=pattern)
    assert magnitude_masks(model, constraint=constraint).n_kept == keep_count(1000, ratio)


def test_costs_without_a_common_unit_are_paid_all_the_same():
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in range(4)))
    costs = {f"{i}.weight": (2 + i) ** 0.5 for i in range(4)}
    masks = magnitude_masks(model, constraint=GlobalBudget(300.0, costs))
    spent = sum(kept * costs[name] for name, (kept, _) in masks.kept().items())
    assert 300 - 5**0.5 < spent <= 300


@pytest.mark.parametrize("ratio", [0.8, 0.9967, 0.99671, 0.29])
@pytest.mark.parametrize("bits", [{}, {"*": 5}, {"*": 0.3}])
def test_equal_bytes_are_a_ratio(ratio, bits):
    model = lenet()
    one = magnitude_masks(model, ratio)
    other = magnitude_masks(model, constraint=make_constraint(model, ratio, budget="bytes", bits=bits, floor=0.0))
    assert one.n_kept == keep_count(430_500, ratio)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ratio", [0.29, 0.57, 0.58])
def test_equal_multiplications_are_a_ratio(ratio):
    model = nn.Sequential(nn.Conv2d(1, 11, 1, bias=False))
    constraint = make_constraint(model, ratio, budget="macs", example_input=torch.zeros(1, 1, 3, 5), floor=0.0)
    assert constraint.costs == {"0.weight": 15}
    assert magnitude_masks(model, constraint=constraint).n_kept == keep_count(11, ratio)


def test_a_budget_that_just_pays_for_a_weight_pays_for_it():
    """.29 is less than 29 times .01, in floats."""
    masks = magnitude_masks(nn.Linear(100, 1), constraint=GlobalBudget(0.29, {"weight": 0.01}))
    assert masks.n_kept == 29


def test_plain_values_describe_each_set():
    model = lenet()
    assert isinstance(make_constraint(model, 0.8), GlobalBudget)
    assert isinstance(make_constraint(model, 0.8, layerwise=True), LayerwiseRatio)
    pattern = make_constraint(model, None, pattern="2:4")
    assert isinstance(pattern, NOfM) and (pattern.n, pattern.m) == (2, 4)
    blocks = make_constraint(model, 0.8, pattern="1x4", budget="macs", example_input=PICTURE)
    assert isinstance(blocks, BlockBudget) and blocks.length == 4 and blocks.costs["conv1.weight"] == 576
    masks = magnitude_masks(model, constraint=blocks)
    spent = sum(kept * blocks.costs.get(name, 1) for name, (kept, _) in masks.kept().items())
    assert blocks.budget - 4 * 576 < spent <= blocks.budget


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"budget": "macs"}, "example input"),
        ({"pattern": "1x0"}, "no pattern"),
        ({"pattern": "1x4", "layerwise": True}, "single weights"),
        ({"pattern": "2:4"}, "no ratio can be given"),
        ({"ratio": None}, "ratio is missing"),
        ({"floor": 2.0}, "floor"),
        ({"ratio": 0.999995}, "at least one weight"),
        ({"pattern": "1x16", "ratio": 0.9999}, "at least one block of 16 weights"),
        ({"pattern": "2:4", "ratio": None, "floor": 0.1}, "no use"),
        ({"layerwise": True, "floor": 0.1}, "no use"),
    ],
)
def test_what_does_not_go_together_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make_constraint(lenet(), **({"ratio": 0.5} | options))


@pytest.mark.parametrize("options", [{}, {"budget": "macs"}, {"budget": "bytes"}, {"pattern": "1x4"}])
def test_a_budget_is_for_the_layers_that_it_was_made_for(options):
    """The others would have to live on it too, at a cost that nobody counted."""
    model = lenet()
    constraint = make_constraint(model, 0.5, example_input=PICTURE, include=["conv*"], **options)
    assert magnitude_masks(model, constraint=constraint, include=["conv*"]).n_total == 25500
    for wrong in ({}, {"include": ["conv1"]}):
        with pytest.raises(ValueError, match=r"made for conv1\.weight, conv2\.weight, and not for conv1\.weight"):
            GlobalADMM(model, constraint=constraint, **wrong)
    with pytest.raises(ValueError, match=r"made for .* wrapped hand over the inside"):
        magnitude_masks(nn.DataParallel(model), constraint=constraint, include=["*conv*"])


def test_numbers_of_any_kind_are_read():
    model = lenet()
    weights = prunable_weights(model)
    one = bytes_per_weight(weights, {"fc*": 4})
    assert bytes_per_weight(weights, {"fc*": Decimal(4)}) == bytes_per_weight(weights, {"fc*": np.float32(4)}) == one
    floors = [ratio_budget(weights, 0.99, floor).floor for floor in (0.05, Decimal("0.05"), "0.05")]
    assert floors == [0.05] * 3


def test_the_floor_is_that_of_bytes_that_are_no_whole_numbers():
    model = nn.Sequential(nn.Linear(20, 50), nn.Linear(50, 20))
    with torch.no_grad():
        model[1].weight.mul_(1e-4)
    # An even cut leaves half of each layer; the second keeps half of that.
    constraint = make_constraint(model, 0.5, budget="bytes", bits={"*": 1.6}, floor=0.5)
    assert constraint.floors({"0.weight": 1000, "1.weight": 1000}) == [250, 250]
    assert magnitude_masks(model, constraint=constraint).kept()["1.weight"] == (250, 1000)


def test_blocks_have_the_floor_that_was_asked_for():
    assert make_constraint(nn.Linear(8, 8), 0.5, pattern="1x4", floor=0.5).floor == 0.5
    assert make_constraint(nn.Linear(8, 8), 0.5, pattern="1x4").floor == 0.05
