"""Fetching a file of known content: what arrived is kept for the next try, and only the right file gets its name."""

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from detect_prune.errors import DetectPruneError
from detect_prune.files import make_folder, not_written, open_binary, put_in_place, require_disk_space

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

TIMEOUT = 20.0
"""Seconds without an answer after which a connection counts as broken."""
ATTEMPTS = 4
"""Broken connections in a row, without a byte between them, after which an address is given up."""
PAUSE = 1.0
"""Seconds before the second attempt; doubled for each one after."""
_BLOCK = 1 << 20
# Some servers (pjreddie.com) refuse urllib's own name.
_HEADERS = {"User-Agent": "detect-prune", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class RemoteFile:
    """A file that others publish."""

    name: str
    urls: tuple[str, ...]
    """Where it is, the best place first."""
    size: int | None = None
    """In bytes; None where nobody says."""
    digest: str | None = None
    """`sha256:...`, or sha512, sha1 or md5; None where none was ever published."""

    def problem(self, path: Path) -> str | None:
        """What is wrong with the copy at `path`: its size or its digest. None if it is the file."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"has {size:,} bytes; {self.size:,} were expected"
        if self.digest is not None:
            kind, _, expected = self.digest.partition(":")
            found = digest_of(path, kind)
            if found != expected:
                return f"has {kind} {found}; {expected} was expected"
        return None


class _Unavailable(Exception):
    """This address will not give the file; another one may."""


class _Unreachable(_Unavailable):
    """There is no connection to it at all."""


def digest_of(path: Path, kind: str = "sha256") -> str:
    """A file's digest in hex. md5 and sha1 tell a damaged file from a whole one; they do not keep out a forged one."""
    with open_binary(path, "file") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def fetch(file: RemoteFile, path: Path, watch: Callable[[int], None] | None = None) -> None:
    """Fetches a file to `path`, where it appears only whole, of the right size and digest.

    Meanwhile it is `path` with `.part` behind its name, which a later call goes on with: after a break, a kill, Ctrl-C.

    Args:
        file: which one, and where to look; the places are tried in turn.
        path: there must be nothing there yet.
        watch: is told how many bytes are there, now and then; it may become fewer, where a server starts over.

    Raises:
        DetectPruneError: no place gives the file (no network, perhaps), or the disk has no room for it.
    """
    with alone_in(path.parent):
        if os.path.isfile(path) and file.problem(path) is None:
            return  # another process has fetched it meanwhile
        _fetch(file, path, watch or (lambda size: None))


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process is here for this folder: two would write into one `.part`, or take what the other
    needs. The folder is made, and goes again if it stays empty."""
    was_there = os.path.isdir(folder)
    make_folder(folder)
    try:
        with _locked(folder):
            yield
    finally:
        if not was_there:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if fcntl is None or not os.access(folder, os.R_OK):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network disks lock no folders
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process, which is downloading into {folder}", flush=True)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fetch(file: RemoteFile, path: Path, watch: Callable[[int], None]) -> None:
    part = path.with_name(f"{path.name}.part")
    if os.path.lexists(part) and not part.is_file():
        raise DetectPruneError("this is no file, but what has arrived so far is kept here; move it away", file=part)
    failures: list[tuple[str, _Unavailable]] = []
    for url in file.urls:
        try:
            _fetch_from(url, file, part, watch)
        except _Unavailable as reason:
            failures.append((url, reason))
        else:
            put_in_place(part, path)
            return
    offline = all(isinstance(reason, _Unreachable) for _, reason in failures)
    sentence = f"can't be downloaded ({'; '.join(f'{url}: {reason}' for url, reason in failures)})"
    if offline:
        sentence += ", perhaps because there is no network here"
    if part.exists():
        sentence += f"; {_size(part):,} bytes are kept in {part.name}, and another try goes on from there"
    raise DetectPruneError(sentence, file=path)


def _fetch_from(url: str, file: RemoteFile, part: Path, watch: Callable[[int], None]) -> None:
    """Completes `part` from one address and checks it; what turns out wrong is thrown away."""
    resumed = part.exists()
    _complete(url, file, part, watch)
    problem = file.problem(part)
    if problem is not None and resumed:
        # What was there before may have been of another file; this address has not been tried from the start.
        part.unlink()
        _complete(url, file, part, watch)
        problem = file.problem(part)
    if problem is not None:
        part.unlink()
        raise _Unavailable(problem)


def _complete(url: str, file: RemoteFile, part: Path, watch: Callable[[int], None]) -> None:
    """Appends to `part` until the server says that this is all, through broken connections."""
    broken = 0
    connected = False
    while True:
        before = _size(part)
        if file.size is not None:
            if before == file.size:
                return
            if before > file.size:
                part.unlink()
                before = 0
            require_disk_space(part.parent, file.size - before, "for this download")
        try:
            with _connect(url, before) as answer:
                connected = True
                if _append(answer, before, file, part, watch):
                    return
            reason = "it ends too early"
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                raise _Unavailable(f"HTTP {error.code} {error.reason}") from None
            part.unlink()  # it is longer than the file, or as long and of unknown size
            continue
        except (http.client.InvalidURL, ValueError) as error:  # ValueError: urllib's "unknown url type"
            raise _Unavailable(f"is no address: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = _said(error)
            if not connected:
                raise _Unreachable(reason) from None
        broken = 0 if _size(part) > before else broken + 1
        if broken == ATTEMPTS:
            raise _Unavailable(f"the connection breaks again and again ({reason})")
        time.sleep(PAUSE * 2**broken)


def _connect(url: str, start: int) -> Any:
    wanted = {"Range": f"bytes={start}-"} if start else {}
    return urllib.request.urlopen(urllib.request.Request(url, headers=_HEADERS | wanted), timeout=TIMEOUT)


def _append(answer: Any, have: int, file: RemoteFile, part: Path, watch: Callable[[int], None]) -> bool:
    """Writes what the server sends behind the `have` bytes of `part`; whether that is all of the file.

    A server that does not know ranges answers from the start, and then so does `part`.
    """
    if answer.headers.get_content_type() == "text/html":
        raise _Unavailable("answers with a web page instead of the file")
    given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if given is not None and int(given[1]) == have:
        total = None if given[2] == "*" else int(given[2])
    else:
        have = 0
        length = answer.headers.get("Content-Length")
        # Garbled, it says no more than none.
        total = int(length) if length is not None and re.fullmatch(r"[0-9]{1,18}", length.strip()) else None
    if file.size is not None and total is not None and total != file.size:
        raise _Unavailable(f"offers {total:,} bytes; {file.size:,} were expected")
    total = file.size if total is None else total
    with _open(part, "ab" if have else "wb") as out:
        watch(have)
        while block := answer.read(_BLOCK):
            _write(out, block, part)
            have += len(block)
            watch(have)
            if total is not None and have > total:
                raise _Unavailable(f"sends more than the {total:,} bytes that were expected")
    return total is None or have == total


def _open(part: Path, mode: str) -> BinaryIO:
    make_folder(part.parent)  # whoever had it before may have taken it along
    try:
        return open(part, mode)
    except OSError as error:
        raise not_written(part, error) from None


def _write(out: BinaryIO, block: bytes, part: Path) -> None:
    try:
        out.write(block)
        out.flush()  # a kill then loses no more than a block
    except OSError as error:  # a connection that breaks is an OSError as well, and not meant
        raise not_written(part, error) from None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", error)  # a URLError wraps what happened
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
