"""Fetching a data set's file where it is missing."""

from pathlib import Path

from detect_prune.errors import DetectPruneError
from detect_prune.transfer import RemoteFile, fetch


def download(urls: tuple[str, ...], path: Path, md5: str) -> None:
    """Downloads the first of `urls` that answers to `path`; it appears there only whole and with the right md5.

    Raises:
        DetectPruneError: no server answered (no network, perhaps), or what came is another file.
    """
    try:
        fetch(RemoteFile(path.name, urls, digest=f"md5:{md5}"), path)
    except DetectPruneError as error:
        raise DetectPruneError(f"{error}; put the file there, or name its folder with --data-root") from None
