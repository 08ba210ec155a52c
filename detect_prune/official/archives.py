"""Unpacking archives without trusting them: every file lands below the folder that was named, and is a plain file."""

import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from detect_prune.errors import DetectPruneError
from detect_prune.files import make_folder, not_written, require_disk_space

Member = tuple[str, int, Callable[[], BinaryIO]]
"""Name in the archive, size in bytes, and what opens it."""


def unpack(archive: Path, folder: Path, watch: Callable[[int], None] | None = None) -> int:
    """Unpacks a zip or a plain tar into `folder`; returns the number of files.

    Files that are there with their right size already are left alone, so that a second try goes on from the first.

    Args:
        watch: is told after each file how many have been done, of all sizes.

    Raises:
        DetectPruneError: no archive of these kinds, damaged, with a member that would land elsewhere or is no plain
            file, or the disk has no room.
    """
    try:
        with _members(archive) as members:
            targets = [(folder / _safe(name, archive), size, open_) for name, size, open_ in members]
            missing = [target for target in targets if not _is_there(target[0], target[1])]
            require_disk_space(folder, sum(size for _, size, _ in missing), f"to unpack {archive.name}")
            for number, (path, _, open_) in enumerate(missing, len(targets) - len(missing) + 1):
                with open_() as source:
                    _write(source, path)
                if watch is not None:
                    watch(number)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DetectPruneError(f"this archive can't be unpacked ({error}); is it damaged?", file=archive) from None
    return len(targets)


@contextmanager
def _members(archive: Path) -> Iterator[list[Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [
                (info.filename, info.file_size, lambda info=info: zipped.open(info))
                for info in zipped.infolist()
                if not info.is_dir()
            ]
        return
    with tarfile.open(archive, "r:") as tar:
        infos = [info for info in tar if not info.isdir()]
        for info in infos:
            if not info.isfile():
                raise DetectPruneError(
                    f"'{info.name}' in this archive is a link or a device; plain files were expected", file=archive
                )
        yield [(info.name, info.size, lambda info=info: tar.extractfile(info)) for info in infos]


def _safe(name: str, archive: Path) -> PurePosixPath:
    """The member's path, if it stays below the folder that it is unpacked to, on Windows too."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name) or not path.name:
        raise DetectPruneError(
            f"'{name}' in this archive would be written outside its folder; nothing was unpacked", file=archive
        )
    return path


def _is_there(path: Path, size: int) -> bool:
    return os.path.isfile(path) and path.stat().st_size == size


def _write(source: BinaryIO, path: Path) -> None:
    """Copies under a passing name first: a file of its own name is whole. Not flushed to disk one by one: too slow."""
    make_folder(path.parent)
    passing = path.with_name(f"{path.name}.part")
    try:
        with open(passing, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        os.replace(passing, path)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        with suppress(OSError):  # what could not be written because of its name
            passing.unlink(missing_ok=True)
