"""What every command shares: its usual options, errors as one sentence, and where a run is kept."""

import argparse
import ctypes
import json
import math
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text, write_json

if TYPE_CHECKING:
    from detect_prune.engine.distributed import World

PLAN = "plan.json"
MAY_CHANGE = {"device", "workers", "jobs", "save_every", "resume"}
"""Options that a resumed run may be given anew: they change where it runs, not what it computes, but for rounding."""
MODELS = ("lenet5", "resnet20", "resnet32", "resnet44", "resnet56")
"""The keys of classification.ARCHITECTURES, which takes seconds to import; a test compares the two."""
PRECISIONS = ("fp32", "fp32-channels-last", "bf16")
"""Those of engine.precision, likewise."""
LARGEST_SEED = 2**63 - 1
"""What torch takes."""


class Parser(argparse.ArgumentParser):
    """A command's options. What is wrong with them is said in one sentence, as every other error is."""

    def error(self, message: str) -> NoReturn:
        sentence = message.removeprefix("argument ")
        self.exit(2, f"error: {sentence}\n'{self.prog} --help' lists the options\n")


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

    What a user can cause becomes one sentence on standard error, however many processes there are.

    Returns:
        0; 2 for an error of the input; 130 for a run that was asked to stop and has saved itself; 141 where the reader
        of the output has gone.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    keep_freed_memory()
    warnings.showwarning = _show_warning
    complain = partial(print, file=sys.stderr, flush=True)
    try:
        # Imported here: it takes seconds, and --help should not.
        from detect_prune.engine.distributed import World
        from detect_prune.engine.run import Stopped

        flush_denormals()
        world = World.from_environment()
        complain = world.complain
        try:
            with world:
                main(args, argv, world)
                sys.stdout.flush()
        except Stopped as stopped:
            complain(f"\n{stopped}\ngo on with: {parser.prog} --resume {stopped.folder}")
            return 130
    except DetectPruneError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("\nstopped")
        return 130
    except BrokenPipeError:
        # Whoever read the output (`| head`) wants no more of it. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as the shell counts a process that SIGPIPE ended
    return 0


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


def number(kind: type, holds: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """An argparse type: an int or a float that `holds`; `expected` says which ones do. NaN holds in no comparison."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"'{text}' is not {what}; {expected} was expected") from None
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{expected} was expected, not {text}")
        return value

    return parse


def checked(parse: Callable[[str], Any]) -> Callable[[str], str]:
    """An argparse type that refuses what `parse` refuses, and keeps the words as they were typed."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


def positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: a positive int or float."""
    return number(kind, lambda value: 0 < value < math.inf, "a number above 0")


def not_negative(kind: type) -> Callable[[str], Any]:
    """An argparse type: an int or float from 0 on."""
    return number(kind, lambda value: 0 <= value < math.inf, "a number from 0 on")


share = number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
removal_ratio = number(float, lambda value: 0 < value < 1, "a number above 0 and below 1, such as 0.8,")
seed = number(int, lambda value: 0 <= value <= LARGEST_SEED, "a seed from 0 to 2**63 - 1")


def folder_name(text: str) -> str:
    """An argparse type: the name of one folder."""
    if not text or text in (".", "..") or re.search(r"[/\\\0]", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not the name of a folder; --project says where it lies")
    return text


def device_name(text: str) -> str:
    """An argparse type: cpu, cuda or cuda:N. Whether it is here is asked later, by `choose_device`."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no device; cpu, cuda or cuda:N was expected")
    return text


def add_network_options(parser: argparse.ArgumentParser, default_weights: str) -> None:
    """`default_weights` says what is taken without --weights."""
    parser.add_argument("--cfg", metavar="FILE", help="Darknet cfg: a path, or a name such as yolov4.cfg")
    parser.add_argument("--weights", metavar="FILE", help=f"its .weights file (default: {default_weights})")


def add_pretrained_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained",
        metavar="FILE",
        help="instead of --weights, a backbone's file such as yolov4.conv.137: the first layers; the rest starts fresh",
    )


def add_model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, help="a classifier instead of --cfg")


def add_data_options(parser: argparse.ArgumentParser, default_batch: str) -> None:
    """`default_batch` says what is taken without --batch."""
    parser.add_argument(
        "--data", metavar="NAME", help="descriptor (coco.yaml, voc.yaml, yours), or 'sample' for the built-in set"
    )
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data, instead of the descriptor's path")
    parser.add_argument(
        "--batch",
        type=positive(int),
        metavar="N",
        help=f"pictures a step (default {default_batch})",
    )
    parser.add_argument(
        "--workers",
        type=not_negative(int),
        metavar="N",
        help="what prepares pictures beside the network (detectors only)",
    )


def add_use_options(parser: argparse.ArgumentParser, default_imgsz: str = "the cfg's") -> None:
    """`default_imgsz` says what is taken without --imgsz."""
    parser.add_argument(
        "--imgsz",
        type=positive(int),
        metavar="PIXELS",
        help=f"a detector's input width and height (default: {default_imgsz})",
    )
    parser.add_argument(
        "--device", type=device_name, metavar="NAME", help="cpu, cuda or cuda:N (default: the GPU if there is one)"
    )


