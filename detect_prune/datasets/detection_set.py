"""A list of pictures with their boxes, stored flat so that workers share it and COCO's 118,000 pictures fit."""

import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from detect_prune.errors import DetectPruneError
from detect_prune.files import list_folder
from detect_prune.numbers import counted
from detect_prune.structures import Truth


class DetectionSet:
    """A sequence of `Truth`, made on the fly from flat numpy arrays.

    No Python object is kept per picture or box: a forked worker that only reads counts references of nothing
    but the arrays themselves, so its memory stays shared with the parent.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        paths: np.ndarray,
        path_ends: np.ndarray,
        image_ids: np.ndarray,
        sizes: np.ndarray,
        box_ends: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        areas: np.ndarray,
        flags: np.ndarray,
    ):
        """Use `DetectionSetBuilder`. Picture i owns paths[path_ends[i]:path_ends[i + 1]] (bytes), boxes likewise."""
        self.names = names
        self._paths, self._path_ends = paths, path_ends
        self._image_ids, self._sizes = image_ids, sizes
        self._box_ends, self._boxes, self._labels, self._areas, self._flags = box_ends, boxes, labels, areas, flags
        self.decoded: dict[int, np.ndarray] = {}
        """Pictures that `batches` keeps in memory, by index, where the set is small enough."""

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker gets a pickled copy of the set, and should not get all decoded pictures with it.
        return {**self.__dict__, "decoded": {}}

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> Truth:
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        index %= len(self)
        width, height = self._sizes[index].tolist()
        own = slice(self._box_ends[index], self._box_ends[index + 1])
        return Truth(
            path=self.path(index),
            image_id=int(self._image_ids[index]),
            width=width,
            height=height,
            boxes=self._boxes[own].copy(),
            labels=self._labels[own].astype(np.int64),
            areas=self._areas[own].copy(),
            crowd=(self._flags[own] & _CROWD).astype(bool),
            difficult=(self._flags[own] & _DIFFICULT).astype(bool),
        )

    def __iter__(self) -> Iterator[Truth]:
        return (self[index] for index in range(len(self)))

    def path(self, index: int) -> Path:
        """The file of picture `index`."""
        return _path(self._paths, self._path_ends, index)

    @property
    def box_count(self) -> int:
        """All boxes, crowd regions and difficult objects included."""
        return len(self._boxes)

    @property
    def crowd_count(self) -> int:
        """Crowd regions, which are neither learnt nor have to be found."""
        return int((self._flags & _CROWD != 0).sum())

    @property
    def difficult_count(self) -> int:
        """Difficult objects, which are not learnt, and are scored where a person asks for it alone."""
        return int((self._flags & _DIFFICULT != 0).sum())

    @property
    def class_counts(self) -> np.ndarray:
        """(classes,) how many boxes each class has."""
        return np.bincount(self._labels, minlength=len(self.names))

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all pictures once decoded to uint8 RGB."""
        return int(self._sizes.astype(np.int64).prod(1).sum()) * 3

    def digest(self) -> str:
        """Eight hexadecimal digits that change with the classes, the files' names, the pictures' sizes and what is in
        them; where the files lie has no part in them."""
        names = (*self.names, "", *(self.path(index).name for index in range(len(self))))
        found = zlib.crc32(os.fsencode("\0".join(names)))
        for part in (self._sizes, self._box_ends, self._boxes, self._labels, self._flags):
            found = zlib.crc32(np.ascontiguousarray(part), found)
        return f"{found:08x}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> "DetectionSet":
        """The pictures `indices` as a set of their own, in that order."""
        builder = DetectionSetBuilder(self.names)
        for index in indices:
            truth = self[int(index)]
            builder.add_picture(truth.path, truth.image_id, truth.width, truth.height)
            owners = np.full(len(truth.boxes), len(builder) - 1)
            builder.add_boxes(owners, truth.boxes, truth.labels, truth.areas, truth.crowd, truth.difficult)
        return builder.finish()


_CROWD, _DIFFICULT = 1, 2


