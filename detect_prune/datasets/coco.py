"""COCO's json format (https://cocodataset.org/#format-data), read without pycocotools' index of Python objects."""

import json
import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from detect_prune.datasets.detection_set import DetectionSet, DetectionSetBuilder, require_pictures
from detect_prune.datasets.json_records import JsonRecords
from detect_prune.datasets.picture import SIDE_LIMIT, CorruptPicture, picture_size
from detect_prune.errors import DetectPruneError
from detect_prune.files import is_utf8

_ID_LIMIT = 2**62


def read_coco(images: Path, annotations: Path) -> tuple[DetectionSet, tuple[int, ...], list[str]]:
    """Reads one split.

    Category ids may have holes: the class index is the position in the sorted ids, and names come in that order.

    Args:
        images: folder of the pictures.
        annotations: the instances json; its lists may come in any order.

    Returns:
        The set, the category id of each class index, and warnings on boxes that were clipped or dropped.

    Raises:
        DetectPruneError: missing or broken json, a wrong entry (both with the line, the latter with its list and
            index), missing pictures, no picture at all.
    """
    return _Reader(images, annotations).read()


class _Reader:
    """Records go into packed arrays as they come, and are put together when all of them have been seen."""

    def __init__(self, images: Path, annotations: Path):
        self.images, self.file = images, annotations
        self.records = JsonRecords(annotations, ("images", "annotations", "categories"), "COCO annotation file (json)")
        self.category_names: dict[int, str] = {}
        self.image_numbers: dict[int, int] = {}
        self.paths: list[str] = []
        self.sizes: list[tuple[int, int] | None] = []
        self.image_lines = array("q")
        self.annotation_ids, self.annotation_lines = array("q"), array("q")
        self.image_ids, self.category_ids = array("q"), array("q")
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("B")

    def read(self) -> tuple[DetectionSet, tuple[int, ...], list[str]]:
        add = {"images": self._add_image, "annotations": self._add_annotation, "categories": self._add_category}
        for name, index, record in self.records:
            add[name](record, f"{name}[{index}]")
        if not self.category_names:
            raise DetectPruneError('"categories" is empty; at least one class was expected', file=self.file)
        if not self.paths:
            raise DetectPruneError("the data set is empty: its list of images has no entry", file=self.file)
        require_pictures(self.paths, self.file, self.image_lines)
        category_ids = tuple(sorted(self.category_names))
        builder = DetectionSetBuilder(tuple(self.category_names[category_id] for category_id in category_ids))
        numbers, left_out = self._add_pictures(builder)
        boxes = np.array(self.boxes).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        owners = numbers[self._positions(self.image_ids, list(self.image_numbers), "image")]
        labels = self._positions(self.category_ids, category_ids, "category")
        columns = (owners, boxes, labels, np.array(self.areas), np.array(self.crowd, bool))
        builder.add_boxes(*(column[owners >= 0] for column in columns))
        dataset = builder.finish()
        warnings = [*left_out, *self._doubts(), *builder.warnings]
        return dataset, category_ids, [f"{self.file.name}: {text}" for text in warnings]

    def _add_pictures(self, builder: DetectionSetBuilder) -> tuple[np.ndarray, list[str]]:
        """Returns the number in the set of each record (-1: left out), and a sentence on each that was left out."""
        numbers, left_out = np.full(len(self.paths), -1), []
        for index, (image_id, path, size) in enumerate(zip(self.image_numbers, self.paths, self.sizes)):
            try:
                builder.add_picture(path, image_id, *(size or picture_size(path)))
            except CorruptPicture as error:
                left_out.append(f"images[{index}] is left out: {error}")
            else:
                numbers[index] = len(builder) - 1
        return numbers, left_out

    def _positions(self, used: array, ids: list[int] | tuple[int, ...], kind: str) -> np.ndarray:
        """Where each id of the annotations stands in `ids`."""
        used, ids = np.array(used, np.int64), np.array(ids, np.int64)
        order = np.argsort(ids)
        places = np.searchsorted(ids, used, sorter=order)
        positions = order[np.minimum(places, len(ids) - 1)]
        unknown = np.flatnonzero(ids[positions] != used)
        if len(unknown):
            first = unknown[0]
            raise self.records.wrong(
                f"annotations[{first}]: {kind}_id {used[first]} is not the id of any {kind}",
                self.annotation_lines[first],
            )
        return positions

    def _doubts(self) -> list[str]:
        """An annotation's id says nothing about its box; but a file in which one is there twice may be a bad merge."""
        ids = np.array(self.annotation_ids, np.int64)
        ids = np.sort(ids[ids != -_ID_LIMIT])
        again = ids[1:][ids[1:] == ids[:-1]]
        return [f"{len(again)} annotations have the id of another one ({again[0]}): kept"] if len(again) else []

    def _add_category(self, record: dict[str, Any], where: str) -> None:
        category_id = self._whole(record, where, "id")
        if category_id in self.category_names:
            raise self.records.wrong(f"{where}: id {category_id} is used twice")
        self.category_names[category_id] = self._text(record, where, "name")

    def _add_image(self, record: dict[str, Any], where: str) -> None:
        image_id = self._whole(record, where, "id")
        if image_id in self.image_numbers:
            raise self.records.wrong(f"{where}: id {image_id} is used twice")
        self.image_numbers[image_id] = len(self.paths)
        # Not every file name is UTF-8: Python, and so its json, writes the other bytes as surrogates (PEP 383).
        file_name = self._text(record, where, "file_name", "surrogateescape")
        path = os.path.join(self.images, file_name)
        if "\\" in file_name and not os.path.isfile(path):  # as tools on Windows write it
            path = path.replace("\\", "/")
        self.paths.append(path)
        self.sizes.append(self._size(record, where))
        self.image_lines.append(self.records.line)

    def _add_annotation(self, record: dict[str, Any], where: str) -> None:
        self.annotation_lines.append(self.records.line)
        self.annotation_ids.append(self._whole(record, where, "id") if "id" in record else -_ID_LIMIT)
        self.image_ids.append(self._whole(record, where, "image_id"))
        self.category_ids.append(self._whole(record, where, "category_id"))
        numbers = record.get("bbox")
        if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_is_number, numbers)):
            raise self.records.wrong(f'{where}: "bbox" is {_short(numbers)}; [x, y, width, height] was expected')
        self.boxes.extend(numbers)
        area = record.get("area")
        if area is not None and not (_is_number(area) and area >= 0):
            raise self.records.wrong(f'{where}: "area" is {_short(area)}; a number of square pixels was expected')
        self.areas.append(-1 if area is None else area)
        crowd = record.get("iscrowd")
        crowd = 0 if crowd is None else int(crowd) if type(crowd) is float and crowd in (0.0, 1.0) else crowd
        if not isinstance(crowd, int) or crowd not in (0, 1):
            raise self.records.wrong(f'{where}: "iscrowd" is {_short(crowd)}; 0 or 1 was expected')
        self.crowd.append(crowd)

    def _whole(self, record: dict[str, Any], where: str, field: str) -> int:
        value = record.get(field)
        if type(value) is float and value.is_integer():  # as tables of numbers are written
            value = int(value)
        if type(value) is not int or not -_ID_LIMIT < value < _ID_LIMIT:  # a bool is an int, too
            raise self.records.wrong(f'{where}: "{field}" is {_short(value)}; a whole number was expected')
        return value

    def _text(self, record: dict[str, Any], where: str, field: str, errors: str = "strict") -> str:
        value = record.get(field)
        if not isinstance(value, str) or not value or min(value) < " " or not is_utf8(value, errors):
            raise self.records.wrong(f'{where}: "{field}" is {_short(value)}; a text was expected')
        return value

    def _size(self, record: dict[str, Any], where: str) -> tuple[int, int] | None:
        """None where the record has no size, and the picture's own has to do."""
        if record.get("width") is None and record.get("height") is None:
            return None
        width, height = self._whole(record, where, "width"), self._whole(record, where, "height")
        if not (0 < width < SIDE_LIMIT and 0 < height < SIDE_LIMIT):
            raise self.records.wrong(f"{where}: the size {width} x {height} is impossible")
        return width, height


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9  # a bool is an int, and NaN is not less


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, list | dict) for item in value)):
        return "something nested"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
