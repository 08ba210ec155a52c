"""Pure functions on boxes. Inside the package a box is xyxy in pixels; other forms are converted at the border."""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> (..., 4) xyxy."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (..., 4) centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def box_areas(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (...) area in square pixels; a box turned inside out has none."""
    left, top, right, bottom = boxes.unbind(-1)
    return (right - left).clamp(min=0) * (bottom - top).clamp(min=0)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes that broadcast against each other: (..., 4) and (..., 4) xyxy -> (...).

    Two boxes without area have IoU 0. For all pairs of (N, 4) and (M, 4) pass a[:, None] and b[None].
    """
    # One coordinate at a time is several times faster than pairs, above all where the boxes are a transposed (4, n).
    left_a, top_a, right_a, bottom_a = a.unbind(-1)
    left_b, top_b, right_b, bottom_b = b.unbind(-1)
    width = (torch.minimum(right_a, right_b) - torch.maximum(left_a, left_b)).clamp(min=0)
    intersection = width * (torch.minimum(bottom_a, bottom_b) - torch.maximum(top_a, top_b)).clamp(min=0)
    union = box_areas(a) + box_areas(b) - intersection
    return torch.where(union > 0, intersection / union.clamp(min=1e-12), torch.zeros_like(union))


def enclosing_size(a: Tensor, b: Tensor) -> Tensor:
    """Width and height of the smallest box around both, for xyxy that broadcast: (..., 4), (..., 4) -> (..., 2)."""
    return torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])


def centre_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the enclosing box: a number in 0..1.

    For xyxy boxes that broadcast: (..., 4), (..., 4) -> (...). The penalty of DIoU (Zheng et al. 2020, eq. 6).
    Two equal points have distance 0.
    """
    distance = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2).square().sum(-1)
    diagonal = enclosing_size(a, b).square().sum(-1)
    return distance / diagonal.clamp(min=1e-12)


def box_similarity(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """How well two boxes fit, at most 1; an IoU loss is one minus it.

    For xyxy boxes that broadcast: (..., 4), (..., 4) -> (...).

    Args:
        kind: `iou`; `giou` (Rezatofighi et al. 2019); `diou` or `ciou` (Zheng et al. 2020), whose weight alpha of the
            aspect term is held constant in the gradient, as in the paper.

    Raises:
        ValueError: no such kind.
    """
    iou = pairwise_iou(a, b)
    if kind == "iou":
        return iou
    if kind == "giou":
        area_a, area_b = box_areas(a), box_areas(b)
        union = (area_a + area_b) / (1 + iou)  # because intersection = iou * union = area_a + area_b - union
        enclosing = enclosing_size(a, b).prod(-1)
        return iou - (enclosing - union) / enclosing.clamp(min=1e-12)
    if kind == "diou":
        return iou - centre_distance(a, b)
    if kind == "ciou":
        angle_a, angle_b = (torch.atan2(box[..., 2] - box[..., 0], box[..., 3] - box[..., 1]) for box in (a, b))
        aspect = 4 / torch.pi**2 * (angle_a - angle_b).square()
        with torch.no_grad():
            alpha = aspect / (1 - iou + aspect).clamp(min=1e-12)
        return iou - centre_distance(a, b) - alpha * aspect
    raise ValueError(f"box similarity is iou, giou, diou or ciou, not {kind!r}")
