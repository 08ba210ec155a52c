"""Two heads of a small network, and raw tensors for them."""

import torch

from detect_prune.structures import HeadSpec

ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0))
SIZE = (128, 96)
CLASSES = 3


def make_heads(**settings) -> list[HeadSpec]:
    settings = {"iou_loss": "ciou", "iou_normalizer": 0.07, "ignore_thresh": 0.7, "scale_x_y": 1.05, **settings}
    return [
        HeadSpec(1, tuple(ANCHORS[m] for m in mask), mask, ANCHORS, CLASSES, **settings) for mask in ((2, 3), (0, 1))
    ]


def make_raws(batch: int, new_coords: bool = False, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    raws = [torch.randn(batch, 16, SIZE[1] // s, SIZE[0] // s, generator=draw) for s in (32, 16)]
    for raw in raws:
        raw.unflatten(1, (2, 8))[:, :, 5:] -= 1.5  # some predictions have no probable class
    return [(raw.sigmoid() if new_coords else raw).requires_grad_() for raw in raws]
