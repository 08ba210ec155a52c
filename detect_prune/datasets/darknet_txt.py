"""Darknet's lists: a text of picture paths, and for each picture a text of `class x y width height` in shares of it."""

import os
from dataclasses import dataclass
from pathlib import Path

from detect_prune.datasets.detection_set import DetectionSet, DetectionSetBuilder, require_pictures
from detect_prune.datasets.picture import PICTURE_SUFFIXES, CorruptPicture, size_and_turn
from detect_prune.errors import DetectPruneError
from detect_prune.files import first_file, read_text
from detect_prune.numbers import counted, parse_number, parse_whole

_DATA_KEYS = (
    *("classes", "train", "valid", "names", "backup", "results", "eval", "map", "difficult"),
    *("test", "labels", "leaves", "top", "tree", "underscore"),
)
"""What Darknet's detector and classifier look for in a .data file; train, valid, names and classes are read here."""
_SCORED_BY = ("map", "difficult")
"""Those by which Darknet would score otherwise."""


@dataclass(frozen=True)
class DataFile:
    """What a `.data` file says."""

    files: dict[str, tuple[Path, int]]
    """For each split that was asked for, and for `names`: the file, and the line that says so."""
    classes: tuple[int, int] | None
    """How many classes, if it says so, and the line."""
    warnings: list[str]


