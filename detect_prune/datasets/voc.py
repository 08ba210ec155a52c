"""PASCAL VOC's folders and xml files, read directly.

Corners. VOC counts pixels from 1 and includes both ends. We take (xmin - 1, ymin - 1, xmax - 1, ymax - 1), the box that
Darknet's scripts/voc_label.py makes: it keeps the width xmax - xmin and moves the centre by 1. Networks trained with
Darknet have learnt that box, and its scores are compared with ours; the geometric reading would be one pixel larger.
"""

import contextlib
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from detect_prune.datasets.detection_set import DetectionSet, DetectionSetBuilder
from detect_prune.datasets.picture import PICTURE_SUFFIXES, SIDE_LIMIT, CorruptPicture, picture_size
from detect_prune.errors import DetectPruneError
from detect_prune.files import list_folder, read_bytes, read_text
from detect_prune.numbers import parse_number


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
        The set, and warnings: boxes that were clipped or dropped, pictures that can't be read and whose annotation has
        no size. Difficult objects are in the set, marked.

    Raises:
        DetectPruneError: names the file, and its line.
    """
    label_of = {name: label for label, name in enumerate(names)}
    builder = DetectionSetBuilder(names)
    warnings = []
    for entry in entries:
        folder, image_set = find_image_set(devkit, entry)
        pictures = _pictures(folder / "JPEGImages")
        for number, stem in _stems(image_set, pictures):
            found = pictures.get(stem, [])
            if len(found) != 1:
                what = "no picture" if not found else f"more than one picture ({', '.join(sorted(found))})"
                raise DetectPruneError(
                    f"there is {what} {stem} in {folder / 'JPEGImages'}", file=image_set, line=number
                )
            annotation = folder / "Annotations" / f"{stem}.xml"
            if not os.path.isfile(annotation):
                raise DetectPruneError(
                    f"the picture {stem} has no annotation; {annotation} was expected", file=image_set, line=number
                )
            try:
                _add(builder, folder / "JPEGImages" / found[0], annotation, label_of)
            except CorruptPicture as error:  # the annotation does not say its size, so the picture had to
                warnings.append(f"{image_set.name}:{number}: left out: {error}")
    dataset = builder.finish()
    return dataset, [f"{', '.join(entries)}: {warning}" for warning in warnings + builder.warnings]


def find_image_set(devkit: Path, entry: str) -> tuple[Path, Path]:
    """The folder of the year, and the text that lists the pictures. Raises DetectPruneError where there is none."""
    year, _, name = entry.removesuffix(".txt").rpartition("/")
    folder = devkit / year
    sets = folder / "ImageSets" / "Main"
    if not os.path.isdir(sets):
        raise DetectPruneError(
            f"no such folder; the entry {entry} means {name}.txt in it, a picture's name without its ending a line; "
            "beside ImageSets there are JPEGImages with the pictures and Annotations with NAME.xml for each",
            file=sets,
        )
    file = sets / f"{name}.txt"
    if not os.path.isfile(file):
        known = ", ".join(sorted(path.stem for path in sets.glob("*.txt"))[:12]) or "none"
        raise DetectPruneError(f"no such image set; the folder has {known}", file=file)
    return folder, file


def _stems(image_set: Path, pictures: Container[str]) -> Iterator[tuple[int, str]]:
    """Yields the line and the picture on it.

    Sets of one class have a second column: 1, -1 or 0 (difficult). The picture is in the set either way. Where there is
    a picture of just that name ("photo 1"), it is meant.
    """
    for number, line in enumerate(read_text(image_set, "VOC image set").split("\n"), 1):
        text = line.strip()
        if not text:
            continue
        stem, *rest = [text] if text in pictures else text.rsplit(None, 1)
        unknown = stem not in pictures and len(stem.split()) > 1
        if unknown or rest not in ([], ["1"], ["-1"], ["0"]):
            raise DetectPruneError(
                f'"{text[:60]}" found, which is no picture; the name of one without its ending was expected, '
                "and behind it nothing, 1, 0 or -1",
                file=image_set,
                line=number,
            )
        yield number, stem


def _pictures(folder: Path) -> dict[str, list[str]]:
    """The pictures of a folder, by their names without ending."""
    pictures: dict[str, list[str]] = {}
    for name in list_folder(folder, "pictures"):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in PICTURE_SUFFIXES:
            pictures.setdefault(stem, []).append(name)
    return pictures


def _add(builder: DetectionSetBuilder, path: Path, annotation: Path, label_of: dict[str, int]) -> None:
    root = parse_xml(annotation)
    if root.tag != "annotation":
        raise DetectPruneError(f"<{root.tag}> found; <annotation> was expected", file=annotation, line=root.line)
    builder.add_picture(path, len(builder) + 1, *_size(root, path, annotation))
    for thing in root.children:
        if thing.tag != "object":
            continue
        name = thing.child("name", annotation)
        text = "" if name is None else name.text
        if text not in label_of:
            line = (name or thing).line
            raise DetectPruneError(
                f'the class "{text[:60]}" is not one of {", ".join(label_of)}', file=annotation, line=line
            )
        box = thing.child("bndbox", annotation)
        if box is None:
            raise DetectPruneError("this object has no <bndbox>", file=annotation, line=thing.line)
        corners = [_number(box, key, annotation) - 1 for key in ("xmin", "ymin", "xmax", "ymax")]
        difficult = thing.child("difficult", annotation)
        if difficult is not None and difficult.text not in ("0", "1"):
            raise _wrong(difficult, "0 or 1", annotation)
        builder.add_box(corners, label_of[text], difficult=difficult is not None and difficult.text == "1")


def _size(root: "Element", path: Path, annotation: Path) -> tuple[int, int]:
    size = root.child("size", annotation)
    if size is None:
        return picture_size(path)
    width, height = (_number(size, key, annotation) for key in ("width", "height"))
    if width == 0 or height == 0:  # some tools write zeros
        return picture_size(path)
    for key, value in (("width", width), ("height", height)):
        if value < 0 or not value.is_integer():
            raise _wrong(size.child(key, annotation), "a whole number of pixels", annotation)
    return int(width), int(height)


def _number(parent: "Element", key: str, file: Path) -> float:
    element = parent.child(key, file)
    if element is None:
        raise DetectPruneError(f"<{parent.tag}> has no <{key}>", file=file, line=parent.line)
    value = parse_number(element.text)
    if not abs(value) < SIDE_LIMIT:
        raise _wrong(element, "a number of pixels", file)
    return value


def _wrong(element: "Element", expected: str, file: Path) -> DetectPruneError:
    return DetectPruneError(
        f'<{element.tag}> is "{element.text[:40]}"; {expected} was expected', file=file, line=element.line
    )


@dataclass
class Element:
    """An xml element with the line that it starts on."""

    tag: str
    line: int
    pieces: list[str] = field(default_factory=list)
    """The parser hands out the text in pieces; to add each to a string would take the square of their number."""
    children: list["Element"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of this element alone, without the space around it."""
        return "".join(self.pieces).strip()

    def child(self, tag: str, file: Path) -> "Element | None":
        """The only child of that name; None if there is none. Raises DetectPruneError where there are two."""
        found = [child for child in self.children if child.tag == tag]
        if len(found) > 1:
            raise DetectPruneError(f"<{self.tag}> has a second <{tag}>", file=file, line=found[1].line)
        return found[0] if found else None


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
        self.stack[-1].pieces.append(text)

    def end(self, tag: str) -> None:
        self.stack.pop()

    def close(self) -> Element:
        return self.stack[0].children[0]


def parse_xml(path: Path) -> Element:
    """Parses an xml file; entities, and whatever else could grow or reach out, are refused. Raises DetectPruneError."""
    content = read_bytes(path, "VOC annotation (xml)")
    # Most are UTF-8, whatever they say; what is not, says itself how it is encoded.
    with contextlib.suppress(UnicodeDecodeError):
        content = content.decode("utf-8-sig")
    builder = _Builder()
    parser = DefusedXMLParser(target=builder)
    builder.parser = parser.parser
    try:
        parser.feed(content)
        return parser.close()
    except ParseError as error:
        raise DetectPruneError(f"broken xml, perhaps cut off: {error.msg}", file=path, line=error.position[0]) from None
    except DefusedXmlException as error:
        line = parser.parser.CurrentLineNumber
        raise DetectPruneError(
            f"xml that declares entities is refused ({type(error).__name__})", file=path, line=line
        ) from None
    except (LookupError, ValueError) as error:  # an encoding that is unknown, or of several bytes a letter
        raise DetectPruneError(
            f"this xml is not UTF-8, and can't be read as what it says ({error})", file=path
        ) from None
