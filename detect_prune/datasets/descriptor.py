"""From a name or a small yaml file to a data set that is ready for training and scoring."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detect_prune.datasets.coco import read_coco
from detect_prune.datasets.darknet_txt import read_data_file, read_lists
from detect_prune.datasets.detection_set import DetectionSet
from detect_prune.datasets.sample import sample_folder
from detect_prune.datasets.voc import find_devkit, read_voc
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text
from detect_prune.resources import find_resource, packaged_folder

SAMPLE = "sample"
_FORMATS = {"coco": {"train", "val"}, "voc": {"train", "val", "names"}, "darknet": {"train", "val", "names"}}
"""The keys that each format needs beside `format` and `path`."""


@dataclass
class DetectionData:
    """Pictures to train on, pictures to score on, and what is in them."""

    names: tuple[str, ...]
    train: DetectionSet
    val: DetectionSet
    name: str
    """Name of the descriptor, for tables and folders."""
    format: str
    category_ids: tuple[int, ...]
    """The id that COCO's files have for each class; 1, 2, 3, ... in other formats."""
    is_sample: bool = False
    warnings: list[str] = field(default_factory=list)
    """Sentences on boxes that were clipped or dropped."""


@dataclass(frozen=True)
class _Descriptor:
    """The yaml file: its keys, with the line of each for errors."""

    file: Path
    values: dict[str, Any]
    lines: dict[str, int]

    def wrong(self, key: str, message: str) -> DetectPruneError:
        return DetectPruneError(message, file=self.file, line=self.lines.get(key))


def load_data(name_or_path: str | Path, root: str | Path | None = None, cache: str | Path | None = None) -> DetectionData:
    """Loads a data set.

    Args:
        name_or_path: `sample` for the built-in set (drawn into the cache on first use), else a descriptor: a yaml file,
            looked up as given, in ./data and in the package, or a Darknet `.data` file.
        root: folder of the data, instead of the one that the descriptor names.
        cache: cache folder, instead of the usual one.

    Raises:
        DetectPruneError: anything is missing or wrong; names the file, and the line of a text.
    """
    if str(name_or_path) == SAMPLE:
        return _load_sample(cache)
    file = find_resource("data", name_or_path)
    if file.suffix == ".data":
        train, val, names = read_data_file(file, None if root is None else Path(root))
        return _from_lists(file, train, val, names)
    descriptor = _read_descriptor(file)
    folder = _folder(descriptor, root)
    if not folder.is_dir():
        raise descriptor.wrong("path", f"the data folder {folder} does not exist; --data-root names another")
    data = {"coco": _load_coco, "voc": _load_voc, "darknet": _load_darknet}[descriptor.values["format"]](descriptor, folder)
    for split, dataset in (("train", data.train), ("val", data.val)):
        if len(dataset) == 0:
            raise descriptor.wrong(split, f"the {split} set is empty: it lists no picture")
    if data.train.box_count == 0:
        raise descriptor.wrong("train", "the train set has no box on any picture; there is nothing to learn")
    return data


def data_available(name_or_path: str | Path, root: str | Path | None = None) -> bool:
    """Whether the folder that a descriptor names (or `root` instead) is there; the built-in set always is."""
    if str(name_or_path) == SAMPLE:
        return True
    file = find_resource("data", name_or_path)
    return file.suffix == ".data" or _folder(_read_descriptor(file), root).is_dir()


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line, as in Darknet's .names files; empty lines at the end are ignored. Raises DetectPruneError."""
    lines = read_text(path, "file of class names").rstrip().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise DetectPruneError("an empty line stands between the class names", file=path, line=number)
    names = tuple(line.strip() for line in lines)
    if not names:
        raise DetectPruneError("the file is empty; one class name a line was expected", file=path)
    return names


def _load_sample(cache: str | Path | None) -> DetectionData:
    folder = sample_folder(cache)
    train, category_ids, _ = read_coco(folder / "train", folder / "train.json")
    val, _, _ = read_coco(folder / "val", folder / "val.json")
    return DetectionData(train.names, train, val, SAMPLE, "coco", category_ids, is_sample=True)


def _read_descriptor(file: Path) -> _Descriptor:
    text = read_text(file, "data-set descriptor (yaml)")
    try:
        # Composed, not constructed: every key keeps its line, `no` stays a class name, and nothing but text is made.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DetectPruneError(f"not valid yaml: {error.problem}", file=file, line=mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise DetectPruneError(f"not valid yaml: {' '.join(str(error).split())}", file=file) from None
    except RecursionError:
        raise DetectPruneError("nested too deep for a data-set descriptor", file=file) from None
    if not isinstance(node, yaml.MappingNode):
        raise DetectPruneError("a descriptor has keys: format, path, train, val", file=file, line=1)
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key in values:
            what = f"the key {key} stands here a second time" if isinstance(key, str) else "a plain key was expected"
            raise DetectPruneError(what, file=file, line=line)
        values[key], lines[key] = _plain(value_node, file), line
    descriptor = _Descriptor(file, values, lines)
    _check_keys(descriptor)
    return descriptor


