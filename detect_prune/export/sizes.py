"""What a file weighs inside an ordinary zip, the fair yardstick for a file full of zeros."""

import io
import zipfile
from pathlib import Path

from detect_prune.errors import DetectPruneError


class _Counter(io.RawIOBase):
    """A file that forgets what is written and remembers how long it would be.

    It can be sought in, because zipfile goes back to fill in an entry's header; where it can't, it writes an
    additional record and the size would be another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.length}[whence]
        return self._position

    def write(self, data: bytes) -> int:
        self._position += len(data)
        self.length = max(self.length, self._position)
        return len(data)


def zip_size(path: str | Path) -> int:
    """Bytes of a zip file (deflate, level 6) that holds `path` alone; read as a stream, nothing is written.

    Raises:
        DetectPruneError: the file can't be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DetectPruneError("no such file; its size as a zip was asked for", file=path)
    counter = _Counter()
    try:
        with zipfile.ZipFile(counter, "w", zipfile.ZIP_DEFLATED, compresslevel=6, strict_timestamps=False) as archive:
            archive.write(path, path.name)
    except OSError as error:
        raise DetectPruneError(f"can't be read to measure its zip: {error.strerror}", file=path) from None
    return counter.length
