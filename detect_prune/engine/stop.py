"""Ctrl-C, a kill and a terminal that closes, answered between two steps instead of in the middle of one."""

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


def stopping_signals() -> list[signal.Signals]:
    """Ctrl-C, a kill, and a terminal that has closed, unless that is to be ignored (`nohup`)."""
    found = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        found.append(hang_up)
    return found


def forget_terminal(number: int) -> None:
    """Where the signal says that the terminal has closed: from now on nothing is written there, which would be an
    error."""
    if number != getattr(signal, "SIGHUP", None):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it may be closed
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Stopped(Exception):
    """The run was asked to stop; `folder`, where it has saved itself, is what --resume takes."""

    def __init__(self, folder: Path, saved: bool = True):
        self.folder = folder
        self.together = saved
        """Whether all processes stop at the same step, so that none is left waiting for another."""
        super().__init__(f"stopped; {'everything so far' if saved else 'the last checkpoint'} is in {folder}")


class StopSignal:
    """While entered, the first of `stopping_signals` inside a stretch under `guard` only sets `requested`.

    The loop looks at `requested` after each step, saves, and leaves. An evaluation between two steps of a phase is
    finished first, which can take minutes. Outside guarded stretches, and at the second signal, KeyboardInterrupt is
    raised at once, and what is left is the last checkpoint. Signals belong to the main thread; in any other, nothing
    is installed.

    Args:
        follows: every stretch is guarded, since another process decides when this one leaves.
    """

    def __init__(self, follows: bool = False) -> None:
        self.requested = False
        self._follows = self._guarded = follows
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in stopping_signals():
                self._before[number] = signal.signal(number, self._handle)
        return self

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """A stretch that looks at `requested` by itself, and is interrupted by a second signal only."""
        self._guarded = True
        try:
            yield
        finally:
            self._guarded = self._follows

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        forget_terminal(number)
        if self.requested or not self._guarded:
            raise KeyboardInterrupt
        self.requested = True
