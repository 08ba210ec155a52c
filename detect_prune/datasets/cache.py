"""The cache folder, and making a folder in it whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from detect_prune.errors import DetectPruneError


def cache_folder() -> Path:
    """$DETECT_PRUNE_CACHE, or detect_prune in $XDG_CACHE_HOME or ~/.cache.

    Raises:
        DetectPruneError: none of these is set, and the user has no home.
    """
    own = os.environ.get("DETECT_PRUNE_CACHE")
    if own:
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detect_prune"
    except RuntimeError:  # a user without an entry, as in some containers
        raise DetectPruneError(
            "there is no home folder for the cache; set DETECT_PRUNE_CACHE to a folder that can be written"
        ) from None


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """Returns `folder`; where it is missing, `make` fills a temporary folder beside it, which is then renamed.

    So a folder that exists is whole: a kill in the middle leaves only a temporary one behind, and of two processes
    that make the same folder the second finds it made and throws its own away.

    Raises:
        DetectPruneError: the cache can't be written.
    """
    if os.path.isdir(folder):  # unlike Path.is_dir, not upset by a folder that can't be entered
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DetectPruneError(
            f"the cache can't be written ({error.strerror}); set DETECT_PRUNE_CACHE to a folder that can",
            file=folder.parent,
        ) from None
    try:
        make(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise DetectPruneError(f"the cache can't be written: {error.strerror}", file=error.filename or folder) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
