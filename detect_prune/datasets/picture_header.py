"""What the first bytes of a picture say about it: which format it is and how large. Nothing is decoded here.

OpenCV allocates what a header asks for, up to a gigapixel, before it finds out that there is nothing to fill it with;
so the size is looked at first, and only formats are decoded whose headers are understood here.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator

_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
# Start-of-frame markers: C0..CF without the Huffman table (C4), the reserved C8 and the arithmetic conditioning (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Possessive, and no two parts match the same blanks: a long row of them is neither tried in other ways nor remembered.
_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*+\n)++(\d{1,9})(?:\s|#[^\n]*+\n)++(\d{1,9})\s")
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_ORIENTATION, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 256, 257, 274, 322, 323
_TIFF_NUMBERS = {3: "H", 4: "I"}

_MOST_PIXELS_A_BYTE = {
    "JPEG": 8 * 64,  # a Huffman code, so a bit at least, for each block of 8 x 8
    "PNG": 8 * 1032,  # a bit a pixel; deflate makes at most 1,032 bytes of one
    "BMP": 128,  # runs of 255 pixels in two bytes
    "PNM": 8,
}


def picture_format(data: bytes) -> str | None:
    """JPEG, PNG, BMP, PNM, TIFF or WebP, by its first bytes; None for anything else."""
    for start, name in (
        (b"\xff\xd8\xff", "JPEG"),
        (_PNG_SIGNATURE, "PNG"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
    ):
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return "PNM" if re.match(rb"P[1-6][\s#]", data) else None


def size_in_header(data: bytes) -> tuple[int, int] | None:
    """(width, height) as stored; None where the header does not say, or `data` ends before it does."""
    find = {"JPEG": _jpeg, "PNG": _png, "BMP": _bmp, "PNM": _pnm, "TIFF": _tiff, "WebP": _webp}
    kind = picture_format(data)
    try:
        size = find[kind](data) if kind else None
    except struct.error:  # a field lies behind the end
        return None
    return size if size and size[0] > 0 and size[1] > 0 else None


def size_in_memory(data: bytes, size: tuple[int, int]) -> tuple[int, int]:
    """`size`, the header's, or that of a TIFF's tile, which may be larger than the picture and is allocated whole."""
    if picture_format(data) != "TIFF":
        return size
    values = _tiff_values(data)
    return max(size[0], values.get(_TIFF_TILE_WIDTH, 0)), max(size[1], values.get(_TIFF_TILE_HEIGHT, 0))


def is_cut_off(data: bytes) -> bool:
    """Whether there are fewer bytes than the size takes, or the end of a JPEG or PNG is missing.

    The decoder would ask for the memory of the whole picture first, and some versions of OpenCV fill what is missing
    with grey and say nothing.
    """
    kind = picture_format(data)
    width, height = size_in_header(data) or (0, 0)
    if width * height > _MOST_PIXELS_A_BYTE.get(kind, math.inf) * len(data):
        return True
    if kind == "JPEG":
        # Inside a scan every FF byte is escaped, so an end marker found there is the real one, not a thumbnail's.
        scan = next((payload for marker, payload in _jpeg_segments(data) if marker == _JPEG_SCAN), None)
        return scan is None or data.find(bytes([0xFF, _JPEG_END]), scan) < 0
    return kind == "PNG" and all(name != b"IEND" for name, _ in _png_chunks(data))


def has_wrong_checksum(data: bytes) -> bool:
    """Whether a chunk of a PNG that matters for its pixels is not what was written."""
    if picture_format(data) != "PNG":
        return False
    # The names of chunks that matter begin with a capital.
    return not all(whole for name, whole in _png_chunks(data) if name[:1].isupper())


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
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


def _jpeg(data: bytes) -> tuple[int, int] | None:
    for marker, payload in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, payload + 1)
            return width, height
    return None


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yields each chunk's name and whether its checksum holds, up to IEND or where the data ends."""
    position = len(_PNG_SIGNATURE)
    name = b""
    while position + 12 <= len(data) and name != b"IEND":
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            return
        name = data[position + 4 : position + 8]
        yield name, zlib.crc32(memoryview(data)[position + 4 : end]) == struct.unpack_from(">I", data, end)[0]
        position = end + 4


def _png(data: bytes) -> tuple[int, int] | None:
    return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None


def _bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)  # 12 bytes: OS/2's
    return width, abs(height)  # below 0: stored from the top


def _pnm(data: bytes) -> tuple[int, int] | None:
    match = _PNM.match(data)
    return (int(match[1]), int(match[2])) if match else None


def _tiff_fields(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Yields the tag, the offset of the value, and the value's struct format for each single number of the header."""
    order = "<" if data[:1] == b"I" else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if kind in _TIFF_NUMBERS:
            yield tag, entry + 8, order + _TIFF_NUMBERS[kind]


def _tiff_values(data: bytes) -> dict[int, int]:
    return {tag: struct.unpack_from(form, data, offset)[0] for tag, offset, form in _tiff_fields(data)}


def _tiff(data: bytes) -> tuple[int, int] | None:
    values = _tiff_values(data)
    return values.get(_TIFF_WIDTH, 0), values.get(_TIFF_HEIGHT, 0)


def is_turned(data: bytes) -> bool:
    """Whether viewers show the picture turned or mirrored, because its EXIF (of a JPEG) or TIFF mark says so."""
    kind = picture_format(data)
    if kind == "JPEG":
        exif = b"Exif\0\0"
        data = next(
            (data[start + len(exif) :] for _, start in _jpeg_segments(data) if data.startswith(exif, start)), b""
        )
    elif kind != "TIFF":
        return False
    try:
        return 2 <= _tiff_values(data).get(_TIFF_ORIENTATION, 1) <= 8
    except struct.error:  # cut off, or none
        return False


def without_turn(data: bytes) -> bytes:
    """The same picture without TIFF's mark of orientation, which OpenCV follows even when it is told not to."""
    if picture_format(data) != "TIFF":
        return data
    plain = bytearray(data)
    for tag, offset, form in _tiff_fields(data):
        if tag == _TIFF_ORIENTATION:
            struct.pack_into(form, plain, offset, 1)
    return bytes(plain)


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = data[24:27], data[27:30]
        return (int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1) if len(height) == 3 else None
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