def read_data_file(file: Path, root: Path | None, splits: tuple[str, ...]) -> DataFile:
    """Reads a `.data` file: `key = value` lines.

    Paths in it are relative to `root`, to the file's folder, or (Darknet's way) to the working folder: the first that
    is there.

    Raises:
        DetectPruneError: a line is no `key = value`, a key is there twice or missing, a file is missing.
    """
    values: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(read_text(file, "Darknet .data file").split("\n"), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not key or not equals or not value:
            raise DetectPruneError(f'"{line[:60]}" found; key = value was expected', file=file, line=number)
        if key in values:
            raise DetectPruneError(f"the key {key} stands here a second time", file=file, line=number)
        values[key] = (value, number)
    found = {}
    for name in (*splits, "names"):
        key = "valid" if name == "val" else name
        if key not in values:
            raise DetectPruneError(f"the line {key} = FILE is missing", file=file)
        value, line = values[key]
        candidates = [folder / _slashes(value) for folder in (root, file.parent, Path()) if folder is not None]
        path = first_file(candidates)
        if path is None:
            known = "" if root is not None else "; --data-root names the folder that it lies in"
            raise DetectPruneError(f"{key} = {value}: there is no such file{known}", file=file, line=line)
        found[name] = (path, line)
    warnings = [f"{file.name}:{line}: unknown key {key}" for key, (_, line) in values.items() if key not in _DATA_KEYS]
    warnings += [
        f"{file.name}:{values[key][1]}: {key} is not read; Darknet's own scores follow it"
        for key in _SCORED_BY
        if key in values
    ]
    return DataFile(found, _classes(values, file), warnings)


def _classes(values: dict[str, tuple[str, int]], file: Path) -> tuple[int, int] | None:
    if "classes" not in values:
        return None
    text, line = values["classes"]
    classes = parse_whole(text)
    if classes is None or classes < 1:
        raise DetectPruneError(f"classes is {text}; how many there are was expected", file=file, line=line)
    return classes, line


def read_lists(lists: list[Path], names: tuple[str, ...], folder: Path | None = None) -> tuple[DetectionSet, list[str]]:
    """Reads the pictures of some lists and their labels.

    Args:
        lists: texts with one picture a line; relative ones lie below `folder`, the list's folder or the working one.
            A backslash is read as a slash: lists are made on Windows, too. A folder stands for all pictures in it.
        names: class names.
        folder: folder of the data set.

    Returns:
        The set, and warnings: boxes that were clipped or dropped, pictures without a label file (they count as empty,
        as in Darknet), pictures that can't be read.

    Raises:
        DetectPruneError: names the file, and its line.
    """
    builder = DetectionSetBuilder(names)
    warnings = []
    for file in lists:
        warnings += _add_list(builder, file, folder)
    dataset = builder.finish()
    return dataset, warnings + [f"{', '.join(file.name for file in lists)}: {warning}" for warning in builder.warnings]


def _add_list(builder: DetectionSetBuilder, file: Path, folder: Path | None) -> list[str]:
    lines = _pictures_below(file) if os.path.isdir(file) else read_text(file, "Darknet list of pictures").split("\n")
    entries = [(number, _slashes(line.strip())) for number, line in enumerate(lines, 1) if line.strip()]
    base = _base([entry for _, entry in entries], folder, file)
    paths = [base / entry for _, entry in entries]
    require_pictures(paths, file, [number for number, _ in entries])
    warnings, unlabelled, upright = [], 0, 0
    label_folders: dict[Path, Path] = {}
    for (number, _), path in zip(entries, paths):
        if path.parent not in label_folders:
            label_folders[path.parent] = label_folder(path.parent)
        labels = label_folders[path.parent] / f"{path.stem}.txt"
        try:
            (width, height), turned = size_and_turn(path)
        except CorruptPicture as error:
            # Its boxes are shares of an unknown size, so it can be neither trained on nor scored.
            warnings.append(f"{file.name}:{number}: left out: {error}")
            continue
        upright += turned
        builder.add_picture(path, len(builder) + 1, width, height)
        if os.path.exists(labels):
            _add_labels(builder, labels, width, height)
        else:
            unlabelled += 1
    if unlabelled and unlabelled == len(entries):
        raise DetectPruneError(
            f"none of its {len(entries)} pictures has labels; the first would be {labels}", file=file
        )
    if unlabelled:
        warnings.append(f"{file.name}: {counted(unlabelled, 'picture')} without a label file, taken as empty")
    if upright:  # labels are shares of a size that they don't tell
        warnings.append(
            f"{file.name}: {counted(upright, 'picture')} with a mark to be shown turned (EXIF), which is not followed "
            "here; if they were upright when they were labelled, store them so (mogrify -auto-orient)"
        )
    return warnings


def _pictures_below(folder: Path) -> list[str]:
    """The pictures of a folder and those inside, in the order of their names, as a list of that folder would have
    them."""
    paths: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        found = (name for name in names if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES)
        paths += (os.path.abspath(os.path.join(parent, name)) for name in found)
    return sorted(paths)


def _slashes(path: str) -> str:
    return path.replace("\\", "/")


def label_folder(pictures: Path) -> Path:
    """Where the labels of the pictures of a folder are.

    Darknet (`replace_image_to_label`, src/utils.c) replaces JPEGImages, and the images of COCO's folders, by labels,
    and looks beside the picture otherwise. We do so for any `images` where that folder is there.
    """
    parts = list(pictures.parts)
    for position in range(len(parts) - 1, -1, -1):
        if parts[position] in ("JPEGImages", "images"):
            candidate = Path(*parts[:position], "labels", *parts[position + 1 :])
            if os.path.isdir(candidate):
                return candidate
    return pictures


def _base(entries: list[str], folder: Path | None, file: Path) -> Path:
    """The first folder below which any of them is there."""
    candidates = [candidate for candidate in (folder, file.parent, Path()) if candidate is not None]
    for some in (entries[:1], entries):  # all of them are asked for only where the first one is gone
        for base in candidates:
            if first_file(base / entry for entry in some) is not None:
                return base
    return candidates[0]


def _add_labels(builder: DetectionSetBuilder, labels: Path, width: int, height: int) -> None:
    for number, line in enumerate(read_text(labels, "Darknet label file").split("\n"), 1):
        words = line.split()
        if not words:
            continue
        label, numbers = parse_whole(words[0]), [parse_number(word) for word in words[1:]]
        if label is None or len(numbers) != 4:
            raise DetectPruneError(
                f'"{line.strip()[:60]}" found; "class x y width height" was expected, a whole number and four shares',
                file=labels,
                line=number,
            )
        if not 0 <= label < len(builder.names):
            raise DetectPruneError(
                f"class {label} found; there are {len(builder.names)} classes, from 0", file=labels, line=number
            )
        if not all(abs(value) <= 10 for value in numbers):  # some reach out a little; pixels would be far more
            raise DetectPruneError(
                f'"{line.strip()[:60]}" found; x, y, width and height have to be shares of the picture\'s size, 0 to 1',
                file=labels,
                line=number,
            )
        x, y, w, h = numbers
        builder.add_box(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height), label)
