"""One process at a time in a run's folder: two that resume the same run would write over each other's checkpoints."""

from pathlib import Path
from typing import TextIO

from detect_prune.errors import DetectPruneError
from detect_prune.files import make_folder, not_written

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

LOCK = ".lock"


def lock_folder(folder: str | Path) -> TextIO:
    """Locks a folder (made if it is missing) for this process, until the returned file is closed or the process ends.

    The lock is the operating system's, so a killed process leaves none behind; workers that are forked don't hold it.

    Raises:
        DetectPruneError: another process has it, or the folder can't be written.
    """
    make_folder(folder)
    path = Path(folder) / LOCK
    try:
        file = open(path, "w", encoding="ascii")  # noqa: SIM115 - closing it gives the lock back
    except OSError as error:
        raise not_written(path, error) from None
    if fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            raise DetectPruneError(
                "another process is at work in this run's folder; wait for its end, or stop it first", file=folder
            ) from None
        except OSError:
            pass  # some network disks lock nothing
    return file
