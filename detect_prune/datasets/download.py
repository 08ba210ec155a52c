"""Fetching a data set's file where it is missing."""

from pathlib import Path

from detect_prune.errors import DetectPruneError
from detect_prune.transfer import RemoteFile, digest_of, fetch


def md5_of(path: Path) -> str:
    """md5 of a file, in hex. It tells a damaged file from a whole one; it is no defence against a forged one."""
    return digest_of(path, "md5")


def download(urls: tuple[str, ...], path: Path, md5: str) -> None:
    """Downloads the first of `urls` that answers to `path`; it appears there only whole and with the right md5.

    Raises:
        DetectPruneError: no server answered (no network, perhaps), or what came is another file.
    """
    try:
        fetch(RemoteFile(path.name, urls, digest=f"md5:{md5}"), path)
    except DetectPruneError as error:
        raise DetectPruneError(f"{error}; put the file there, or name its folder with --data-root") from None
