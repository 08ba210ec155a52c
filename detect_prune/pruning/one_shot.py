"""Pruning at one stroke: what a constraint keeps of a network as it is."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

import torch
from torch import Tensor, nn

from detect_prune.pruning.budgets import one_constraint
from detect_prune.pruning.constraints import Constraint
from detect_prune.pruning.importance import Importance, make_importance, scaled_worths
from detect_prune.pruning.masks import Masks
from detect_prune.pruning.prunable import detached, prunable_weights
from detect_prune.pruning.selection import Selection


@torch.no_grad()
def magnitude_masks(
    model: nn.Module,
    ratio: float | str | Decimal | None = None,
    *,
    importance: str | Importance = "raw",
    floor: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    constraint: Constraint | None = None,
) -> Masks:
    """One-shot pruning: the masks of the network as it is, without training for it. Nothing is applied yet.

    Args:
        ratio: removal ratio over all prunable weights; or give `constraint` instead.
        importance: what a weight is worth beside its square; `raw` is the textbook's global magnitude. One that is
            measured from gradients is handed over as an object that has seen some.
        floor: beside a ratio, see GlobalBudget; 0 unless given.
        include, exclude: see prunable_weights.

    Raises:
        ValueError: a bad ratio or pattern, both or neither of ratio and constraint, or a floor beside a constraint.
        Diverged: the weights are not finite, or all are zero.
    """
    weights = prunable_weights(model, include, exclude)
    constraint = one_constraint(weights, ratio, constraint, floor, 0.0)
    return Masks.chosen(weights, best_support(weights, constraint, make_importance(importance)))


def best_support(
    weights: Mapping[str, Tensor], constraint: Constraint, importance: Importance, progress: float = 1.0
) -> Selection:
    """What the constraint keeps of weights as they are.

    Args:
        progress: see Constraint.project.

    Raises:
        Diverged: the weights are not finite, or all are zero.
    """
    values = detached(weights)
    keep = constraint.keep_share({name: value.numel() for name, value in values.items()}, progress)
    worths = scaled_worths(importance, values, keep, constraint.costs)
    return constraint.project(values, worths, progress)
