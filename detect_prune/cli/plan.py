"""Where a run is kept, what it was asked to do, and how it is gone on with."""

import argparse
import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detect_prune.cli.options import option_name, option_words
from detect_prune.engine.names import METRICS
from detect_prune.errors import DetectPruneError
from detect_prune.files import list_folder, make_folder, read_json, write_json

PLAN = "plan.json"
MAY_CHANGE = {"device", "workers", "jobs", "save_every", "eval_every", "resume"}
"""Options that a resumed run may be given anew: they change where it runs and how often it looks at itself, and not the
weights that it comes to, but for rounding."""


def fresh_folder(project: str | Path, name: str, sample: bool) -> Path:
    """Makes project/name, or the first of name-2, name-3 ... that is free; `-sample` comes last if the data is not
    real. Of two runs that ask in the same moment each gets its own.

    Raises:
        DetectPruneError: it can't be made.
    """
    ending = "-sample" if sample else ""
    name = name.removesuffix("-sample") if sample else name
    number = 1
    while True:
        folder = Path(project) / (f"{name}{ending}" if number == 1 else f"{name}-{number}{ending}")
        with contextlib.suppress(FileExistsError):
            make_folder(folder, new=True)
            return folder
        number += 1


@dataclass
class Plan:
    """What a run was asked to do, as it stands in its folder."""

    command: str
    """prune, train or sweep."""
    argv: list[str]
    """The command line's options as they were typed."""
    options: dict[str, Any]
    """Every option with the value that it came to, what was looked up included."""
    place: str | None = None
    """The working folder, which names of files in the options are relative to; None in plans that did not say."""


def save_plan(folder: Path, command: str, args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Keeps the options of a run, so that --resume needs nothing but its folder."""
    plan = {"command": command, "argv": list(argv), "options": vars(args), "place": os.getcwd()}
    write_json(folder / PLAN, plan)


def read_plan(folder: Path) -> Plan:
    """The plan in a run's folder. Raises DetectPruneError where there is none that could be one."""
    file = folder / PLAN
    found = read_json(file, "plan of a run, as the folder of every run has one,")
    kinds = {"command": str, "argv": list, "options": dict}
    for key, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kind):
            raise DetectPruneError(f"this plan of a run is damaged: {key} is missing or wrong", file=file)
    if not all(isinstance(word, str) for word in found["argv"]):
        raise DetectPruneError("this plan of a run is damaged: argv is not a list of texts", file=file)
    place = found.get("place")
    if place is not None and not isinstance(place, str):
        raise DetectPruneError("this plan of a run is damaged: place is wrong", file=file)
    return Plan(**{key: found[key] for key in kinds}, place=place)


def resume_plan(
    command: str,
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    project: Path,
    finished: str = METRICS,
) -> tuple[Path, list[str]]:
    """Finds the run to go on with and fills `args` with its options; a run that has the file `finished` is finished.

    Returns:
        The run's folder, and the options that it was started with as they were typed.

    Raises:
        DetectPruneError: there is no such run, its plan is damaged, or an option differs from the run's own.
    """
    folder = Path(args.resume) if args.resume else _newest_unfinished(command, project, finished)
    plan = read_plan(folder)
    if plan.command != command:
        raise DetectPruneError(f"this run was made by '{plan.command}', not by '{command}'", file=folder)
    for action in parser._actions:
        if not hasattr(args, action.dest):  # --help
            continue
        # A plan from before there was such an option was made without it.
        name, value, given = option_name(action), plan.options.get(action.dest), getattr(args, action.dest)
        if not _could_be(action, value):
            raise DetectPruneError(f"this plan of a run is damaged: {name} can't be {value!r}", file=folder / PLAN)
        if action.dest in MAY_CHANGE and given is not None:
            continue
        if given is not None and given != value:
            before = f"without {name}" if value is None else f"with {_shown(name, value)}"
            raise DetectPruneError(
                f"the run was started {before}, and {_shown(name, given)} was given now; "
                "resume it without this option, or start a new run",
                file=folder,
            )
        setattr(args, action.dest, value)
    return folder, plan.argv


def is_finished(folder: Path, finished: str = METRICS) -> bool:
    """Whether the folder has the file that a run writes at its end. (An empty one is what a full disk or a power cut
    may leave.)"""
    file = folder / finished
    return os.path.isfile(file) and file.stat().st_size > 0


@contextlib.contextmanager
def started_elsewhere(folder: Path) -> Iterator[None]:
    """Adds where the run of this folder was started to the error of a file that is missing here: its name may be
    relative to there."""
    try:
        yield
    except DetectPruneError as error:
        place = read_plan(folder).place
        elsewhere = place is not None and os.path.realpath(place) != os.path.realpath(".")
        if elsewhere and error.file is not None and not os.path.isabs(error.file) and not os.path.exists(error.file):
            raise DetectPruneError(f"{error} (the run was started in {place}; --resume it from there)") from None
        raise


def _shown(name: str, value: Any) -> str:
    return shlex.join(option_words(name, value))


def _could_be(action: argparse.Action, value: Any) -> bool:
    """Whether the parser could have given an option this value."""
    if value is None or action.nargs == 0:  # a flag
        return value is None or isinstance(value, bool)
    if isinstance(action, argparse._AppendAction):
        return isinstance(value, list) and all(_reads_as(action, one) for one in value)
    return _reads_as(action, value) and (action.choices is None or value in action.choices)


def _reads_as(action: argparse.Action, value: Any) -> bool:
    """Whether the option's type makes the same value of its text."""
    try:
        return (action.type or str)(str(value)) == value
    except argparse.ArgumentTypeError:
        return False


def _newest_unfinished(command: str, project: Path, finished: str) -> Path:
    names = list_folder(project, "runs") if os.path.isdir(project) else []
    plans = [project / name / PLAN for name in names if os.path.isfile(project / name / PLAN)]
    plans.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in (path.parent for path in plans):
        if is_finished(folder, finished):
            continue
        try:
            if read_plan(folder).command == command:
                return folder
        except DetectPruneError:  # another run's damage; asked for by its name, it would be told
            continue
    raise DetectPruneError("there is no unfinished run to go on with; name its folder: --resume DIR", file=project)
