"""Reading pictures: what is stored, as it is stored, or a clear refusal."""

from pathlib import Path

import cv2
import numpy as np

from detect_prune.datasets.picture_header import (
    has_wrong_checksum,
    is_cut_off,
    is_turned,
    picture_format,
    size_in_header,
    size_in_memory,
    without_turn,
)
from detect_prune.errors import DetectPruneError
from detect_prune.files import open_binary

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")
SIDE_LIMIT = 2**20
PIXEL_LIMIT = 2**27
"""400 MB once decoded. A file of a megabyte can claim, and keep, a hundred times as much."""
_HEADER_BYTES = 32768


class CorruptPicture(DetectPruneError):
    """A picture that can't be read whole. Loaders of batches skip it, count it and report it."""


def read_picture(path: str | Path, upright: bool = False) -> np.ndarray:
    """Reads a picture as (H, W, 3) uint8 RGB. Grey, CMYK, palette, 16-bit and transparent pictures are converted.

    The EXIF turn is ignored, since the boxes of data sets follow the stored picture; `upright` asks for it, to see a
    picture as its viewers show it.

    Raises:
        CorruptPicture: the file is missing, empty, cut off, damaged where that can be seen, too large, or no JPEG, PNG,
            BMP, PPM, TIFF or WebP.
    """
    return decode_picture(_read_bytes(path), path, upright)


def decode_picture(data: bytes, path: str | Path, upright: bool = False) -> np.ndarray:
    """Decodes an encoded picture to (H, W, 3) uint8 RGB; `path` names it in errors. Raises CorruptPicture."""
    width, height = _checked_size(data, path)
    if is_cut_off(data):
        raise CorruptPicture("the picture is cut off: its end is missing", file=path)
    if has_wrong_checksum(data):
        raise CorruptPicture("the picture is damaged: a checksum in it does not hold", file=path)
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data if upright else without_turn(data), np.uint8), flags)
    except cv2.error as error:
        raise CorruptPicture(f"OpenCV can't decode this picture ({error.err})", file=path) from None
    if picture is None:
        raise CorruptPicture("the picture is damaged or cut off: OpenCV can't decode it", file=path)
    if picture.shape[:2] not in {(height, width), (width, height) if upright else (height, width)}:
        raise CorruptPicture(
            f"the picture's header says {width} x {height}, but {picture.shape[1]} x {picture.shape[0]} came out of it",
            file=path,
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def picture_size(path: str | Path) -> tuple[int, int]:
    """(width, height) as stored, from the header. Raises CorruptPicture."""
    return size_and_turn(path)[0]


def size_and_turn(path: str | Path) -> tuple[tuple[int, int], bool]:
    """(width, height) as stored, and whether viewers show it turned. Raises CorruptPicture."""
    data = _read_bytes(path, _HEADER_BYTES)
    if picture_format(data) and size_in_header(data) is None:  # a lot of metadata comes first, or the header is the end
        data = _read_bytes(path)
    return _checked_size(data, path), is_turned(data)


def _checked_size(data: bytes, path: str | Path) -> tuple[int, int]:
    if not data:
        raise CorruptPicture("the file is empty; a picture was expected", file=path)
    kind = picture_format(data)
    if kind is None:
        raise CorruptPicture("this is no picture: JPEG, PNG, BMP, PPM, TIFF or WebP was expected", file=path)
    size = size_in_header(data)
    if size is None:
        raise CorruptPicture(f"the header of this {kind} is damaged or cut off: it has no size", file=path)
    width, height = size_in_memory(data, size)
    if max(width, height) >= SIDE_LIMIT or width * height > PIXEL_LIMIT:
        limit = f"{PIXEL_LIMIT / 1e6:.0f} million pixels at most are read"
        raise CorruptPicture(f"the header of this {kind} says {width} x {height}; {limit}", file=path)
    return size


def _read_bytes(path: str | Path, count: int = -1) -> bytes:
    try:
        with open_binary(path, "picture", CorruptPicture) as file:
            return file.read(count)
    except OSError as error:
        raise CorruptPicture(f"can't be read: {error.strerror}", file=path) from None
