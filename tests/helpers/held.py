"""A run's folder that another process is at work in."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_HOLDER = """
import sys
from detect_prune.engine.lock import lock_folder
held = lock_folder(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held_elsewhere(folder: Path) -> Iterator[None]:
    """Meanwhile another process has the folder's lock; at the end it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"locked\n"
        yield
        holder.kill()
