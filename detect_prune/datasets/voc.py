"""PASCAL VOC's folders and xml files, read directly.

Corners. VOC counts pixels from 1 and includes both ends. We take (xmin - 1, ymin - 1, xmax - 1, ymax - 1), the box that
Darknet's scripts/voc_label.py makes: it keeps the width xmax - xmin and moves the centre by 1. Networks trained with
Darknet have learnt that box, and its scores are compared with ours; the geometric reading would be one pixel larger.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from detect_prune.datasets.detection_set import DetectionSet, DetectionSetBuilder
from detect_prune.datasets.picture import PICTURE_SUFFIXES, picture_size
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text

_SIDE_LIMIT = 2**20


def find_devkit(folder: Path) -> Path:
    """The folder below which the years lie: `folder`, or the VOCdevkit in it, as VOC's archives unpack."""
    return folder / "VOCdevkit" if os.path.isdir(folder / "VOCdevkit") else folder


def read_voc(devkit: Path, entries: list[str], names: tuple[str, ...]) -> tuple[DetectionSet, list[str]]:
    """Reads the pictures of some image sets.

    Args:
        devkit: folder of VOC2007 and the like, or one that holds Annotations, ImageSets and JPEGImages itself.
        entries: `VOC2007/train` and the like: a folder below `devkit` and a file of its ImageSets/Main; only `train`
            where `devkit` holds the three folders itself.
        names: class names in the order of their indices.

    Returns:
        The set, and warnings on boxes that were clipped or dropped. Difficult objects are in the set, marked.

    Raises:
        DetectPruneError: names the file, and its line.
    """
    label_of = {name: label for label, name in enumerate(names)}
    builder = DetectionSetBuilder(names)
    for entry in entries:
        folder, image_set = _image_set(devkit, entry)
        pictures = _pictures(folder / "JPEGImages")
        for number, line in enumerate(read_text(image_set, "VOC image set").split("\n"), 1):
            words = line.split()
            if not words:
                continue
            # Sets of one class have a second column: 1, -1 or 0 (difficult). The picture is in the set either way.
            path = pictures.get(words[0])
            if path is None:
                raise DetectPruneError(
                    f"there is no picture {words[0]} in {folder / 'JPEGImages'}", file=image_set, line=number
                )
            annotation = folder / "Annotations" / f"{words[0]}.xml"
            if not os.path.isfile(annotation):
                raise DetectPruneError(
                    f"the picture {words[0]} has no annotation; {annotation} was expected", file=image_set, line=number
                )
            _add(builder, path, annotation, label_of)
    dataset = builder.finish()
    return dataset, [f"{', '.join(entries)}: {warning}" for warning in builder.warnings]


def _image_set(devkit: Path, entry: str) -> tuple[Path, Path]:
    year, _, name = entry.rpartition("/")
    folder = devkit / year
    sets = folder / "ImageSets" / "Main"
    if not os.path.isdir(sets):
        raise DetectPruneError(f"no such folder; the entry {entry} means a file in it, one picture a line", file=sets)
    file = sets / f"{name}.txt"
    if not os.path.isfile(file):
        known = ", ".join(sorted(path.stem for path in sets.glob("*.txt"))[:12]) or "none"
        raise DetectPruneError(f"no such image set; the folder has {known}", file=file)
    return folder, file


def _pictures(folder: Path) -> dict[str, Path]:
    if not os.path.isdir(folder):
        raise DetectPruneError("no such folder; the pictures were expected in it", file=folder)
    return {path.stem: path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES}


def _add(builder: DetectionSetBuilder, path: Path, annotation: Path, label_of: dict[str, int]) -> None:
    root = parse_xml(annotation)
    if root.tag != "annotation":
        raise DetectPruneError(f"<{root.tag}> found; <annotation> was expected", file=annotation, line=root.line)
    size = root.child("size")
    if size is None:
        width, height = picture_size(path)
    else:
        width, height = (_number(size, key, annotation) for key in ("width", "height"))
        if width < 1 or height < 1:  # some tools write zeros
            width, height = picture_size(path)
    builder.add_picture(path, len(builder) + 1, int(width), int(height))
    for thing in root.children:
        if thing.tag != "object":
            continue
        name = thing.child("name")
        text = "" if name is None else name.text.strip()
        if text not in label_of:
            line = (name or thing).line
            raise DetectPruneError(
                f'the class "{text}" is not one of {", ".join(label_of)}', file=annotation, line=line
            )
        box = thing.child("bndbox")
        if box is None:
            raise DetectPruneError("this object has no <bndbox>", file=annotation, line=thing.line)
        corners = [_number(box, key, annotation) - 1 for key in ("xmin", "ymin", "xmax", "ymax")]
        difficult = thing.child("difficult")
        builder.add_box(corners, label_of[text], difficult=difficult is not None and difficult.text.strip() == "1")


def _number(parent: "Element", key: str, file: Path) -> float:
    element = parent.child(key)
    if element is None:
        raise DetectPruneError(f"<{parent.tag}> has no <{key}>", file=file, line=parent.line)
    try:
        value = float(element.text)
    except ValueError:
        value = math.nan
    if not abs(value) < _SIDE_LIMIT:
        raise DetectPruneError(
            f'<{key}> is "{element.text.strip()[:40]}"; a number of pixels was expected', file=file, line=element.line
        )
    return value


@dataclass
class Element:
    """An xml element with the line that it starts on."""

    tag: str
    line: int
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def child(self, tag: str) -> "Element | None":
        """The first child of that name."""
        return next((child for child in self.children if child.tag == tag), None)


class _Builder:
    """Target of the xml parser: keeps the lines, which ElementTree forgets, and a stack instead of a recursion."""

    def __init__(self):
        self.parser = None
        self.stack = [Element("", 0)]

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, self.parser.CurrentLineNumber)
        self.stack[-1].children.append(element)
        self.stack.append(element)

    def data(self, text: str) -> None:
        self.stack[-1].text += text

    def end(self, tag: str) -> None:
        self.stack.pop()

    def close(self) -> Element:
        return self.stack[0].children[0]


def parse_xml(path: Path) -> Element:
    """Parses an xml file; entities, and whatever else could grow or reach out, are refused. Raises DetectPruneError."""
    text = read_text(path, "VOC annotation (xml)")
    builder = _Builder()
    parser = DefusedXMLParser(target=builder)
    builder.parser = parser.parser
    try:
        parser.feed(text)
        return parser.close()
    except ParseError as error:
        raise DetectPruneError(f"broken xml, perhaps cut off: {error.msg}", file=path, line=error.position[0]) from None
    except DefusedXmlException as error:
        line = parser.parser.CurrentLineNumber
        raise DetectPruneError(
            f"xml that declares entities is refused ({type(error).__name__})", file=path, line=line
        ) from None
