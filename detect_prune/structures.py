"""The three plain objects that rooms hand to each other: a yolo head, a picture's truth, a picture's detections."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

NMS_KINDS = ("default", "greedynms", "diounms")
"""Of suppression; `default` is by plain IoU."""
IOU_LOSSES = ("mse", "iou", "giou", "diou", "ciou")


@dataclass(frozen=True)
class HeadSpec:
    """One [yolo] section: how its tensor becomes boxes, how boxes are suppressed, and how it is trained.

    `anchors` holds the (width, height) of this head's own anchors, already selected by `mask`, in pixels of the
    network's input. The head's tensor is (B, len(anchors) * (5 + classes), grid height, grid width), as Darknet lays
    it out. Names and defaults are those of Darknet's `parse_yolo` (src/parser.c).
    """

    layer: int
    """Index of the section among the layers, as Darknet and `route` count them."""
    anchors: tuple[tuple[float, float], ...]
    mask: tuple[int, ...]
    all_anchors: tuple[tuple[float, float], ...]
    """All `num` anchors: a truth is assigned to the best of all, and trained where that one is in `mask`."""
    classes: int
    scale_x_y: float = 1.0
    new_coords: bool = False
    nms_kind: str = "default"
    """One of NMS_KINDS."""
    beta_nms: float = 0.6
    iou_loss: str = "mse"
    """One of IOU_LOSSES."""
    iou_normalizer: float = 0.75
    obj_normalizer: float = 1.0
    delta_normalizer: float = 1.0
    iou_thresh: float = 1.0
    ignore_thresh: float = 0.5
    truth_thresh: float = 1.0
    label_smooth_eps: float = 0.0
    max_delta: float = 0.0
    """0 stands for Darknet's default, no limit."""
    objectness_smooth: bool = False
    focal_loss: bool = False


@dataclass
class Truth:
    """One picture and what is in it. Boxes are xyxy in pixels of the picture as it is stored (no EXIF turn)."""

    path: Path
    image_id: int
    width: int
    height: int
    boxes: np.ndarray
    """(n, 4) float32 xyxy pixels, clipped to the picture, without boxes of zero area."""
    labels: np.ndarray
    """(n,) int64, index into the data set's names."""
    areas: np.ndarray
    """(n,) float32: what COCO's small/medium/large go by: the segment's area where the file has one, else the box's."""
    crowd: np.ndarray
    """(n,) bool: COCO crowd regions, ignored in scoring and no targets in training."""
    difficult: np.ndarray
    """(n,) bool: VOC difficult objects."""


@dataclass
class Detections:
    """What a detector found in one picture, best first."""

    boxes: Tensor
    """(n, 4) float32 xyxy pixels."""
    scores: Tensor
    """(n,) float32 in 0..1: objectness times class probability."""
    labels: Tensor
    """(n,) int64."""
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        rows = [
            f"{self.names[label] if self.names else label} {score:.2f} at ({', '.join(f'{side:.0f}' for side in box)})"
            for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist())
        ]
        return f"{len(self)} detections" + "".join(f"\n  {row}" for row in rows)