def add_training_data_options(parser: argparse.ArgumentParser) -> None:
    """Both of the above for a command that trains, detectors as well as classifiers."""
    add_data_options(parser, "8, or 128 for classifiers")
    add_use_options(parser, "the cfg's; on the built-in set 192, or 128 for large networks")


def add_run_options(parser: argparse.ArgumentParser, project: str) -> None:
    parser.add_argument("--seed", type=seed, default=None, metavar="N", help="of everything random (default 0)")
    add_training_options(parser)
    add_folder_options(parser, project)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hold-out",
        type=positive(int),
        metavar="N",
        help="score on N training pictures that are not trained on, instead of the test pictures: to choose settings "
        "by (classifiers only)",
    )
    parser.add_argument(
        "--lr", type=positive(float), metavar="RATE", help="learning rate of every phase, instead of the recipe's"
    )
    parser.add_argument(
        "--precision", choices=("auto", *PRECISIONS), help="auto: the fastest by a timed step (default)"
    )
    parser.add_argument("--save-every", type=positive(float), metavar="MINUTES", help="between checkpoints (default 3)")


def add_folder_options(parser: argparse.ArgumentParser, project: str) -> None:
    parser.add_argument("--name", type=folder_name, metavar="NAME", help="name of the run's folder")
    parser.add_argument("--project", default=None, metavar="DIR", help=f"where runs are kept (default {project})")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="go on with the run in DIR, or with the newest unfinished one",
    )


def choose_device(name: str | None, world: "World | None" = None) -> str:
    """The device that was asked for, or the GPU if there is one; of several processes each has its own.

    Raises:
        DetectPruneError: there is no such device here, or not one for each process.
    """
    import torch

    from detect_prune.engine.distributed import ALONE

    world = world or ALONE
    if name is None:
        return world.device()
    if world.size > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise DetectPruneError(
                f"{world.size} processes can't share {name}; give --device cuda, one for each, or cpu"
            )
        name = world.device() if torch.cuda.is_available() else name
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DetectPruneError(f"device '{name}' can't be used here: {str(error).splitlines()[0]}") from None
    return name


def default_workers(processes: int = 1) -> int:
    """Enough for each process to keep ahead of a training step, few enough to leave the processor to it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // 2 // processes))


def fresh_folder(project: str | Path, name: str, sample: bool) -> Path:
    """project/name, or the first of name-2, name-3 ... that is free; `-sample` comes last if the data is not real."""
    ending = "-sample" if sample else ""
    name = name.removesuffix("-sample") if sample else name
    number = 1
    while True:
        folder = Path(project) / (f"{name}{ending}" if number == 1 else f"{name}-{number}{ending}")
        if not os.path.lexists(folder):  # unlike Path.exists, not upset by a name that is too long
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


def save_plan(folder: Path, command: str, args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Keeps the options of a run, so that --resume needs nothing but its folder."""
    write_json(folder / PLAN, {"command": command, "argv": list(argv), "options": vars(args)})


def read_plan(folder: Path) -> Plan:
    """The plan in a run's folder. Raises DetectPruneError where there is none that could be one."""
    file = folder / PLAN
    text = read_text(file, "plan of a run, as the folder of every run has one,")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DetectPruneError(f"not valid JSON ({error}); this plan of a run is damaged", file=file) from None
    kinds = {"command": str, "argv": list, "options": dict}
    for key, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kind):
            raise DetectPruneError(f"this plan of a run is damaged: {key} is missing or wrong", file=file)
    if not all(isinstance(word, str) for word in found["argv"]):
        raise DetectPruneError("this plan of a run is damaged: argv is not a list of texts", file=file)
    return Plan(**{key: found[key] for key in kinds})


def option_name(action: argparse.Action) -> str:
    """The option as a person types it: --epochs, whatever the value is called inside."""
    return next((name for name in action.option_strings if name.startswith("--")), action.dest)


def option_of(parser: argparse.ArgumentParser, dest: str) -> str:
    """The name of the parser's option whose value is called `dest` inside."""
    return next(option_name(action) for action in parser._actions if action.dest == dest)


def resume_plan(
    command: str,
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    project: Path,
    finished: str = "metrics.json",
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


def _shown(name: str, value: Any) -> str:
    return shlex.join(option_words(name, value))


def option_words(name: str, value: Any) -> list[str]:
    """The words that give an option this value."""
    if isinstance(value, bool):
        return [name if value else name.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [word for one in value for word in (name, str(one))]
    return [name, str(value)]


def command_words(parser: argparse.ArgumentParser, options: dict[str, Any]) -> list[str]:
    """The words that give a parser's options these values, by `dest`; None stands for one that is not given."""
    return [
        word
        for action in parser._actions
        if options.get(action.dest) is not None
        for word in option_words(option_name(action), options[action.dest])
    ]


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
    plans = sorted(project.glob(f"*/{PLAN}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in (path.parent for path in plans):
        if (folder / finished).exists():
            continue
        try:
            if read_plan(folder).command == command:
                return folder
        except DetectPruneError:  # another run's damage; asked for by its name, it would be told
            continue
    raise DetectPruneError("there is no unfinished run to go on with; name its folder: --resume DIR", file=project)