def _plain(node: yaml.Node, file: Path) -> Any:
    """A text, a list of texts, or a dict of texts: a descriptor needs no more."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return node.value
    children = node.value if isinstance(node, yaml.SequenceNode) else [child for pair in node.value for child in pair]
    if not all(isinstance(child, yaml.ScalarNode) for child in children):
        raise DetectPruneError("too deep: a text, a list of texts, or keys with texts were expected", file=file, line=line)
    if isinstance(node, yaml.SequenceNode):
        return [child.value for child in children]
    return {key.value: value.value for key, value in node.value}


def _check_keys(descriptor: _Descriptor) -> None:
    values = descriptor.values
    formats = ", ".join(_FORMATS)
    if not isinstance(values.get("format"), str) or values["format"] not in _FORMATS:
        found = f"format is {values['format']}" if "format" in values else "the key format is missing"
        raise descriptor.wrong("format", f"{found}; one of {formats} was expected")
    needed = _FORMATS[values["format"]] | {"format", "path"}
    for key in values:
        if key not in needed:
            raise descriptor.wrong(key, f"unknown key {key}; format {values['format']} has {', '.join(sorted(needed))}")
    missing = sorted(needed - set(values))
    if missing:
        raise descriptor.wrong("", f"the key {missing[0]} is missing; format {values['format']} has {', '.join(sorted(needed))}")
    if not isinstance(values["path"], str) or not values["path"]:
        raise descriptor.wrong("path", "path has to be one folder")


def _folder(descriptor: _Descriptor, root: str | Path | None) -> Path:
    if root is not None:
        return Path(root)
    base = descriptor.file.parent
    if base == packaged_folder("data") and base.parent.name == "detect_prune":
        base = Path("data")  # installed: nobody keeps pictures in site-packages, so the copy is read as if it lay in ./data
    return base / descriptor.values["path"]


def _load_coco(descriptor: _Descriptor, folder: Path) -> DetectionData:
    splits = {}
    for split in ("train", "val"):
        entry = descriptor.values[split]
        if not isinstance(entry, dict) or set(entry) != {"images", "annotations"}:
            raise descriptor.wrong(split, f"{split} has to be {{images: FOLDER, annotations: FILE.json}}")
        splits[split] = read_coco(folder / entry["images"], folder / entry["annotations"])
    (train, category_ids, warnings), (val, val_ids, more) = splits["train"], splits["val"]
    if category_ids != val_ids or train.names != val.names:
        raise descriptor.wrong("val", f"train has {len(category_ids)} categories and val {len(val_ids)}, or their ids or names differ")
    return DetectionData(train.names, train, val, descriptor.file.stem, "coco", category_ids, warnings=warnings + more)


def _load_voc(descriptor: _Descriptor, folder: Path) -> DetectionData:
    names = _names(descriptor, folder)
    devkit = find_devkit(folder)
    train, warnings = read_voc(devkit, _texts(descriptor, "train"), names)
    val, more = read_voc(devkit, _texts(descriptor, "val"), names)
    return DetectionData(names, train, val, descriptor.file.stem, "voc", tuple(range(1, len(names) + 1)), warnings=warnings + more)


def _load_darknet(descriptor: _Descriptor, folder: Path) -> DetectionData:
    lists = {split: [folder / entry for entry in _texts(descriptor, split)] for split in ("train", "val")}
    return _from_lists(descriptor.file, lists["train"], lists["val"], _names(descriptor, folder), folder)


def _from_lists(file: Path, train: list[Path], val: list[Path], names: tuple[str, ...] | Path, folder: Path | None = None) -> DetectionData:
    if isinstance(names, Path):
        names = read_names(names)
    train_set, warnings = read_lists(train, names, folder)
    val_set, more = read_lists(val, names, folder)
    return DetectionData(names, train_set, val_set, file.stem, "darknet", tuple(range(1, len(names) + 1)), warnings=warnings + more)


def _texts(descriptor: _Descriptor, key: str) -> list[str]:
    value = descriptor.values[key]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(texts):
        raise descriptor.wrong(key, f"{key} has to be a list of texts")
    return texts


def _names(descriptor: _Descriptor, folder: Path) -> tuple[str, ...]:
    """A list of names, or a file of them: in the data folder, beside the descriptor, in ./data or in the package."""
    value = descriptor.values["names"]
    if isinstance(value, list):
        names = tuple(value)
        if not names or not all(names) or len(set(names)) != len(names):
            raise descriptor.wrong("names", "names has to be a list of different class names, or a file of them")
        return names
    if not isinstance(value, str) or not value:
        raise descriptor.wrong("names", "names has to be a list of class names, or a file of them")
    for candidate in (folder / value, descriptor.file.parent / value):
        if candidate.is_file():
            return read_names(candidate)
    return read_names(find_resource("data", value))
