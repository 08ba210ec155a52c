"""What the ways to score detections have in common: COCO's, VOC's and Darknet's."""

from collections.abc import Sequence

import numpy as np
import torch

from detect_prune.boxes import pairwise_iou
from detect_prune.structures import Detections, Truth

DIFFICULT_RULES = ("ignore", "drop", "keep")
AP_RULES = ("area", "11-point", "101-point")
"""`area` under the curve of precision over recall (VOC from 2010 on), or its mean at so many recalls: 11 as in VOC up
to 2009, 101 as in COCO."""


def ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, 4) and (m, 4) xyxy -> (n, m)."""
    return pairwise_iou(torch.from_numpy(a)[:, None], torch.from_numpy(b)[None]).numpy()


def average_precision(right: np.ndarray, wrong: np.ndarray, truths: int, ap: str = "area") -> float:
    """AP of one class.

    Args:
        right, wrong: (n,) of each detection, best first; one that counts neither way is neither.
        truths: how many there are to find, at least 1.
        ap: one of AP_RULES.
    """
    tp, fp = right.cumsum(), wrong.cumsum()
    recall, precision = tp / truths, tp / np.maximum(tp + fp, 1)
    if ap == "area":
        # At each recall the best precision at this recall or a higher one.
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        return float((np.diff(recall, prepend=0) * envelope).sum())
    steps = int(ap.removesuffix("-point")) - 1
    return float(np.mean([precision[recall >= step / steps].max(initial=0) for step in range(steps + 1)]))


def require_one_each(truths: Sequence[Truth], detections: Sequence[Detections]) -> None:
    """Raises ValueError unless there is one Detections a Truth."""
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} truths and {len(detections)} detections; one each a picture was expected")


def require_sense(truths: Sequence[Truth], detections: Sequence[Detections], ap: str, difficult: str) -> None:
    """Raises ValueError unless there is one Detections a Truth, and such rules."""
    require_one_each(truths, detections)
    for what, value, rules in (("ap", ap, AP_RULES), ("difficult", difficult, DIFFICULT_RULES)):
        if value not in rules:
            raise ValueError(f"{what} is one of {', '.join(rules)}, not {value!r}")


def shown(value: float | None) -> str:
    """A share in a column of five characters; a dash where there is none."""
    return "    -" if value is None else f"{value:5.3f}"
