"""COCO's average precision, computed by pycocotools in memory."""

import contextlib
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect_prune.detection.average_precision import require_one_each, shown
from detect_prune.numbers import counted
from detect_prune.structures import Detections, Truth

_MEASURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class ClassAP:
    """A class's row: truths that count (no crowd, not difficult), AP over IoU .50:.95, AP at .50 (None: no truth)."""

    name: str
    truths: int
    AP: float | None
    AP50: float | None


@dataclass(frozen=True)
class CocoResult:
    """The twelve numbers of COCO as fractions, and a row a class.

    A number is 0 where nothing was found, and None where there is no truth to find (say, no small object).
    AR1, AR10 and AR100 are the recall with at most so many detections of a class in a picture.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    ARs: float | None
    ARm: float | None
    ARl: float | None
    pictures: int
    classes: tuple[ClassAP, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: COCO's names at the top level, the classes' rows under `classes`."""
        numbers = {name: getattr(self, name) for name in _MEASURES}
        return {**numbers, "pictures": self.pictures, "classes": [vars(row) for row in self.classes]}

    def __str__(self) -> str:
        width = max([5, *(len(row.name) for row in self.classes)])
        lines = [f"{'class':{width}}  truths     AP   AP50"]
        lines += [f"{row.name:{width}}  {row.truths:6d}  {shown(row.AP)}  {shown(row.AP50)}" for row in self.classes]
        for names in (_MEASURES[:6], _MEASURES[6:]):
            lines.append("  ".join(f"{name} {shown(getattr(self, name)).strip()}" for name in names))
        return "\n".join([*lines, f"COCO's AP over IoU .50:.95 on {counted(self.pictures, 'picture')}"])


class _Evaluation(COCOeval):
    """pycocotools' evaluation, but VOC's difficult objects are ignored, the way that objects of another size are."""

    def _prepare(self) -> None:
        super()._prepare()  # sets `ignore` to `iscrowd`, whatever it was
        for truths in self._gts.values():
            for truth in truths:
                truth["ignore"] = truth["ignore"] or truth["difficult"]


def coco_metrics(truths: Sequence[Truth], detections: Sequence[Detections], names: Sequence[str]) -> CocoResult:
    """Scores detections as COCO does (pycocotools, `bbox`).

    Crowd regions are matched by the share of the detection inside them, any number of times, and ignored. Difficult
    objects (VOC) are neither a miss nor, where found, a false positive. Small, medium and large go by Truth.areas.

    Args:
        truths: the pictures that are scored, one each.
        detections: in the same order; boxes in pixels of the stored picture, labels indices into `names`.
        names: the classes.

    Raises:
        ValueError: not one Detections a Truth.
    """
    require_one_each(truths, detections)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = _Evaluation(
            _as_coco(map(_truth_rows, range(len(truths)), truths), len(truths), names),
            _as_coco(map(_found_rows, range(len(truths)), detections), len(truths), names),
            "bbox",
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = {name: _number(value) for name, value in zip(_MEASURES, evaluation.stats, strict=True)}
    # IoU, recall, class, area range, maximum of detections -> all areas, 100 detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    counted = np.zeros(len(names), dtype=int)
    for truth in truths:
        counted += np.bincount(truth.labels[~(truth.crowd | truth.difficult)], minlength=len(names))
    over_all, at_50 = precision.mean((0, 1)), precision[0].mean(0)
    classes = tuple(
        ClassAP(name, int(counted[index]), _number(over_all[index]), _number(at_50[index]))
        for index, name in enumerate(names)
    )
    return CocoResult(**numbers, pictures=len(truths), classes=classes)


def _number(value: float) -> float | None:
    """pycocotools says -1 where there is nothing to find."""
    return None if value < 0 else float(value)


def _as_coco(rows: Iterable[list[dict[str, Any]]], pictures: int, names: Sequence[str]) -> COCO:
    annotations = list(itertools.chain.from_iterable(rows))
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number  # from 1: pycocotools takes id 0 for "not matched"
    coco = COCO()
    coco.dataset = {
        "images": [{"id": index} for index in range(pictures)],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
    }
    coco.createIndex()
    return coco


def _truth_rows(index: int, truth: Truth) -> list[dict[str, Any]]:
    boxes = np.asarray(truth.boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    columns = (boxes, truth.labels, truth.areas, truth.crowd, truth.difficult)
    keys = ("bbox", "category_id", "area", "iscrowd", "difficult")
    return [
        {"image_id": index, **dict(zip(keys, row, strict=True))}
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _found_rows(index: int, found: Detections) -> list[dict[str, Any]]:
    boxes = found.boxes.double().cpu().reshape(-1, 4).clone()
    boxes[:, 2:] -= boxes[:, :2]
    columns = (boxes, boxes[:, 2:].prod(1), found.scores, found.labels)
    return [
        {"image_id": index, "bbox": box, "area": area, "score": score, "category_id": label, "iscrowd": 0}
        for box, area, score, label in zip(*(column.tolist() for column in columns), strict=True)
    ]
