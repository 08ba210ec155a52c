"""Descriptors: the small yaml file that says where the pictures of a data set are and in which format."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text, write_text
from detect_prune.resources import is_installed, packaged_folder

_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "bool", "int", "float", "timestamp")}
"""What yaml takes a bare word for. All of them are texts here; !include and the like are other programs' own."""

FORMATS = {"coco": (), "voc": ("names",), "darknet": ("names",)}
"""The keys that each format has beside format, path, train and val."""


@dataclass(frozen=True)
class Descriptor:
    """What the file says: each key's text, list of texts, or dict of texts, and its line for errors."""

    file: Path
    values: dict[str, Any]
    lines: dict[str, int]
    warnings: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        return self.values["format"]

    def wrong(self, key: str, message: str) -> DetectPruneError:
        """An error that names the file and the line of `key`."""
        return DetectPruneError(message, file=self.file, line=self.lines.get(key))

    def folder(self, root: str | Path | None) -> Path:
        """The folder of the data: `root` if given, else `path`, relative to the file."""
        if root is not None:
            return Path(root)
        base = self.file.parent
        if base == packaged_folder("data") and is_installed():
            base = Path("data")  # installed: nobody keeps pictures in site-packages; read as if it lay in ./data
        return Path(os.path.normpath(base / self.values["path"]))

    def texts(self, key: str) -> list[str]:
        """The value of `key` as a list of texts; a single text is a list of one."""
        value = self.values[key]
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts or not all(texts):
            raise self.wrong(key, f"{key} has to be a list of texts")
        return texts

    def names(self, folder: Path) -> tuple[str, ...]:
        """The class names: a list, or a file in the data folder, beside the descriptor, in the working folder, in
        ./data or in the package."""
        value = self.values["names"]
        if isinstance(value, dict) and list(value) == [str(number) for number in range(len(value))]:
            value = list(value.values())
        if isinstance(value, list):
            return _checked_names(value, self.file, self.lines["names"])
        if not isinstance(value, str) or not value:
            raise self.wrong("names", "names has to be a list of class names, or a file of them, or 0: NAME and so on")
        for place in (folder, self.file.parent, Path(), Path("data"), packaged_folder("data")):
            if os.path.isfile(place / value):
                return read_names(place / value)
        raise self.wrong(
            "names",
            f"there is no file of class names {value}, neither in {folder} nor beside this file, in the working "
            "folder, in ./data or in the package",
        )


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line, as in Darknet's .names files. Raises DetectPruneError."""
    lines = read_text(path, "file of class names").rstrip().split("\n")
    return _checked_names([line.strip() for line in lines], path, None)


def write_names(path: Path, names: Sequence[str]) -> None:
    """Writes a file that read_names takes: a name that is empty or there already (COCO's json may have such) gets its
    class's number."""
    lines: list[str] = []
    for number, name in enumerate(names):
        line = " ".join(name.split())
        while not line or line in lines:
            line = f"{line} {number}".strip()
        lines.append(line)
    write_text(path, "\n".join(lines) + "\n")


def _checked_names(names: list[str], file: Path, line: int | None) -> tuple[str, ...]:
    """`line` is that of the whole list; None where the file has one name a line."""
    if not any(names):
        raise DetectPruneError("there is no class name here; one a line was expected", file=file, line=line)
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            what = f'the class name "{name}" stands here a second time' if name else "an empty class name"
            raise DetectPruneError(what, file=file, line=number if line is None else line)
    return tuple(names)


def read_descriptor(file: Path, splits: tuple[str, ...]) -> Descriptor:
    """Reads and checks a descriptor, of which the given splits are needed. Raises DetectPruneError with the line."""
    node = _compose(file)
    if not isinstance(node, yaml.MappingNode):
        raise DetectPruneError("a descriptor has keys: format, path, train, val", file=file, line=1)
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise DetectPruneError("a plain key was expected", file=file, line=line)
        if key in values:
            raise DetectPruneError(f"the key {key} stands here a second time", file=file, line=line)
        values[key], lines[key] = _plain(value_node, file), line
    descriptor = Descriptor(file, values, lines)
    _check_keys(descriptor, splits)
    return descriptor


def _compose(file: Path) -> yaml.Node | None:
    text = read_text(file, "data-set descriptor (yaml)")
    if text.lstrip().startswith("{") and file.suffix == ".json":  # to yaml it is one, and takes minutes
        raise DetectPruneError(
            "this is an annotation file; --data takes a descriptor (yaml) that names it: format, path, train, val",
            file=file,
        )
    try:
        # Composed, not constructed: every key keeps its line, `no` stays a class name, and nothing but text is made.
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise DetectPruneError(f"not valid yaml: {error.problem or error.context}", file=file, line=line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DetectPruneError(f"not valid yaml: {error.reason}", file=file, line=line) from None
    except RecursionError:
        raise DetectPruneError("nested too deep for a data-set descriptor", file=file) from None


def _plain(node: yaml.Node, file: Path) -> Any:
    """A text, a list of texts, or a dict of texts: a descriptor needs no more."""
    line = node.start_mark.line + 1
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    if isinstance(node, yaml.ScalarNode):
        leaves = [node]
    else:
        leaves = [leaf for pair in pairs for leaf in pair] if pairs else node.value
    for leaf in leaves:
        if not isinstance(leaf, yaml.ScalarNode):
            raise DetectPruneError("a text, a list of texts, or keys with texts were expected", file=file, line=line)
        line = leaf.start_mark.line + 1
        if "\0" in leaf.value:
            raise DetectPruneError("a zero byte can't be part of a name", file=file, line=line)
        if leaf.tag not in _PLAIN_TAGS:
            raise DetectPruneError(f"the tag {leaf.tag} has no meaning here; a text was expected", file=file, line=line)
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.SequenceNode):
        return [leaf.value for leaf in leaves]
    plain = {key.value: value.value for key, value in pairs}
    if len(plain) < len(pairs):
        raise DetectPruneError("a key stands here a second time", file=file, line=line)
    return plain


def _check_keys(descriptor: Descriptor, splits: tuple[str, ...]) -> None:
    values = descriptor.values
    every = {"format", "path", "train", "val"}.union(*FORMATS.values())
    if "format" not in values and {"names", "train"} <= values.keys():
        raise descriptor.wrong(
            "format",
            "the key format is missing; one of coco, voc, darknet was expected. If this is one of Ultralytics': say "
            "format: darknet, keep path, train, val and names, and take out the other keys",
        )
    for key in values:
        if key not in every:
            near = difflib.get_close_matches(key, every, 1)
            meant = f" (is {near[0]} meant?)" if near else ""
            raise descriptor.wrong(key, f"unknown key {key}{meant}; a descriptor has {', '.join(sorted(every))}")
    if not isinstance(values.get("format"), str) or values["format"] not in FORMATS:
        found = f"format is {values['format']}" if "format" in values else "the key format is missing"
        raise descriptor.wrong("format", f"{found}; one of {', '.join(FORMATS)} was expected")
    own = FORMATS[values["format"]]
    known = ("format", "path", "train", "val", *own)
    for key in values:
        if key not in known:
            raise descriptor.wrong(key, f"unknown key {key}; format {values['format']} has {', '.join(known)}")
    for key in ("path", *splits, *own):
        if key not in values:
            raise descriptor.wrong(key, f"the key {key} is missing; format {values['format']} has {', '.join(known)}")
    if not isinstance(values["path"], str) or not values["path"]:
        raise descriptor.wrong("path", "path has to be one folder")
