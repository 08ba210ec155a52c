"""COCO's json format (https://cocodataset.org/#format-data), read without pycocotools' index of Python objects."""

import json
from pathlib import Path
from typing import Any

from detect_prune.datasets.detection_set import DetectionSet, DetectionSetBuilder, require_pictures
from detect_prune.datasets.picture import picture_size
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text

_ID_LIMIT = 2**62
_SIDE_LIMIT = 2**20


def read_coco(images: Path, annotations: Path) -> tuple[DetectionSet, tuple[int, ...], list[str]]:
    """Reads one split.

    Category ids may have holes: the class index is the position in the sorted ids, and names come in that order.

    Args:
        images: folder of the pictures.
        annotations: the instances json.

    Returns:
        The set, the category id of each class index, and warnings on boxes that were clipped or dropped.

    Raises:
        DetectPruneError: missing or broken json (with line), a wrong entry (with its list and index), missing pictures,
            no picture at all.
    """
    return _Reader(images, annotations).read()


def _without_outlines(entry: dict[str, Any]) -> dict[str, Any]:
    # Outlines are nine tenths of COCO's file; dropped while parsing, they never pile up in memory.
    entry.pop("segmentation", None)
    return entry


class _Reader:
    def __init__(self, images: Path, annotations: Path):
        self.images = images
        self.file = annotations

    def read(self) -> tuple[DetectionSet, tuple[int, ...], list[str]]:
        data = self._parse()
        categories = {
            self._whole(c, "categories", i, "id"): self._text(c, "categories", i, "name")
            for i, c in self._entries(data, "categories")
        }
        if not categories:
            raise DetectPruneError('"categories" is empty; at least one class was expected', file=self.file)
        category_ids = tuple(sorted(categories))
        label_of = {category_id: label for label, category_id in enumerate(category_ids)}

        images = [entry for _, entry in self._entries(data, "images")]
        position: dict[int, int] = {}
        for i, entry in enumerate(images):
            image_id = self._whole(entry, "images", i, "id")
            if position.setdefault(image_id, i) != i:
                raise self._wrong("images", i, f"id {image_id} is used twice")
        if not images:
            raise DetectPruneError("the data set is empty: its list of images has no entry", file=self.file)
        paths = [self.images / self._text(entry, "images", i, "file_name") for i, entry in enumerate(images)]
        require_pictures(paths, self.file)

        boxes_of: list[list[tuple]] = [[] for _ in images]
        for i, entry in self._entries(data, "annotations"):
            image_id = self._whole(entry, "annotations", i, "image_id")
            if image_id not in position:
                raise self._wrong("annotations", i, f"image_id {image_id} is not the id of any image")
            category_id = self._whole(entry, "annotations", i, "category_id")
            if category_id not in label_of:
                raise self._wrong("annotations", i, f"category_id {category_id} is not the id of any category")
            box, area = self._box(entry, i)
            crowd = entry.get("iscrowd", 0) in (1, True)
            boxes_of[position[image_id]].append((box, label_of[category_id], area, crowd))

        builder = DetectionSetBuilder(tuple(categories[category_id] for category_id in category_ids))
        for i, (entry, path) in enumerate(zip(images, paths)):
            builder.add_picture(path, entry["id"], *self._size(entry, i, path))
            for box, label, area, crowd in boxes_of[i]:
                builder.add_box(box, label, area, crowd=crowd)
        dataset = builder.finish()
        return dataset, category_ids, [f"{self.file.name}: {warning}" for warning in builder.warnings]

    def _parse(self) -> dict[str, Any]:
        text = read_text(self.file, "COCO annotation file (json)")
        try:
            data = json.loads(text, object_hook=_without_outlines)
        except json.JSONDecodeError as error:
            raise DetectPruneError(
                f"not valid json, perhaps cut off: {error.msg} at column {error.colno}",
                file=self.file,
                line=error.lineno,
            ) from None
        except RecursionError:
            raise DetectPruneError("nested too deep for a COCO annotation file", file=self.file) from None
        except ValueError as error:  # a whole number of thousands of digits
            raise DetectPruneError(f"not valid json: {error}", file=self.file) from None
        if not isinstance(data, dict):
            raise DetectPruneError(
                'a COCO annotation file is an object with "images", "annotations" and "categories"', file=self.file
            )
        return data

    def _entries(self, data: dict[str, Any], key: str):
        entries = data.get(key)
        if not isinstance(entries, list):
            raise DetectPruneError(f'"{key}" is missing or no list; a COCO annotation file has one', file=self.file)
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self._wrong(key, i, "an object was expected")
            yield i, entry

    def _wrong(self, key: str, i: int, message: str) -> DetectPruneError:
        return DetectPruneError(f"{key}[{i}]: {message}", file=self.file)

    def _whole(self, entry: dict[str, Any], key: str, i: int, field: str) -> int:
        value = entry.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _ID_LIMIT:
            raise self._wrong(key, i, f'"{field}" is {_short(value)}; a whole number was expected')
        return value

    def _text(self, entry: dict[str, Any], key: str, i: int, field: str) -> str:
        value = entry.get(field)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self._wrong(key, i, f'"{field}" is {_short(value)}; a text was expected')
        return value

    def _size(self, entry: dict[str, Any], i: int, path: Path) -> tuple[int, int]:
        if entry.get("width") is None or entry.get("height") is None:
            return picture_size(path)
        width, height = self._whole(entry, "images", i, "width"), self._whole(entry, "images", i, "height")
        if not (0 < width < _SIDE_LIMIT and 0 < height < _SIDE_LIMIT):
            raise self._wrong("images", i, f"the size {width} x {height} is impossible")
        return width, height

    def _box(self, entry: dict[str, Any], i: int) -> tuple[tuple[float, float, float, float], float | None]:
        numbers = entry.get("bbox")
        if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_is_number, numbers)):
            raise self._wrong("annotations", i, f'"bbox" is {_short(numbers)}; [x, y, width, height] was expected')
        area = entry.get("area")
        if area is not None and not (_is_number(area) and area >= 0):
            raise self._wrong("annotations", i, f'"area" is {_short(area)}; a number of square pixels was expected')
        x, y, width, height = numbers
        return (x, y, x + width, y + height), area


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # NaN is not


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, list | dict) for item in value)):
        return "something nested"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