class DetectionSetBuilder:
    """Collects pictures and boxes, in packed arrays from the start; `finish` sorts and cleans the boxes."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.warnings: list[str] = []
        """Filled by `finish`: sentences on boxes that were clipped or dropped, and on pictures that come again."""
        self._paths, self._path_ends = bytearray(), array("q", [0])
        self._image_ids, self._sizes = array("q"), array("i")
        self._owners, self._boxes = array("q"), array("f")
        self._labels, self._areas, self._flags = array("i"), array("f"), array("B")

    def __len__(self) -> int:
        return len(self._image_ids)

    def add_picture(self, path: str | Path, image_id: int, width: int, height: int) -> None:
        """Adds a picture."""
        self._paths += os.fsencode(path)
        self._path_ends.append(len(self._paths))
        self._image_ids.append(image_id)
        self._sizes.extend((width, height))

    def add_box(
        self,
        box: Sequence[float],
        label: int,
        area: float | None = None,
        *,
        crowd: bool = False,
        difficult: bool = False,
    ) -> None:
        """Adds a box (xyxy pixels, may reach out) to the last picture; `area` None stands for the clipped box's."""
        self._owners.append(len(self) - 1)
        self._boxes.extend(box)
        self._labels.append(label)
        self._areas.append(-1.0 if area is None else area)
        self._flags.append(_CROWD * crowd | _DIFFICULT * difficult)

    def add_boxes(
        self,
        owners: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        areas: np.ndarray,
        crowd: np.ndarray,
        difficult: np.ndarray | None = None,
    ) -> None:
        """Adds n boxes at once.

        Args:
            owners: (n,) number of the picture of each, from 0, in any order.
            boxes: (n, 4) xyxy pixels, may reach out.
            labels: (n,) indices into the names.
            areas: (n,) square pixels; below 0 where that of the clipped box is meant.
            crowd: (n,) bool.
            difficult: (n,) bool; none if not given.
        """
        flags = _CROWD * crowd.astype(np.uint8) | (0 if difficult is None else _DIFFICULT * difficult.astype(np.uint8))
        for mine, theirs, kind in (
            (self._owners, owners, np.int64),
            (self._boxes, boxes, np.float32),
            (self._labels, labels, np.int32),
            (self._areas, areas, np.float32),
            (self._flags, flags, np.uint8),
        ):
            mine.frombytes(np.ascontiguousarray(theirs, kind).tobytes())

    def finish(self) -> DetectionSet:
        """Clips every box to its picture, drops those without area, and returns the set."""
        paths = np.frombuffer(bytes(self._paths), np.uint8)
        path_ends = np.array(self._path_ends, np.int64)
        sizes = np.array(self._sizes, np.int32).reshape(-1, 2)
        owner = np.array(self._owners, np.int64)
        order = np.argsort(owner, kind="stable")
        owner, raw = owner[order], np.array(self._boxes, np.float32).reshape(-1, 4)[order]

        self._warn_of_repeated(paths, path_ends)
        boxes = np.clip(raw, 0, np.tile(sizes[owner], 2).astype(np.float32))
        clipped = (np.abs(boxes - raw) > 1).any(1)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        self._warn(np.flatnonzero(~kept), owner, paths, path_ends, "without area inside the picture", "dropped")
        self._warn(
            np.flatnonzero(clipped & kept),
            owner,
            paths,
            path_ends,
            "out of the picture by more than a pixel",
            "clipped",
        )

        own = order[kept]
        boxes, areas = boxes[kept], np.array(self._areas, np.float32)[own]
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = np.where(areas < 0, sides[:, 0] * sides[:, 1], areas)
        box_ends = np.concatenate([[0], np.cumsum(np.bincount(owner[kept], minlength=len(sizes)))]).astype(np.int64)
        return DetectionSet(
            self.names,
            paths,
            path_ends,
            np.array(self._image_ids, np.int64),
            sizes,
            box_ends,
            boxes,
            np.array(self._labels, np.int32)[own],
            areas,
            np.array(self._flags, np.uint8)[own],
        )

    def _warn_of_repeated(self, paths: np.ndarray, path_ends: np.ndarray) -> None:
        first: dict[bytes, int] = {}
        text, ends = paths.tobytes(), path_ends.tolist()
        again = [
            index
            for index, (start, end) in enumerate(pairwise(ends))
            if first.setdefault(text[start:end], index) != index
        ]
        if again:
            name = _path(paths, path_ends, again[0]).name
            self.warnings.append(
                f"pictures that are listed more than once count as often ({len(again)} too many, the first is {name})"
            )

    def _warn(
        self, which: np.ndarray, owner: np.ndarray, paths: np.ndarray, path_ends: np.ndarray, what: str, done: str
    ) -> None:
        if len(which) == 0:
            return
        name = _path(paths, path_ends, owner[which[0]]).name
        self.warnings.append(f"{counted(len(which), 'box', 'boxes')} {what}: {done} (the first in {name})")


def _path(paths: np.ndarray, path_ends: np.ndarray, index: int) -> Path:
    return Path(os.fsdecode(paths[path_ends[index] : path_ends[index + 1]].tobytes()))


def require_pictures(paths: Sequence[str | Path], source: Path, lines: Sequence[int] | None = None) -> None:
    """Checks that every listed picture is there, by one listing per folder instead of one call per picture.

    Args:
        paths: the pictures.
        source: the file that lists them, for the error.
        lines: the line of each picture in `source`.

    Raises:
        DetectPruneError: some are missing; names how many and the first.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for number, path in enumerate(paths):
        folder, name = os.path.split(os.path.join(".", path))
        if folder not in listings:
            listings[folder] = set(list_folder(folder, "pictures")) if os.path.isdir(folder) else set()
        # A disk that ignores case, or how letters are put together, has files of other names than it lists.
        if name not in listings[folder] and not os.path.lexists(path):
            missing.append(number)
    if missing:
        count = "the only picture" if len(paths) == 1 else f"{len(missing)} of the {len(paths)} pictures"
        raise DetectPruneError(
            f"{count} listed here can't be found; the first is {paths[missing[0]]}",
            file=source,
            line=None if lines is None else lines[missing[0]],
        )
