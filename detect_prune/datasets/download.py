"""Fetching a file of known content."""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from detect_prune.errors import DetectPruneError
from detect_prune.files import atomic_path

_TIMEOUT = 20
_BLOCK = 1 << 20


def md5_of(path: Path) -> str:
    """md5 of a file, in hex. It tells a damaged file from a whole one; it is no defence against a forged one."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(urls: tuple[str, ...], path: Path, md5: str) -> None:
    """Downloads the first of `urls` that answers to `path`; it appears there only whole and with the right md5.

    Raises:
        DetectPruneError: no server answered (no network, perhaps), or what came is another file.
    """
    reasons = []
    for url in urls:
        try:
            with atomic_path(path) as temporary:
                _fetch(url, temporary)
                found = md5_of(temporary)
                if found != md5:
                    raise DetectPruneError(f"the download from {url} has md5 {found}; {md5} was expected", file=path)
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', error)}")
    raise DetectPruneError(
        f"not there, and it can't be downloaded ({'; '.join(reasons)}); "
        "put the file here, or name its folder with --data-root",
        file=path,
    )


def _fetch(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, open(path, "wb") as file:
        while block := answer.read(_BLOCK):
            file.write(block)
