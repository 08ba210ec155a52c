"""How far a detector's answers are from those of another one with the same heads: what distillation makes small.

The boxes of a picture tell a few cells of the heads what to answer; a trained network tells all of them, so the same
pictures teach more. Of classes and boxes only what it says where it sees an object means anything, so they count as
much as it believes in one there (objectness-scaled distillation: Mehta and Ozturk 2018, arXiv 1805.06361).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from detect_prune.detection.decode import head_values, probabilities
from detect_prune.detection.loss import cross_entropy
from detect_prune.structures import HeadSpec

_STEEPEST = 4.0
"""Logits differ by four times what their probabilities do, where the logistic function is the steepest."""


def head_distance(raws: Sequence[Tensor], goals: Sequence[Tensor], heads: Sequence[HeadSpec]) -> Tensor:
    """The distance of the heads `raws` from `goals`: 0 where they are equal, and above it elsewhere.

    Kullback-Leibler divergences of objectness and, times the objectness that `goals` have, of each class; and, times
    that as well, squared differences of the four box numbers before their activation (with new_coords, where they come
    activated, of four times the numbers). Summed over cells and heads and averaged over pictures, as `YoloLoss` is.
    The normalizers of [yolo] for objectness and for all of a head's deltas are in them; iou_normalizer is not, which is
    tuned for a derivative of Darknet's that is far too long.

    Args:
        raws: one (B, A * (5 + C), h, w) a head, of any floating type; computed in float32. Gradients go here.
        goals: the teacher's, likewise; no gradients go there.
        heads: the [yolo] sections, in the order of the network's outputs.

    Raises:
        ValueError: a tensor is not one of its head.
    """
    with torch.autocast(raws[0].device.type, enabled=False):
        terms = [
            _distance(head_values(raw, head), head_values(goal.detach(), head), head)
            for raw, goal, head in zip(raws, goals, heads, strict=True)
        ]
    return torch.stack(terms).sum() / raws[0].shape[0]


def _distance(values: Tensor, goal: Tensor, head: HeadSpec) -> Tensor:
    """(B, A, h, w, 5 + C) twice -> scalar, summed over the batch."""
    believed = probabilities(goal[..., 4:5], head)
    objectness = _divergence(values[..., 4:5], goal[..., 4:5], head)
    classes = _divergence(values[..., 5:], goal[..., 5:], head, believed.expand_as(goal[..., 5:]))
    apart = values[..., :4] - goal[..., :4]
    box = (believed * (_STEEPEST * apart if head.new_coords else apart).square()).sum()
    return head.delta_normalizer * (head.obj_normalizer * objectness + classes + box)


def _divergence(values: Tensor, goal: Tensor, head: HeadSpec, weight: Tensor | None = None) -> Tensor:
    """Of the probabilities of `values` from those of `goal`, summed: cross entropy less the entropy of the goal."""
    wanted = probabilities(goal, head)
    return cross_entropy(values, wanted, head, weight) - cross_entropy(goal, wanted, head, weight)
