"""Pictures for people: boxes drawn on a picture, many pictures on one sheet, a picture written to disk."""

import colorsys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from detect_prune.errors import DetectPruneError
from detect_prune.files import atomic_path
from detect_prune.structures import Detections

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 6
_LARGEST_SIDE = 480
JPEG_SIDE = 65_500
"""The most pixels of a side that libjpeg writes."""


def class_colour(label: int) -> tuple[int, int, int]:
    """The RGB colour of a class: the same in every picture and run, neighbours far apart.

    Hues step by the golden section, which spreads any number of them evenly; brightness alternates as well, because
    hues alone run together beyond a dozen classes.
    """
    hue = (0.02 + label * 0.618033988749895) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.95, 0.65)[label // 9 % 2], (1.0, 0.8)[label // 3 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def _text_colour(background: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _plain(text: str) -> str:
    """OpenCV's fonts know ASCII only: accents are dropped, what is left over becomes a question mark."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return letters.encode("ascii", "replace").decode()


def draw_boxes(picture: np.ndarray, detections: Detections, names: Sequence[str] = ()) -> np.ndarray:
    """Draws boxes with class names and scores; names step aside for those of better boxes.

    Args:
        picture: (H, W, 3) uint8 RGB; left as it is.
        detections: boxes in pixels of `picture`; they are clipped to it, and left out where they lie wholly outside or
            are not finite.
        names: class names; those of `detections`, then plain numbers, are used where they are missing.

    Returns:
        A new (H, W, 3) uint8 RGB picture.
    """
    drawn = np.ascontiguousarray(picture).copy()
    height, width = drawn.shape[:2]
    names = tuple(names) or detections.names
    line = max(1, round(min(height, width) / 240))
    scale = min(max(min(height, width) / 900, 0.35), 1.5)
    thick = max(1, round(1.6 * scale))
    boxes = detections.boxes.detach().cpu().double().numpy().reshape(-1, 4)
    shown = [
        (np.clip(np.round(box), 0, [width - 1, height - 1] * 2).astype(int).tolist(), score, label)
        for box, score, label in zip(boxes, detections.scores.tolist(), detections.labels.tolist())
        if np.isfinite(box).all() and box[2] >= 0 and box[3] >= 0 and box[0] < width and box[1] < height
    ]
    # The best comes first in the list and is drawn last, so that it lies on top.
    for (left, top, right, bottom), _, label in reversed(shown):
        cv2.rectangle(drawn, (left, top), (right, bottom), class_colour(label), line)
    tags: list[tuple[int, int, int, int]] = []
    texts = []
    for (left, top, _, bottom), score, label in shown:
        text = f"{_plain(names[label]) if label < len(names) else label} {score:.2f}"
        (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, thick)
        size = text_width + 4, text_height + baseline + 2
        tags.append(_place_tag(left - line // 2, top, bottom, size, (width, height), tags))
        texts.append((text, text_height, class_colour(label)))
    for (left, top, right, bottom), (text, text_height, colour) in reversed(list(zip(tags, texts))):
        cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)
        origin = (left + 2, top + text_height + 1)
        cv2.putText(drawn, text, origin, _FONT, scale, _text_colour(colour), thick, cv2.LINE_AA)
    return drawn


def _place_tag(
    left: int, top: int, bottom: int, size: tuple[int, int], picture: tuple[int, int], taken: list[tuple[int, ...]]
) -> tuple[int, int, int, int]:
    """Where a box's name goes, (left, top, right, bottom): above the box, else from its top down, to a little below it.

    The first place that covers none of `taken` and lies in the picture; if there is none, the first in the picture.
    """
    width, height = size
    x = max(0, min(left, picture[0] - width))
    inside, below = range(top, max(top, bottom - height) + 1, height), range(bottom, bottom + 3 * height, height)
    places = [y for y in (top - height, *inside, *below) if 0 <= y <= picture[1] - height]
    for y in places:
        if not any(x < tag[2] and tag[0] < x + width and y < tag[3] and tag[1] < y + height for tag in taken):
            return x, y, x + width, y + height
    y = places[0] if places else max(0, min(top, picture[1] - height))
    return x, y, x + width, y + height


def contact_sheet(pictures: Sequence[np.ndarray], columns: int = 4) -> np.ndarray:
    """Puts pictures side by side on white paper, each scaled to about the same size with its proportions kept.

    Args:
        pictures: (h, w, 3) uint8 RGB of any sizes.
        columns: at most so many in a row.

    Returns:
        One (H, W, 3) uint8 RGB picture.

    Raises:
        ValueError: no pictures, or no columns.
    """
    if not pictures or columns < 1:
        raise ValueError("a contact sheet needs at least one picture and one column")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    side = min(_LARGEST_SIDE, max(max(picture.shape[:2]) for picture in pictures))
    scaled = [_scaled_to(picture, side) for picture in pictures]
    # A row is as high as its highest picture and a column as wide as its widest, so that little paper is wasted.
    heights = [max(p.shape[0] for p in scaled[row * columns : (row + 1) * columns]) + _GAP for row in range(rows)]
    widths = [max(p.shape[1] for p in scaled[column::columns]) + _GAP for column in range(columns)]
    sheet = np.full((sum(heights) + _GAP, sum(widths) + _GAP, 3), 255, np.uint8)
    for index, picture in enumerate(scaled):
        row, column = divmod(index, columns)
        height, width = picture.shape[:2]
        y = _GAP + sum(heights[:row]) + (heights[row] - _GAP - height) // 2
        x = _GAP + sum(widths[:column]) + (widths[column] - _GAP - width) // 2
        sheet[y : y + height, x : x + width] = picture
    return sheet


def _scaled_to(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture with its longer side `side` pixels long."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # Small pictures (digits, CIFAR) stay sharp when enlarged; large ones are averaged down.
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Writes a (H, W, 3) uint8 RGB picture, atomically; the ending of `path` chooses the format, .jpg or .png.

    Raises:
        DetectPruneError: this OpenCV does not write that format, or not so large a picture.
    """
    suffix = Path(path).suffix
    if not cv2.haveImageWriter(f"picture{suffix}"):
        raise DetectPruneError(f"can't write a picture of type {suffix!r}; .png and .jpg work")
    written, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not written:
        size = f"{picture.shape[1]} x {picture.shape[0]}"
        raise DetectPruneError(f"a picture of {size} pixels can't be written as {suffix}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
