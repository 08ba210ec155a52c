"""The distance between two classifiers' logits, against its definition."""

import math

import pytest
import torch

from detect_prune.classification import logit_distance


def test_it_is_the_divergence_of_the_softened_classes():
    logits, goal = torch.tensor([[3.0, -1.0], [0.5, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 4.0]])
    expected = 0.0
    for ours, theirs in zip(logits.tolist(), goal.tolist()):
        q, p = ([math.exp(v / 4) / sum(math.exp(w / 4) for w in side) for v in side] for side in (ours, theirs))
        expected += 16 / 2 * sum(a * math.log(a / b) for a, b in zip(p, q))
    assert logit_distance(logits, goal).item() == pytest.approx(expected)


def test_a_copy_is_at_no_distance_and_has_nowhere_to_go():
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    distance = logit_distance(logits, logits.detach())
    assert distance.item() == pytest.approx(0, abs=1e-6)
    distance.backward()
    assert logits.grad.abs().max() < 1e-6


def test_what_is_added_to_all_classes_does_not_count():
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    goal = logits.flip(0)
    torch.testing.assert_close(logit_distance(logits + 7, goal - 3), logit_distance(logits, goal))


def test_half_precision_is_compared_in_float32_and_the_goal_is_left_alone():
    logits, goal = (torch.randn(5, 10, generator=torch.Generator().manual_seed(seed)).bfloat16() for seed in (0, 1))
    found = logit_distance(logits.requires_grad_(), goal.requires_grad_())
    assert found.dtype == torch.float32 and torch.equal(found, logit_distance(logits.float(), goal.float()))
    found.backward()
    assert logits.grad.any() and goal.grad is None
