"""Reading and writing files so that nothing is half written and every failure names its file."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from detect_prune.errors import DetectPruneError

_DISK = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS")} - {None}
"""What the disk answers; a failed download is an OSError too, and its caller's to name."""

UNFINISHED = ".unfinished-"
"""How the names of files and folders begin that a kill may leave behind, see `remove_unfinished`."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    A kill in the middle leaves the old file as it was. The parent folder is made if it is missing. A symbolic link
    stays one: the file that it points to is written.

    Raises:
        DetectPruneError: no file can be written there (a folder or a device is there, no permission, a full disk).
    """
    path = Path(path)
    target = _target(path)
    try:
        handle, name = tempfile.mkstemp(
            prefix=f"{UNFINISHED}{target.stem[:40]}-", suffix=target.suffix, dir=target.parent
        )
    except OSError as error:
        raise not_written(path, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except OSError as error:
            if error.errno in _DISK:
                raise not_written(path, error) from None
            raise
        try:
            # mkstemp makes private files; a result file gets the permissions of an ordinary one.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            put_in_place(temporary, target)
        except OSError as error:
            raise not_written(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: str | Path) -> None:
    """Removes what a process that was killed while it wrote has left in a folder: whole checkpoints, maybe. To be
    called where nobody else is writing there."""
    for path in list(Path(folder).glob(f"{UNFINISHED}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _target(path: Path) -> Path:
    """The file to rename onto, past symbolic links; its folder is made.

    A rename would take the place of whatever is there, a device or a pipe as well: root would lose a /dev/null.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):  # of the latter making the folder will tell
        mode = stat.S_IFREG
    except OSError as error:
        raise not_written(path, error) from None
    except ValueError:
        raise DetectPruneError("a zero byte can't be part of a name", file=path) from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise DetectPruneError(f"this is {kind}; the name of a file to write was expected", file=path)
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    make_folder(target.parent)
    return target


def put_in_place(temporary: Path, path: Path) -> None:
    """Renames a file that is complete onto `path`, once the disk has it."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def not_written(path: str | Path, error: OSError) -> DetectPruneError:
    """The error for a file that the disk does not take."""
    return DetectPruneError(f"can't be written: {error.strerror or error}", file=path)


def make_folder(folder: str | Path, *, new: bool = False) -> None:
    """Makes a folder and those above it; it may be there already.

    Raises:
        FileExistsError: there is something of that name, and a new one was asked for.
        DetectPruneError: it can't be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        if new and isinstance(error, FileExistsError) and os.path.lexists(folder):  # else it is one above it
            raise
        raise DetectPruneError(f"this folder can't be made: {error.strerror or error}", file=folder) from None


def require_writable(path: str | Path) -> None:
    """Finds out before the work, not after it, whether a result can be written to `path`.

    Raises:
        DetectPruneError: it can't.
    """
    path = Path(path)
    target = _target(path)
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise not_written(path, error) from None


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically. Of a file's name that is not UTF-8, the other bytes become escapes."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN is refused, since other readers refuse it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a line for each row, atomically, under a line of all names in the order in which they first appear; what a
    row lacks is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def open_binary(path: str | Path, what: str, error: type[DetectPruneError] = DetectPruneError) -> BinaryIO:
    """Opens a file for reading; `what` names its kind in the error ("Darknet weights", "COCO annotation file").

    Raises:
        error: the file is missing, is a folder, a pipe or a device, or can't be opened.
    """
    path = Path(path)
    try:
        # Looked at before it is opened: opening a pipe waits, and a device such as /dev/zero never ends.
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return open(path, "rb")
    except FileNotFoundError:
        raise error(f"no such file; a {what} was expected here", file=path) from None
    except OSError as reason:
        raise error(f"can't be read as a {what}: {reason.strerror}", file=path) from None
    except ValueError:
        raise error(f"a zero byte can't be part of a name; a {what} was expected", file=path) from None
    kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
    raise error(f"this is {kind}; a {what} was expected here", file=path)


def is_utf8(text: str, errors: str = "strict") -> bool:
    """False where a text holds what no UTF-8 is: halves of surrogate pairs, which json can write, and which stand for
    the bytes that `read_text` could not read (`errors`, as for `str.encode`, says which of them will do)."""
    try:
        text.encode("utf-8", errors)
    except UnicodeEncodeError:
        return False
    return True


def read_bytes(path: str | Path, what: str) -> bytes:
    """Reads a file whole; `what` names its kind in the error.

    Raises:
        DetectPruneError: the file is missing, is a folder or a device, or can't be read.
    """
    with open_binary(path, what) as file:
        try:
            return file.read()
        except OSError as error:
            raise DetectPruneError(f"can't be read as a {what}: {error.strerror}", file=path) from None


def read_text(path: str | Path, what: str, errors: str = "strict") -> str:
    """Reads a UTF-8 text file; `what` names its kind in the error ("Darknet cfg", "data-set descriptor").

    A byte order mark is dropped, and every kind of line end becomes a newline. `errors` says what happens to bytes that
    are no UTF-8, as for `open`.

    Raises:
        DetectPruneError: the file is missing, is a folder or a device, can't be read or is not UTF-8 text.
    """
    content = io.BytesIO(read_bytes(path, what))
    try:
        return io.TextIOWrapper(content, encoding="utf-8-sig", errors=errors).read()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DetectPruneError(
            f"not a text file (byte {error.start} is not UTF-8); a {what} was expected", file=path, line=line
        ) from None


def read_json(path: str | Path, what: str, **options: Any) -> Any:
    """Reads a JSON file; `what` names its kind in the error, `options` are those of json.loads.

    Raises:
        DetectPruneError: as `read_text`, or it is not JSON.
    """
    text = read_text(path, what)
    try:
        return json.loads(text, **options)
    except (ValueError, RecursionError) as error:
        raise DetectPruneError(f"not valid JSON ({error}); damaged, or no {what.rstrip(',')}", file=path) from None


def first_file(candidates: Iterable[Path]) -> Path | None:
    """The first of them that is a file."""
    # Unlike Path.is_file, os.path's is not upset by a name that is too long, or a folder that can't be entered.
    return next((path for path in candidates if os.path.isfile(path)), None)


def list_folder(folder: str | Path, what: str) -> list[str]:
    """The names in a folder; `what` names what is kept in it ("pictures").

    Raises:
        DetectPruneError: the folder is missing, is a file, or can't be read.
    """
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise DetectPruneError(f"no such folder; {what} were expected in it", file=folder) from None
    except OSError as error:
        raise DetectPruneError(f"this folder of {what} can't be read: {error.strerror}", file=folder) from None


def require_disk_space(folder: str | Path, size: int, purpose: str = "for its checkpoints and results") -> None:
    """Raises DetectPruneError unless the disk under `folder` (made if missing) has `size` bytes free."""
    make_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DetectPruneError(
            f"the disk has {free / 1e6:.0f} MB free, and this run needs about {size / 1e6:.0f} MB {purpose}",
            file=folder,
        )
