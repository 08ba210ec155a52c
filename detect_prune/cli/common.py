"""What every command shares: its usual options, errors as one sentence, and where a run is kept."""

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text, write_json

PLAN = "plan.json"
MAY_CHANGE = {"device", "workers", "save_every", "resume"}
"""Options that a resumed run may be given anew: they change where it runs, not what it computes."""


def run_command(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> int:
    """Parses, runs, and turns what a user can cause into one sentence on standard error and an exit status.

    Returns:
        0; 2 for an error of the input; 130 for a run that was asked to stop and has saved itself.
    """
    args = parser.parse_args(argv)
    keep_freed_memory()
    # Imported here: it takes seconds, and --help should not.
    from detect_prune.engine.run import Stopped

    try:
        main(args)
    except DetectPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"\n{stopped}\ngo on with: {parser.prog} --resume {stopped.folder}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


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


def removal_ratio(text: str) -> float:
    """An argparse type: a decimal above 0 and below 1."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number; a removal ratio such as 0.8 was expected"
        ) from None
    if not value.is_finite() or not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"a removal ratio lies above 0 and below 1, and {text} does not")
    return float(value)


def positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: a positive int or float."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"'{text}' is not {'a whole number' if kind is int else 'a number'}"
            ) from None
        if not value > 0 or value == float("inf"):
            raise argparse.ArgumentTypeError(f"a number above 0 was expected, not {text}")
        return value

    return parse


def not_negative(text: str) -> int:
    """An argparse type: 0 or a positive int."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"a number from 0 on was expected, not {text}")
    return value


def add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", metavar="FILE", help="Darknet cfg: a path, or a name such as yolov4.cfg")
    parser.add_argument(
        "--weights", metavar="FILE", help="its .weights file (default: weights/<cfg name>.weights if the data is real)"
    )


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="NAME", help="descriptor (coco.yaml, voc.yaml, yours), or 'sample' for the built-in set"
    )
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data, instead of the descriptor's path")
    parser.add_argument("--imgsz", type=positive(int), help="input width and height in pixels (default: the cfg's)")
    parser.add_argument("--batch", type=positive(int), help="pictures a step")
    parser.add_argument("--workers", type=not_negative, help="processes that prepare pictures")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")


def add_run_options(parser: argparse.ArgumentParser, project: str) -> None:
    parser.add_argument("--lr", type=positive(float), help="learning rate of every phase, instead of the recipe's")
    parser.add_argument("--seed", type=not_negative, default=None, help="of everything random (default 0)")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), help="auto: the fastest by a timed step (default)"
    )
    parser.add_argument("--name", help="name of the run's folder")
    parser.add_argument("--project", default=None, help=f"where runs are kept (default {project})")
    parser.add_argument("--save-every", type=positive(float), metavar="MINUTES", help="between checkpoints (default 3)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="go on with the run in DIR, or with the newest unfinished one",
    )


def choose_device(name: str | None) -> str:
    """The device that was asked for, or the GPU if there is one.

    Raises:
        DetectPruneError: there is no such device here.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DetectPruneError(f"device '{name}' can't be used here: {str(error).splitlines()[0]}") from None
    return name


def default_workers() -> int:
    """Enough to keep ahead of a training step, few enough to leave the processor to it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // 2))


def fresh_folder(project: str | Path, name: str, sample: bool) -> Path:
    """project/name, or the first of name-2, name-3 ... that does not exist; `-sample` comes last where the data is not real."""
    ending = "-sample" if sample else ""
    name = name.removesuffix("-sample") if sample else name
    number = 1
    while True:
        folder = Path(project) / (f"{name}{ending}" if number == 1 else f"{name}-{number}{ending}")
        if not folder.exists():
            return folder
        number += 1


def save_plan(folder: Path, command: str, args: argparse.Namespace) -> None:
    """Keeps the options of a run, so that --resume needs nothing but its folder."""
    write_json(folder / PLAN, {"command": command, "options": vars(args)})


def resume_plan(command: str, args: argparse.Namespace, project: Path) -> Path:
    """Finds the run to go on with and fills `args` with its options.

    Raises:
        DetectPruneError: there is no such run, or an option differs from the run's own.
    """
    folder = Path(args.resume) if args.resume else _newest_unfinished(command, project)
    plan = json.loads(read_text(folder / PLAN, "plan of a run"))
    if plan.get("command") != command:
        raise DetectPruneError(f"this run was made by '{plan.get('command')}', not by '{command}'", file=folder)
    for name, value in plan["options"].items():
        given = getattr(args, name, None)
        if name in MAY_CHANGE and given is not None:
            continue
        if given is not None and given != value:
            raise DetectPruneError(
                f"the run was started with --{name.replace('_', '-')} {value}, and {given} was given now", file=folder
            )
        setattr(args, name, value)
    return folder


def _newest_unfinished(command: str, project: Path) -> Path:
    plans = sorted(project.glob(f"*/{PLAN}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in plans:
        if (
            not (path.parent / "metrics.json").exists()
            and json.loads(read_text(path, "plan of a run"))["command"] == command
        ):
            return path.parent
    raise DetectPruneError("there is no unfinished run to go on with; name its folder: --resume DIR", file=project)
