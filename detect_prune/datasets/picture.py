"""Reading pictures: what is stored, as it is stored, or a clear refusal."""

import struct
from pathlib import Path

import cv2
import numpy as np

from detect_prune.errors import DetectPruneError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")

_JPEG_START, _JPEG_SCAN, _JPEG_END = 0xD8, 0xDA, 0xD9
# Start-of-frame markers: C0..CF without the Huffman table (C4), the reserved C8 and the arithmetic conditioning (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class CorruptPicture(DetectPruneError):
    """A picture that can't be read whole. Loaders of batches skip it, count it and report it."""


def read_picture(path: str | Path) -> np.ndarray:
    """Reads a picture as (H, W, 3) uint8 RGB. Grey, CMYK, palette, 16-bit and transparent pictures are converted.

    The EXIF turn is ignored: boxes follow the stored size.

    Raises:
        CorruptPicture: the file is missing, empty, cut off, or no picture that OpenCV knows.
    """
    return decode_picture(_read_bytes(path), path)


def decode_picture(data: bytes, path: str | Path) -> np.ndarray:
    """Decodes an encoded picture to (H, W, 3) uint8 RGB; `path` names it in errors. Raises CorruptPicture."""
    if not data:
        raise CorruptPicture("the file is empty; a picture was expected", file=path)
    if _is_cut_off(data):
        # OpenCV would fill the missing part with grey and say nothing that a program can hear.
        raise CorruptPicture("the picture is cut off: its end is missing", file=path)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise CorruptPicture(f"OpenCV can't decode this picture ({error.err})", file=path) from None
    if picture is None:
        raise CorruptPicture("this is no picture that OpenCV can read", file=path)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def picture_size(path: str | Path) -> tuple[int, int]:
    """(width, height) as stored: from the header of JPEG, PNG and BMP, else by decoding. Raises CorruptPicture."""
    try:
        with open(path, "rb") as file:
            size = _size_in_header(file.read(32768))
    except OSError as error:
        raise CorruptPicture(f"can't be read: {error.strerror}", file=path) from None
    if size is None:  # another format, or a JPEG with more metadata than we read
        height, width = read_picture(path).shape[:2]
        return width, height
    return size


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CorruptPicture(f"can't be read: {error.strerror}", file=path) from None


def _jpeg_segments(data: bytes):
    """Yields (marker, offset of the segment's payload) up to and including the start of the first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        yield marker, position + 4
        if marker == _JPEG_SCAN:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _is_jpeg(data: bytes) -> bool:
    return data[:3] == bytes([0xFF, _JPEG_START, 0xFF])


def _is_cut_off(data: bytes) -> bool:
    if _is_jpeg(data):
        # Inside a scan every FF byte is escaped, so an end marker found there is the real one, not a thumbnail's.
        scan = next((payload for marker, payload in _jpeg_segments(data) if marker == _JPEG_SCAN), None)
        return scan is None or data.find(bytes([0xFF, _JPEG_END]), scan) < 0
    return data.startswith(_PNG_SIGNATURE) and b"IEND" not in data[-64:] and b"IEND" not in data


def _size_in_header(data: bytes) -> tuple[int, int] | None:
    if _is_jpeg(data):
        for marker, payload in _jpeg_segments(data):
            if marker in _JPEG_FRAMES and payload + 5 <= len(data):
                height, width = struct.unpack(">HH", data[payload + 1 : payload + 5])
                return (width, height) if width and height else None
    elif data.startswith(_PNG_SIGNATURE) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return (width, height) if 0 < width < 2**20 and 0 < height < 2**20 else None
    elif data[:2] == b"BM" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return (width, abs(height)) if 0 < width < 2**20 and 0 < abs(height) < 2**20 else None
    return None
