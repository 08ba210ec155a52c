"""N of M and blocks: the pattern holds in every group, and the choice is the best that the pattern allows."""

import itertools

import pytest
import torch

from detect_prune.pruning import BlockBudget, Diverged, NOfM

ONE = torch.tensor(1.0)


def layer(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def groups_of(mask, m):
    """(groups, <= m) along the inputs, the last group of each row as long as it is."""
    return [group for row in mask.movedim(1, -1).reshape(-1, mask.shape[1]) for group in row.split(m)]


@pytest.mark.parametrize("shape", [(6, 8, 3, 3), (5, 12), (4, 6, 3), (3, 7, 2, 2), (8, 3, 3, 3), (16, 1, 3, 3)])
@pytest.mark.parametrize("n, m", [(2, 4), (1, 4), (3, 8), (1, 2)])
def test_n_of_m_holds_in_every_group(shape, n, m):
    mask = NOfM(n, m).project({"w": layer(*shape)}, {"w": ONE}).masks[0]
    for group in groups_of(mask, m):
        assert int(group.sum()) == min(n, len(group))


def test_n_of_m_keeps_the_best_of_each_group():
    values, worth = layer(5, 8, seed=1), torch.rand(5, 8, generator=torch.Generator().manual_seed(2)) + 0.01
    mask = NOfM(2, 4).project({"w": values}, {"w": worth}).masks[0]
    gain = worth * values.square()
    for kept, gains in zip(mask.view(10, 4), gain.view(10, 4)):
        best = max(float(gains[list(pair)].sum()) for pair in itertools.combinations(range(4), 2))
        assert float(gains[kept].sum()) == pytest.approx(best)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_makes_no_ties_of_scores(dtype):
    values, worth = layer(512, 1024, seed=1).to(dtype), torch.tensor(0.7)
    for constraint in (NOfM(2, 4), BlockBudget(100_000, 4)):
        masks = [constraint.project({"w": v}, {"w": worth}).masks[0] for v in (values, values.double())]
        assert torch.equal(*masks)


def test_n_of_m_is_exact_where_all_are_equal_and_the_first_stay():
    mask = NOfM(2, 4).project({"w": torch.zeros(2, 10)}, {"w": ONE}).masks[0]
    assert mask[0].tolist() == [True, True, False, False] * 2 + [True, True]


def test_a_pattern_is_approached_step_by_step():
    values = {"w": layer(10, 16)}
    kept = [int(NOfM(2, 8).project(values, {"w": ONE}, p).masks[0].sum()) for p in (0.0, 0.5, 0.8, 1.0)]
    assert kept == [160, 100, 60, 40]
    assert NOfM(2, 8).keep_share({"w": 160}, 0.5) == 5 / 8
    budget = BlockBudget(40, 4)
    kept = [int(budget.project(values, {"w": ONE}, p).masks[0].sum()) for p in (0.0, 0.5, 1.0)]
    assert kept[0] == 160 and 92 < kept[1] <= 100 and 36 < kept[2] <= 40


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (10, 7), (3, 2)])
def test_blocks_go_as_a_whole_and_the_budget_is_spent(dim, shape):
    values = {"a": layer(*shape), "b": 0.5 * layer(12, 9, seed=1)}
    total = sum(value.numel() for value in values.values())
    masks = BlockBudget(total // 2, 4, dim=dim).project(values, dict.fromkeys(values, ONE)).masks
    for mask in masks:
        for part in mask.movedim(dim, -1).reshape(-1, mask.shape[dim]).split(4, dim=1):
            assert (part.all(1) | ~part.any(1)).all()
    spent = sum(int(mask.sum()) for mask in masks)
    assert total // 2 - 4 < spent <= total // 2


def test_blocks_keep_the_best_of_all_sets_of_blocks():
    for seed, scale in itertools.product(range(10), (1, 1e-25)):  # whose square is no float32
        values, worth = {"w": layer(4, 5, seed=seed) * scale}, {"w": torch.rand(4, 5) + 0.1}
        each = worth["w"] * values["w"].double().square()
        gains = each.view(2, 2, 5).sum(1).flatten()  # ten blocks of two outputs
        mask = BlockBudget(6, 2).project(values, worth).masks[0]
        best = max(float(gains[list(chosen)].sum()) for chosen in itertools.combinations(range(10), 3))
        assert float(each[mask].sum()) == pytest.approx(best, rel=1e-6, abs=0)


def test_blocks_respect_costs_and_floors():
    values = {"a": layer(8, 8), "b": 1e-3 * layer(8, 8, seed=1)}
    ones = dict.fromkeys(values, ONE)
    chosen = BlockBudget(64, 4, floor=0.5).project(values, ones)
    assert [int(mask.sum()) for mask in chosen.masks] == [48, 16] and chosen.bound == [1]
    dear = BlockBudget(160, 4, costs={"a": 3.0}).project(values, ones).masks
    assert 160 - 12 < 3 * int(dear[0].sum()) + int(dear[1].sum()) <= 160


def test_a_floor_is_of_a_layer_and_not_of_what_is_left_over_beside_whole_blocks():
    values = {"a": 1e-3 * layer(5, 2), "b": layer(8, 8, seed=1)}
    first, _ = BlockBudget(40, 4).project(values, dict.fromkeys(values, ONE)).masks
    assert first.sum() == 4 and first[:4].sum() == 4


def test_floors_are_whole_blocks_and_no_more_than_there_are():
    budget = BlockBudget(100, 4, costs={"a": 2.0}, floor=1.0)
    # An even cut of 176 leaves 100 / 176 of each: 36 of the first, 22 of the second, and 9 of the short third.
    assert budget.block_floors({"a": (8, 8), "b": (4, 8), "c": (2, 8)}) == [64 * 100 // 176 // 4, 18 // 4, 9 // 2]
    # Of five outputs four are a whole block, so there is no second one.
    assert BlockBudget(9, 4, floor=1.0).block_floors({"a": (5, 2)}) == [2]


def test_masks_lie_in_memory_as_the_weights_do():
    values = layer(4, 8, 3, 3).to(memory_format=torch.channels_last)
    for constraint in (NOfM(2, 4), BlockBudget(100, 2)):
        mask = constraint.project({"w": values}, {"w": ONE}).masks[0]
        assert mask.stride() == values.stride()
        same = constraint.project({"w": values.contiguous()}, {"w": ONE}).masks[0]
        assert torch.equal(mask, same)


def test_what_is_no_pattern_is_refused():
    for n, m in ((0, 4), (4, 4), (5, 4), (1.5, 4), (2, 4.0)):
        with pytest.raises(ValueError, match="whole numbers with 0 < n < m"):
            NOfM(n, m)
    for length, dim in ((0, 0), (4, 2), (4.0, 0)):
        with pytest.raises(ValueError, match="block"):
            BlockBudget(10, length, dim=dim)
    with pytest.raises(Diverged):
        NOfM(2, 4).project({"w": torch.full((2, 4), float("nan"))}, {"w": ONE})
    with pytest.raises(ValueError, match=r"one block of 4 weights.*cost 8"):
        BlockBudget(2, 4).project({"a": layer(8, 8), "b": layer(8, 8)}, {"a": ONE, "b": ONE})
