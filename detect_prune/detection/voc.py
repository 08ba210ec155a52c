"""PASCAL VOC's average precision at one IoU threshold."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detect_prune.detection.average_precision import average_precision, ious, require_sense, shown
from detect_prune.numbers import counted
from detect_prune.structures import Detections, Truth


@dataclass(frozen=True)
class VocClass:
    """One class's row. AP is None without truths; TP, FP and FN count the detections above the confidence threshold."""

    name: str
    truths: int
    AP: float | None
    TP: int
    FP: int
    FN: int


@dataclass(frozen=True)
class VocResult:
    """VOC's numbers as fractions, and a row a class."""

    classes: tuple[VocClass, ...]
    pictures: int
    iou_threshold: float
    confidence: float
    ap: str
    difficult: str
    mAP: float | None = field(init=False)
    """Mean over the classes that have truths; None if there is none."""
    mAP_all: float | None = field(init=False)
    """Mean over all classes, one without truths counting 0, as Darknet takes it."""
    TP: int = field(init=False)
    FP: int = field(init=False)
    FN: int = field(init=False)

    def __post_init__(self):
        scored = [row.AP for row in self.classes if row.AP is not None]
        derived: dict[str, Any] = {name: sum(getattr(row, name) for row in self.classes) for name in ("TP", "FP", "FN")}
        derived["mAP"] = sum(scored) / len(scored) if scored else None
        derived["mAP_all"] = sum(scored) / len(self.classes) if self.classes else None
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def precision(self) -> float:
        """TP / (TP + FP) at the confidence threshold; 0 if nothing was detected."""
        return self.TP / max(self.TP + self.FP, 1)

    @property
    def recall(self) -> float:
        """TP / (TP + FN) at the confidence threshold; 0 if there is no truth."""
        return self.TP / max(self.TP + self.FN, 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: value for name, value in vars(self).items() if name != "classes"}
        rates = {"precision": self.precision, "recall": self.recall}
        return {**values, **rates, "classes": [vars(row) for row in self.classes]}

    def __str__(self) -> str:
        width = max([5, *(len(row.name) for row in self.classes)])
        lines = [f"{'class':{width}}  truths     AP    TP    FP    FN"]
        lines += [
            f"{row.name:{width}}  {row.truths:6d}  {shown(row.AP)}  {row.TP:4d}  {row.FP:4d}  {row.FN:4d}"
            for row in self.classes
        ]
        how = "area under the curve" if self.ap == "area" else self.ap
        return "\n".join(
            [
                *lines,
                f"mAP at IoU {self.iou_threshold:.2f} ({how}): {shown(self.mAP).strip()} over the classes that have "
                f"truths, {shown(self.mAP_all).strip()} over all",
                f"{counted(self.pictures, 'picture')}; difficult objects: {self.difficult}",
                f"at confidence {self.confidence:.2f}: TP {self.TP}, FP {self.FP}, FN {self.FN}, "
                f"precision {self.precision:.3f}, recall {self.recall:.3f}",
            ]
        )


def voc_metrics(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    names: Sequence[str],
    ap: str = "area",
    difficult: str = "ignore",
    iou_threshold: float = 0.5,
    confidence: float = 0.25,
) -> VocResult:
    """Scores detections as PASCAL VOC does (Everingham et al. 2010), class by class.

    From the best score down, each detection takes the truth of its class and picture that it overlaps most, if by
    more than `iou_threshold`; the first to take a truth is right, all others are false positives. Boxes are continuous,
    as in Darknet: VOC's own devkit counts pixels and adds one to each side. Crowd regions (COCO) are no truths.

    Args:
        truths: the pictures that are scored, one each.
        detections: in the same order; boxes in pixels of the stored picture, labels indices into `names`.
        names: the classes.
        ap: one of AP_RULES.
        difficult: `ignore`: a detection that takes a difficult object counts neither way (VOC's rule); `drop`: such
            objects are no truths, and a detection on one is a false positive (Darknet's); `keep`: like any other.
        confidence: TP, FP and FN are counted over detections that score above it.

    Raises:
        ValueError: not one Detections a Truth, or no such rule.
    """
    require_sense(truths, detections, ap, difficult)
    counts = np.zeros(len(names), dtype=int)
    found: list[_Judged] = []
    for truth, detection in zip(truths, detections, strict=True):
        real = ~(truth.crowd | (truth.difficult & (difficult == "drop")))
        boxes, labels = truth.boxes[real], truth.labels[real]
        ignored = truth.difficult[real] & (difficult == "ignore")
        counts += np.bincount(labels[~ignored], minlength=len(names))
        found.append(_judge(boxes, labels, ignored, detection, iou_threshold))
    columns = zip(*found, strict=True) if found else [()] * 4
    label, score, right, wrong = (np.concatenate([np.zeros(0), *column]) for column in columns)
    rows = []
    for index, name in enumerate(names):
        mine = label == index
        order = np.argsort(-score[mine], kind="stable")
        tp, fp, sure = right[mine][order], wrong[mine][order], score[mine][order] > confidence
        n = int(counts[index])
        precision = average_precision(tp, fp, n, ap) if n else None
        n_tp, n_fp = int(tp[sure].sum()), int(fp[sure].sum())
        rows.append(VocClass(name, n, precision, n_tp, n_fp, n - n_tp))
    return VocResult(tuple(rows), len(truths), iou_threshold, confidence, ap, difficult)


_Judged = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _judge(
    boxes: np.ndarray, labels: np.ndarray, ignored: np.ndarray, detection: Detections, iou_threshold: float
) -> _Judged:
    """Label, score, right, wrong of each detection of a picture, best first; on an ignored object it is neither."""
    order = detection.scores.argsort(descending=True, stable=True)
    columns = (detection.scores, detection.labels, detection.boxes)
    score, label, found = (column[order].cpu().numpy() for column in columns)
    overlap = np.where(label[:, None] == labels, ious(found, boxes), -1)
    right, wrong = np.zeros(len(score)), np.ones(len(score))
    if len(labels):
        taken = np.zeros(len(labels), dtype=bool)
        nearest = overlap.argmax(1)
        for row in (overlap.max(1) > iou_threshold).nonzero()[0]:
            truth = nearest[row]
            if ignored[truth]:
                wrong[row] = 0
            elif not taken[truth]:
                taken[truth], right[row], wrong[row] = True, 1, 0
    return label, score, right, wrong
