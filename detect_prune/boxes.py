"""Pure functions on boxes. Everywhere inside the package a box is xyxy in pixels; other forms are converted at the border."""

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


def clip_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """(..., 4) xyxy, clipped to a picture of `width` x `height` pixels."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def box_areas(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (...) area in square pixels; a box turned inside out has none."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes that broadcast against each other: (..., 4) and (..., 4) xyxy -> (...).

    Two boxes without area have IoU 0. For all pairs of (N, 4) and (M, 4) pass a[:, None] and b[None].
    """
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    union = box_areas(a) + box_areas(b) - intersection
    return torch.where(union > 0, intersection / union.clamp(min=1e-12), torch.zeros_like(union))
