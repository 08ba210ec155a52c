"""How a command is run: errors as one sentence, the exit status, and what the process is told first."""

import argparse
import ctypes
import io
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from detect_prune.engine.stop import Stopped
from detect_prune.errors import DetectPruneError

if TYPE_CHECKING:
    from detect_prune.engine.distributed import World

INTERRUPTED = 130
"""Exit status, as the shell has it, of a run that was asked to stop and has saved itself."""


def run_command(
    main: Callable[[argparse.Namespace, list[str]], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> int:
    """As `run_together`, for a command that works in one process: under torchrun it says so and ends."""

    def alone(args: argparse.Namespace, words: list[str], world: "World") -> None:
        if world.size > 1:
            raise DetectPruneError(f"{parser.prog} works in one process, and torchrun has started {world.size} of it")
        main(args, words)

    return run_together(alone, parser, argv)


def run_together(
    main: Callable[[argparse.Namespace, list[str], "World"], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
) -> int:
    """Parses, runs `main` with the options, the words that gave them and the world of processes that run it, and
    returns an exit status.

    What a user can cause becomes one sentence on standard error, however many processes there are. (Of an option that
    can't be read each tells by itself.)

    Returns:
        0; 2 for an error of the input; 130 for a run that was asked to stop and has saved itself; 141 where the reader
        of the output has gone.
    """
    # Read when OpenCV is imported, which is later. What a person needs of a damaged picture is in our own sentence.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started it (>&-)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (to the end of the process)
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    keep_freed_memory()
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be other than the terminal can show
    complain = partial(print, file=sys.stderr, flush=True)
    try:
        # Imported here: it takes seconds, and --help should not.
        from detect_prune.engine.distributed import World

        flush_denormals()
        world = World.from_environment()
        complain = world.complain
        try:
            with world:
                main(args, argv, world)
                sys.stdout.flush()
        except Stopped as stopped:
            sentence = f"\n{stopped}\ngo on with: {parser.prog} --resume {shlex.quote(str(stopped.folder))}"
            world.complain(sentence, together=stopped.together)
            return INTERRUPTED
    except DetectPruneError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("\nstopped")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output (`| head`) wants no more of it.
        _silence_stdout()
        return 141  # as the shell counts a process that SIGPIPE ended
    except OSError as error:
        if _takes_output():
            raise
        _silence_stdout()
        complain(f"error: the output can't be written: {error.strerror}")
        return 2
    return 0


def _takes_output() -> bool:
    """Whether standard output can be written, here a line's end: on a full disk it can't."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _silence_stdout() -> None:
    """Python would complain once more, at its exit, of what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: object) -> None:
    """What Python calls for a warning: ours are sentences for people, who need no line of our source."""
    if category.__module__.startswith("detect_prune."):
        print(f"warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of returning it: training on a CPU allocates the same sizes every step.

    Measured by the project at 10-20 % of a training step. Where there is no glibc, nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def flush_denormals() -> None:
    """Tells the processor to take numbers below 1e-38 for zero, where it can.

    What is pruned away shrinks step by step, and so does Adam's state of it; numbers that small make a matrix product
    up to hundreds of times slower. Threads inherit the setting, so it has to be made before torch starts its own.
    """
    import torch

    torch.set_flush_denormal(True)
