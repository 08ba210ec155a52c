"""Brings official files to where the commands look for them."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from detect_prune.errors import DetectPruneError
from detect_prune.files import require_disk_space, write_text
from detect_prune.official.archives import unpack
from detect_prune.official.table import DataSet, Official
from detect_prune.transfer import alone_in, digest_of, fetch

Watch = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Opens the display of one piece of work, by its name and number of bytes (None: files are counted, of a number that
nobody knows); what it yields is told how far the work is."""


def install_file(official: Official, folder: Path, watch: Watch) -> tuple[Path, str]:
    """Fetches a file into `folder`, unless it is there already.

    Returns:
        Its path, and what was found: `was fetched, ... bytes, sha256 ... as published`.

    Raises:
        DetectPruneError: it can't be had, or another file of that name is there.
    """
    file = official.file
    path = folder / file.name
    was_there = os.path.exists(path)  # unlike Path.exists, not upset by a folder that can't be entered
    if was_there:
        problem = file.problem(path) if os.path.isfile(path) else "is no file"
        if problem is not None:
            raise DetectPruneError(
                f"there is another file of this name, which {problem}; move it away, or give another --dir", file=path
            )
    else:
        with watch(file.name, file.size) as told:
            fetch(file, path, told)
    when = "was there already" if was_there else "was fetched"
    return path, f"{when}, {path.stat().st_size:,} bytes, {_checked(official, path)}"


def _checked(official: Official, path: Path) -> str:
    digest = official.file.digest
    if digest is not None:
        kind, _, value = digest.partition(":")
        return f"{kind} {value} as published ({official.digest_source})"
    return f"of the right size; its sha256 is {digest_of(path)}, and there is no published one known to compare it with"


def install_data(data: DataSet, folder: Path, watch: Watch) -> list[str]:
    """Fetches and unpacks the archives of a data set into `folder`; those that were unpacked before are left out.

    They are kept beside it, in `<folder>.downloads`, until all are there, so that there is no half of a data set that
    commands would take for a whole one; each goes once it is unpacked. A small file of its name and `.unpacked` stays.

    Returns:
        A sentence for each archive.

    Raises:
        DetectPruneError: an archive can't be had or unpacked; what was done stays.
    """
    if folder.name in ("", ".."):  # as of "." and "/"
        folder = folder.resolve()
    if not folder.name or (os.path.exists(folder) and not os.path.isdir(folder)):
        kind = "a file" if folder.name else "the whole disk"
        raise DetectPruneError(f"this is {kind}; the name of a folder for the data was expected", file=folder)
    with alone_in(folder.parent):
        return _install_data(data, folder, watch)


def _install_data(data: DataSet, folder: Path, watch: Watch) -> list[str]:
    store = folder.with_name(f"{folder.name}.downloads")
    marker_of = {archive.name: folder / f"{archive.name}.unpacked" for archive in data.archives}
    told = [
        f"{name} was unpacked before (delete {marker} to fetch it again)"
        for name, marker in marker_of.items()
        if os.path.isfile(marker)
    ]
    wanted = [archive for archive in data.archives if not os.path.isfile(marker_of[archive.name])]
    for archive in data.archives:
        if archive not in wanted:  # of which a kill may have left it
            (store / archive.name).unlink(missing_ok=True)
    try:
        to_come = sum(archive.official.file.size or 0 for archive in wanted if not os.path.exists(store / archive.name))
        # The archives and what is in them, which for pictures is about as large.
        require_disk_space(store, 2 * to_come, "for the archives and what is in them")
        checked = {archive.name: install_file(archive.official, store, watch)[1] for archive in wanted}
        for archive in wanted:
            target = folder / archive.folder
            with watch(f"unpacking {archive.name}", None) as progress:
                count = unpack(store / archive.name, target, progress)
            write_text(marker_of[archive.name], f"{archive.official.file.digest}\n")
            (store / archive.name).unlink()
            told.append(f"{count:,} files in {target} from {archive.name}, which {checked[archive.name]}")
    finally:
        with contextlib.suppress(OSError):  # it is not empty: something is kept for the next try
            store.rmdir()
    return told
