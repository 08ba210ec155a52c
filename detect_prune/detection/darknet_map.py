"""The table and the totals of `darknet detector map` (src/detector.c, validate_detector_map).

What it does beside VOC's rule, and what its logs can only be met with:

- the mean is over all classes, one without truth counts 0;
- crowd regions are no truths; difficult objects are none either, so that a detection on one is wrong. A `difficult=`
  list in Darknet's data file is the rule `ignore` here: a detection that fits no plain truth but a difficult one is
  dropped;
- AP goes through the detections of all pictures from the best score down. TP, FP and the average IoU at the confidence
  threshold do not: they go through each picture's list as its suppression leaves it (`detect`, `darknet_order`), and a
  truth that some earlier box of the list fits, however low its score, is taken. On 128 COCO pictures yolov4-tiny has
  350 true positives this way;
- the average IoU is the sum over true positives divided by all detections above the threshold, the wrong ones included;
- a detection that `ignore` drops still counts as a false positive at the confidence threshold.

What is not Darknet's: a truth that reaches out of its picture is clipped and one without area is left out, as they are
for every use here (the reader of the data counts both aloud). Darknet takes truths as they are written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from detect_prune.detection.average_precision import average_precision, ious, require_sense
from detect_prune.structures import Detections, Truth


@dataclass(frozen=True)
class DarknetClass:
    """One class's row. AP is 0 without truths; TP and FP count the detections above the confidence threshold."""

    name: str
    truths: int
    AP: float
    TP: int
    FP: int

    @property
    def FN(self) -> int:
        return self.truths - self.TP


