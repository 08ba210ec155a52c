"""What a file weighs inside an ordinary zip, the fair yardstick for a file full of zeros."""

import zlib
from pathlib import Path

from detect_prune.errors import DetectPruneError
from detect_prune.files import open_binary

_HEADERS = 30 + 46 + 22
"""Bytes of a zip of one file beside the data and twice the name: local header, central directory and end record."""


def zip_size(path: str | Path) -> int:
    """Bytes of a zip file (deflate, level 6) that holds `path` alone; read as a stream, nothing is written.

    Raises:
        DetectPruneError: the file can't be read.
    """
    path = Path(path)
    deflate = zlib.compressobj(6, wbits=-15)
    length = _HEADERS + 2 * len(path.name.encode())
    try:
        with open_binary(path, "file to be measured as a zip") as file:
            while block := file.read(1 << 20):
                length += len(deflate.compress(block))
    except OSError as error:
        raise DetectPruneError(f"can't be read to measure its zip: {error.strerror}", file=path) from None
    return length + len(deflate.flush())
