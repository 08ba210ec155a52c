"""Reading and writing files so that nothing is half written and every failure names its file."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detect_prune.errors import DetectPruneError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    A kill in the middle leaves the old file as it was. The parent folder is made if it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; a result file gets the permissions of an ordinary one.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN is refused, since other readers refuse it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_text(path: str | Path, what: str) -> str:
    """Reads a UTF-8 text file; `what` names its kind in the error ("Darknet cfg", "data-set descriptor").

    Raises:
        DetectPruneError: the file is missing, is a folder, can't be read or is not UTF-8 text.
    """
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DetectPruneError(f"no such file; a {what} was expected here", file=path) from None
    except IsADirectoryError:
        raise DetectPruneError(f"this is a folder; a {what} was expected here", file=path) from None
    except UnicodeDecodeError as error:
        raise DetectPruneError(
            f"not a text file (byte {error.start} is not UTF-8); a {what} was expected", file=path
        ) from None
    except OSError as error:
        raise DetectPruneError(f"can't be read as a {what}: {error.strerror}", file=path) from None


def require_disk_space(folder: str | Path, size: int) -> None:
    """Raises DetectPruneError unless the disk under `folder` (made if missing) has `size` bytes free."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DetectPruneError(
            f"the disk has {free / 1e6:.0f} MB free, and this run needs about {size / 1e6:.0f} MB for its checkpoints and results",
            file=folder,
        )