@dataclass(frozen=True)
class DarknetMap:
    """What `darknet detector map` prints, numbers as fractions."""

    mAP: float
    classes: tuple[DarknetClass, ...]
    pictures: int
    detections: int
    truths: int
    iou_threshold: float
    confidence: float
    average_iou: float
    ap: str
    difficult: str

    @property
    def TP(self) -> int:
        return sum(row.TP for row in self.classes)

    @property
    def FP(self) -> int:
        return sum(row.FP for row in self.classes)

    @property
    def FN(self) -> int:
        return self.truths - self.TP

    @property
    def precision(self) -> float:
        """TP / (TP + FP) at the confidence threshold; 0 if nothing was detected."""
        return self.TP / max(self.TP + self.FP, 1)

    @property
    def recall(self) -> float:
        """TP / (TP + FN) at the confidence threshold; 0 if there is no truth."""
        return self.TP / max(self.truths, 1)

    @property
    def F1(self) -> float:
        """The harmonic mean of precision and recall; 0 where both are."""
        return 2 * self.TP / max(2 * self.TP + self.FP + self.FN, 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: mAP and the totals at the top level, the classes' rows under `classes`.

        At an IoU threshold of .5 the mean is there as AP50, too, the name that other protocols have for it.
        """
        totals = {name: getattr(self, name) for name in ("TP", "FP", "FN", "precision", "recall", "F1")}
        values = {name: value for name, value in vars(self).items() if name != "classes"}
        same = {"AP50": self.mAP} if self.iou_threshold == 0.5 else {}
        return {**same, **values, **totals, "classes": [{**vars(row), "FN": row.FN} for row in self.classes]}

    def __str__(self) -> str:
        """Line by line as Darknet prints it, tabs and trailing blanks aside, so that two logs can be compared."""
        used = "Area-Under-Curve for each unique Recall"
        if self.ap != "area":
            used = f"{self.ap.removesuffix('-point')} Recall-points"
        rows = [
            f"class_id = {index}, name = {row.name}, ap = {100 * row.AP:.2f}%   \t (TP = {row.TP}, FP = {row.FP})"
            for index, row in enumerate(self.classes)
        ]
        at = f" for conf_thresh = {self.confidence:.2f}"
        return "\n".join(
            [
                f" detections_count = {self.detections}, unique_truth_count = {self.truths}",
                *rows,
                "",
                f"{at}, precision = {self.precision:.2f}, recall = {self.recall:.2f}, F1-score = {self.F1:.2f}",
                f"{at}, TP = {self.TP}, FP = {self.FP}, FN = {self.FN}, average IoU = {100 * self.average_iou:.2f} %",
                "",
                f" IoU threshold = {100 * self.iou_threshold:.0f} %, used {used}",
                f" mean average precision (mAP@{self.iou_threshold:.2f}) = {self.mAP:.6f}, or {100 * self.mAP:.2f} %",
            ]
        )


class _Listed(NamedTuple):
    """A column a property of a picture's detections, in the order of its list."""

    label: np.ndarray
    score: np.ndarray
    truth: np.ndarray
    """Number of the truth that it fits best, among all pictures'; -1 for none."""
    iou: np.ndarray
    """With that truth; 0 for none."""
    early: np.ndarray
    """Whether no earlier detection of the list fits the same truth."""
    dropped: np.ndarray
    """Whether it is left out of the ranking because of a difficult object."""


def darknet_map(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    names: Sequence[str],
    ap: str = "area",
    difficult: str = "drop",
    iou_threshold: float = 0.5,
    confidence: float = 0.25,
) -> DarknetMap:
    """Scores detections as `darknet detector map` does.

    Args:
        truths: the pictures that are scored, one each.
        detections: in the same order, each listed by `detect(..., darknet_order=True)`; boxes in pixels of the stored
            picture, not clipped (Darknet does not); labels indices into `names`.
        names: the classes.
        ap: `area`, `11-point` or `101-point`; Darknet's -points 0, 11 and 101.
        difficult: `drop`, `ignore` (a `difficult=` list in Darknet's data file) or `keep`.
        iou_threshold: a detection fits a truth that it overlaps by more; Darknet's -iou_thresh.
        confidence: TP, FP, FN and the average IoU are of detections that score above it; Darknet's -thresh.

    Raises:
        ValueError: not one Detections a Truth, or no such rule.
    """
    require_sense(truths, detections, ap, difficult)
    counts = np.zeros(len(names), dtype=int)
    lists = []
    for truth, found in zip(truths, detections):
        lists.append(_matched(truth, found, difficult, iou_threshold, int(counts.sum())))
        counts += np.bincount(truth.labels[_plain(truth, difficult)], minlength=len(names))
    nothing = _Listed(*(np.zeros(0, kind) for kind in (int, np.float32, int, np.float32, bool, bool)))
    every = _Listed(*(np.concatenate(column) for column in zip(nothing, *lists)))
    sure = every.score > confidence
    hits = sure & every.early
    precisions = _average_precisions(every, counts, ap)
    rows = tuple(
        DarknetClass(name, int(n), precision, int((hits & mine).sum()), int((sure & ~hits & mine).sum()))
        for name, n, precision, mine in zip(
            names, counts, precisions, (every.label == label for label in range(len(names)))
        )
    )
    return DarknetMap(
        mAP=sum(precisions) / max(len(names), 1),
        classes=rows,
        pictures=len(truths),
        detections=int((~every.dropped).sum()),
        truths=int(counts.sum()),
        iou_threshold=iou_threshold,
        confidence=confidence,
        average_iou=float(every.iou[hits].sum() / max(sure.sum(), 1)),
        ap=ap,
        difficult=difficult,
    )


def _plain(truth: Truth, difficult: str) -> np.ndarray:
    """(n,) bool: which objects are truths to find."""
    return ~truth.crowd if difficult == "keep" else ~(truth.crowd | truth.difficult)


def _matched(truth: Truth, found: Detections, difficult: str, iou_threshold: float, before: int) -> _Listed:
    """The detections of a picture, each with the truth that it fits; `before` is how many truths came before."""
    boxes, scores, labels = (column.cpu().numpy() for column in (found.boxes, found.scores, found.labels))

    def best(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not which.any():
            return np.zeros(len(labels), int), np.zeros(len(labels), np.float32)
        overlap = np.where(labels[:, None] == truth.labels[which], ious(boxes, truth.boxes[which]), 0)
        return overlap.argmax(1), overlap.max(1)

    plain = _plain(truth, difficult)
    nearest, iou = best(plain)
    fits = iou > iou_threshold
    dropped = np.zeros(len(labels), bool)
    if difficult == "ignore":
        dropped = ~fits & (best(truth.difficult & ~truth.crowd)[1] > iou_threshold)
    number = np.where(fits, nearest + before, -1)
    return _Listed(labels, scores, number, np.where(fits, iou, 0), _first_of_its_truth(number), dropped)


def _first_of_its_truth(number: np.ndarray) -> np.ndarray:
    """(n,) numbers of truths, -1 for none -> (n,) bool: the first row of each truth."""
    first = np.zeros(len(number), bool)
    first[np.unique(number, return_index=True)[1]] = True
    return first & (number >= 0)


def _average_precisions(every: _Listed, counts: np.ndarray, ap: str) -> list[float]:
    order = np.argsort(-every.score, kind="stable")  # among equal scores as in the lists, as glibc's qsort leaves them
    order = order[~every.dropped[order]]
    label, right = every.label[order], _first_of_its_truth(every.truth[order])
    return [
        average_precision(right[label == index], ~right[label == index], int(n), ap) if n else 0.0
        for index, n in enumerate(counts)
    ]
