"""Truths and detections made by hand, and IoU in plain Python."""

from pathlib import Path

import numpy as np
import torch

from detect_prune.structures import Detections, Truth


def make_truth(boxes, labels, difficult=None, crowd=None) -> Truth:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    none = [False] * len(boxes)
    return Truth(
        Path("a.jpg"),
        1,
        640,
        480,
        boxes,
        np.array(labels, np.int64),
        (boxes[:, 2:] - boxes[:, :2]).prod(1),
        np.array(crowd or none, bool),
        np.array(difficult or none, bool),
    )


def make_found(boxes, labels, scores) -> Detections:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(scores, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64))


A, B, C, FAR = [0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 100, 300], [500, 300, 600, 400]


def overlap(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
