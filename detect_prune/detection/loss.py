"""The loss of Darknet's yolo layer (src/yolo_layer.c, forward_yolo_layer), vectorised over a batch.

Darknet writes gradients ("deltas") by hand instead of a loss. Objectness and classes are binary cross entropies, whose
gradient is Darknet's delta to the letter. The box term is not: Darknet takes the derivative of the IoU by the box in
fractions of the input and hands it to tx, ty as it is (neither divided by the grid nor multiplied by the derivative of
the sigmoid) and to tw, th times exp(tw), exp(th) (not times the anchor). That makes it 10 to 100 times larger than the
true derivative, and iou_normalizer = 0.07 is tuned for it: with autograd's own the boxes would hardly train. So the box
term reports the value of the loss and passes Darknet's delta back, max_delta included.

Where this differs from Darknet:
- the derivative of the similarity is autograd's; Darknet's lacks a factor 1/2 in width and height, and in CIoU's
  aspect term the division by w² + h²;
- truths that share a cell and an anchor are averaged over their number, in Darknet over their distinct classes, and
  only if iou_thresh < 1;
- with new_coords objectness and classes train as cross entropies of the probability too. Darknet's delta there has a
  further factor p (1 - p), with which a confident mistake hardly learns;
- with objectness_smooth an assigned prediction is never a negative; in Darknet it stays one unless its box fits.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detect_prune.boxes import box_similarity, cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from detect_prune.detection.decode import activate_box, anchor_fractions, head_values, place_all, place_box
from detect_prune.structures import IOU_LOSSES, HeadSpec

# Overlaps of predictions and truths that are computed at a time; bounds the memory (about 50 bytes each).
_PAIRS_AT_ONCE = 1 << 22
# Beyond it a probability counts as certain: keeps the cross entropy of a saturated sigmoid, and its gradient, finite.
_CERTAIN = 1e-6
# A box that fits a truth is no negative only if some class of it is more probable (Darknet's compare_yolo_class).
_CLASS_MATCH = 0.25


class YoloLoss:
    """The training loss of a network's heads, with the settings of their [yolo] sections.

    A truth is assigned to the anchor (of all anchors of the network) with the highest IoU of shape, in the cell that
    holds its centre, and to every other anchor above iou_thresh. Assigned predictions learn box, objectness 1 and
    class; all others learn objectness 0, except those that overlap some truth by more than ignore_thresh.
    A truth whose best anchor no head uses (the smallest of yolov4-tiny's six) trains nothing, as in Darknet: with the
    next best anchor for such truths, fine-tuning the official weights ended at a lower AP.

    Args:
        heads: the [yolo] sections, in the order of the network's outputs.
    """

    def __init__(self, heads: Sequence[HeadSpec]):
        self.heads = tuple(heads)
        for head in self.heads:
            if head.iou_loss not in IOU_LOSSES:
                raise ValueError(f"iou_loss of layer {head.layer} is one of {IOU_LOSSES}, not {head.iou_loss!r}")

    def __call__(
        self, raws: Sequence[Tensor], targets: Tensor, input_size: tuple[int, int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch: summed over cells and heads, averaged over pictures, as Darknet's learning rates expect.

        Args:
            raws: one (B, A * (5 + C), h, w) a head, of any floating type; computed in float32.
            targets: (M, 6) index of the picture in the batch, label, x1, y1, x2, y2 in pixels of the network's input;
                M may be 0.
            input_size: (width, height) of the network's input in pixels.

        Returns:
            The loss (scalar) and its parts `box`, `objectness`, `class`, which add up to it, detached.
        """
        truths = _Truths.of(targets.to(raws[0].device), raws[0].shape[0], input_size)
        with torch.autocast(raws[0].device.type, enabled=False):  # on CUDA it refuses the entropy of probabilities
            terms = [_head_loss(raw, head, truths, input_size) for raw, head in zip(raws, self.heads, strict=True)]
        parts = [torch.stack(part).sum() / raws[0].shape[0] for part in zip(*terms, strict=True)]
        return sum(parts), dict(zip(("box", "objectness", "class"), (part.detach() for part in parts), strict=True))


class _Truths(NamedTuple):
    """The targets of a batch, as the heads need them."""

    picture: Tensor
    """(M,) index in the batch."""
    label: Tensor
    """(M,)"""
    boxes: Tensor
    """(M, 4) cxcywh, fractions of the network's input."""
    padded: Tensor
    """(B, T, 4) xyxy fractions, T the most truths of a picture; shorter rows end in boxes of zeros."""
    rank: Tensor
    """(B, T) index of each into the M truths."""

    @classmethod
    def of(cls, targets: Tensor, batch: int, input_size: tuple[int, int]) -> "_Truths":
        targets = targets.float()
        picture, label = targets[:, 0].long(), targets[:, 1].long()
        boxes = targets[:, 2:] / targets.new_tensor([*input_size, *input_size])
        counts = picture.bincount(minlength=batch)
        order = picture.argsort(stable=True)
        column = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[picture[order]]
        most = int(counts.max()) if len(order) else 0
        padded, rank = boxes.new_zeros(batch, most, 4), order.new_zeros(batch, most)
        padded[picture[order], column] = boxes[order]
        rank[picture[order], column] = order
        return cls(picture, label, xyxy_to_cxcywh(boxes), padded, rank)


def _head_loss(
    raw: Tensor, head: HeadSpec, truths: _Truths, input_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Box, objectness and class term of one head, summed over the batch."""
    values = head_values(raw, head)
    with torch.no_grad():
        predicted = cxcywh_to_xyxy(place_all(values, head, input_size)).flatten(1, 3)
        best, best_truth = _best_overlap(predicted, truths)
        cell, truth, shared, owner = _assign(head, truths, values.shape, input_size, best, best_truth)
        where = torch.unravel_index(cell, values.shape[:4])
    rows = values[where]
    box = _box_term(rows, where, truths.boxes[truth], owner, shared, values.shape, head, input_size)
    objectness = _objectness_term(values, cell, best.view(values.shape[:4]), head)
    label = torch.zeros_like(rows[:, 5:])
    label[owner, truths.label[truth]] = 1
    class_ = _class_term(rows[:, 5:], label, head)
    return tuple(term * head.delta_normalizer for term in (box, objectness, class_))


def _best_overlap(predicted: Tensor, truths: _Truths) -> tuple[Tensor, Tensor]:
    """Best IoU (B, N) of each prediction (B, N, 4) with a truth of its picture, and that truth's index (B, N)."""
    best = predicted.new_zeros(predicted.shape[:2])
    index = torch.zeros_like(best, dtype=torch.int64)
    chunk = max(1, _PAIRS_AT_ONCE // best.numel())
    for boxes, rank in zip(truths.padded.split(chunk, 1), truths.rank.split(chunk, 1), strict=True):
        if boxes.shape[1] == 0:
            continue  # split gives one empty piece where no picture has a truth
        overlap, column = pairwise_iou(predicted[:, None], boxes[:, :, None]).max(1)
        better = overlap > best
        best = torch.where(better, overlap, best)
        index = torch.where(better, rank.gather(1, column), index)
    return best, index


def _assign(
    head: HeadSpec, truths: _Truths, shape: torch.Size, input_size: tuple[int, int], best: Tensor, best_truth: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which predictions learn from which truths.

    Returns:
        cells (U,), sorted and unique: flat index into (B, A, h, w) of every prediction that learns a truth; then one
        row a pair of prediction and truth: truth (P,), the share (P,) of its prediction's box term it gets, 1 / number
        of truths there, and the index (P,) of its prediction among the U cells.
    """
    size = truths.boxes[:, 2:] * truths.boxes.new_tensor(input_size)
    anchors = size.new_tensor(head.all_anchors)
    common = torch.minimum(size[:, None], anchors).prod(-1)
    shape_iou = common / (size.prod(-1)[:, None] + anchors.prod(-1) - common)
    assigned = F.one_hot(shape_iou.argmax(1), len(anchors)).bool()
    if head.iou_thresh < 1:
        assigned |= shape_iou > head.iou_thresh
    truth, anchor = assigned[:, list(head.mask)].nonzero(as_tuple=True)
    _, per_cell, height, width = shape[:4]
    column = (truths.boxes[truth, 0] * width).long().clamp(0, width - 1)
    row = (truths.boxes[truth, 1] * height).long().clamp(0, height - 1)
    cell = ((truths.picture[truth] * per_cell + anchor) * height + row) * width + column
    if head.truth_thresh < 1:
        fitting = (best > head.truth_thresh).flatten().nonzero()[:, 0]
        cell, truth = torch.cat([cell, fitting]), torch.cat([truth, best_truth.flatten()[fitting]])
    cells, owner, counts = cell.unique(return_inverse=True, return_counts=True)
    return cells, truth, 1 / counts[owner], owner


class _WithDelta(torch.autograd.Function):
    """A value whose gradient is given: the box term's hand-made delta."""

    @staticmethod
    def forward(ctx, values: Tensor, value: Tensor, delta: Tensor) -> Tensor:
        ctx.save_for_backward(delta)
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (delta,) = ctx.saved_tensors
        return gradient * delta, None, None


def _box_term(
    rows: Tensor,
    where: tuple[Tensor, ...],
    truth: Tensor,
    owner: Tensor,
    share: Tensor,
    shape: torch.Size,
    head: HeadSpec,
    input_size: tuple[int, int],
) -> Tensor:
    """Darknet's delta_yolo_box over all pairs: rows (U, 5 + C), truth (P, 4) cxcywh fractions -> scalar."""
    raw = rows[owner, :4]
    _, anchor, row, column = (index[owner] for index in where)
    grid = rows.new_tensor([shape[3], shape[2]])
    cell = torch.stack([column, row], -1)
    anchors = anchor_fractions(head, input_size, rows.device)[anchor]
    activated = activate_box(raw.detach(), head)
    if head.iou_loss == "mse":
        scaled = truth[:, 2:] / anchors
        goal = torch.cat([truth[:, :2] * grid - cell, scaled.sqrt() / 2 if head.new_coords else scaled.log()], -1)
        weight = 2 - truth[:, 2:].prod(-1, keepdim=True)
        delta = weight * (activated - goal)
        value = (weight * (activated - goal).square() / 2).sum(-1)
    else:
        boxes = place_box(activated, cell, anchors, grid, head)
        with torch.enable_grad():
            boxes.requires_grad_()
            value = 1 - box_similarity(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth), head.iou_loss)
            (delta,) = torch.autograd.grad(value.sum(), boxes)
        if not head.new_coords:
            delta = torch.cat([delta[:, :2], delta[:, 2:] * boxes.detach()[:, 2:] / anchors], -1)
        delta = delta.nan_to_num(0, 0, 0)
    scale = head.iou_normalizer * share
    delta = delta * head.iou_normalizer
    if head.max_delta > 0 and head.iou_loss != "mse":
        delta = delta.clamp(-head.max_delta, head.max_delta)
    return _WithDelta.apply(raw, (value.detach() * scale).sum(), delta * share[:, None])


def cross_entropy(values: Tensor, goal: Tensor, head: HeadSpec, weight: Tensor | None = None) -> Tensor:
    """Binary cross entropy, summed, of logits, or of probabilities where the head has new_coords."""
    if head.new_coords:
        return F.binary_cross_entropy(values.clamp(_CERTAIN, 1 - _CERTAIN), goal, weight, reduction="sum")
    return F.binary_cross_entropy_with_logits(values, goal, weight, reduction="sum")


def _objectness_term(values: Tensor, cells: Tensor, best: Tensor, head: HeadSpec) -> Tensor:
    """All predictions: assigned ones (flat index `cells`) go to 1, ignored ones are left out, the rest goes to 0."""
    goal, weight = torch.zeros_like(best), torch.ones_like(best)
    with torch.no_grad():
        near = (best > head.ignore_thresh).nonzero(as_tuple=True)
        match = _CLASS_MATCH if head.new_coords else math.log(_CLASS_MATCH / (1 - _CLASS_MATCH))
        matching = values[near][:, 5:].amax(1) > match
        near = tuple(index[matching] for index in near)
        goal.view(-1)[cells] = 1
        if head.objectness_smooth:
            goal[near] = best[near]
        else:
            weight[near] = 0
            weight.view(-1)[cells] = 1
    return head.obj_normalizer * cross_entropy(values[..., 4], goal, head, weight)


def _class_term(values: Tensor, label: Tensor, head: HeadSpec) -> Tensor:
    """Independent cross entropies of the classes of the assigned predictions: (U, C), label (U, C) of 0 and 1."""
    weight, smooth = None, label * (1 - head.label_smooth_eps) + head.label_smooth_eps / 2
    if head.focal_loss:
        # As delta_yolo_class, not smoothed: times -0.5 (1 - p) (2 p log p + p - 1), p the right class's probability.
        p = (values if head.new_coords else values.sigmoid()).detach().masked_fill(label == 0, 1).amin(1, keepdim=True)
        p = p.clamp(min=_CERTAIN)
        weight = -0.5 * (1 - p) * (2 * p * p.log() + p - 1)
        weight, smooth = weight.expand_as(values), label
    return cross_entropy(values, smooth, head, weight)
