"""The options that commands share, the types of their values, and what is taken where one is not given."""

import argparse
import math
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from detect_prune.cli.choices import MODELS, PRECISIONS
from detect_prune.errors import DetectPruneError

if TYPE_CHECKING:
    from detect_prune.engine.distributed import World

LARGEST_SEED = 2**63 - 1
"""What torch takes."""


class Parser(argparse.ArgumentParser):
    """A command's options. What is wrong with them is said in one sentence, as every other error is; and the beginning
    of an option is none, for another command may have one of just that name."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        sentence = message.removeprefix("argument ")
        self.exit(2, f"error: {sentence}\n'{self.prog} --help' lists the options\n")


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
seed_number = number(int, lambda value: 0 <= value <= LARGEST_SEED, "a seed from 0 to 2**63 - 1")


def folder_name(text: str) -> str:
    """An argparse type: the name of one folder."""
    if not text or text in (".", "..") or re.search(r"[/\\\0]", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not the name of a folder; --project says where it lies")
    return text


def path_name(text: str) -> str:
    """An argparse type: a file or a folder. An empty one is a shell variable that is not set: it would be read as the
    working folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; the name of a file or folder was expected")
    return text


def device_name(text: str) -> str:
    """An argparse type: cpu, cuda, cuda:N, or N for the last. Whether it is here is asked later, by `choose_device`."""
    if re.fullmatch(r"\d{1,3}", text):
        return f"cuda:{text}"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no device; cpu, cuda, cuda:N or N was expected (for several GPUs: torchrun)"
        )
    return text


def add_network_options(parser: argparse.ArgumentParser, default_weights: str) -> None:
    """`default_weights` says what is taken without --weights."""
    parser.add_argument("--cfg", metavar="FILE", help="Darknet cfg: a path, or a name such as yolov4.cfg")
    parser.add_argument(
        "--weights", type=path_name, metavar="FILE", help=f"its .weights file (default: {default_weights})"
    )


def add_pretrained_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained",
        type=path_name,
        metavar="FILE",
        help="instead of --weights, a backbone's file such as yolov4.conv.137: the first layers; the rest starts fresh",
    )


def add_model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, help="a classifier instead of --cfg")


def add_data_options(parser: argparse.ArgumentParser, default_batch: str) -> None:
    """`default_batch` says what is taken without --batch."""
    parser.add_argument(
        "--data",
        type=path_name,
        metavar="NAME",
        help="descriptor (coco.yaml, voc.yaml, yours), or 'sample' for the built-in set",
    )
    parser.add_argument(
        "--data-root", type=path_name, metavar="DIR", help="folder of the data, instead of the descriptor's path"
    )
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
        "--device",
        type=device_name,
        metavar="NAME",
        help="cpu, cuda, or a GPU's number (default: the GPU if there is one)",
    )


def add_training_data_options(parser: argparse.ArgumentParser) -> None:
    """Both of the above for a command that trains, detectors as well as classifiers."""
    add_data_options(parser, "8, or 128 for classifiers")
    add_use_options(parser, "the cfg's; on the built-in set 192, or 128 for large networks")


def add_run_options(parser: argparse.ArgumentParser, project: str) -> None:
    parser.add_argument("--seed", type=seed_number, default=None, metavar="N", help="of everything random (default 0)")
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
    parser.add_argument(
        "--eval-every",
        type=positive(int),
        metavar="EPOCHS",
        help="between scores on the way, from which best.pt is chosen (default: half a phase)",
    )


def add_folder_options(parser: argparse.ArgumentParser, project: str) -> None:
    parser.add_argument("--name", type=folder_name, metavar="NAME", help="name of the run's folder")
    parser.add_argument("--project", type=path_name, metavar="DIR", help=f"where runs are kept (default {project})")
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
        name = world.device()
    elif world.size > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise DetectPruneError(
                f"{world.size} processes can't share {name}; give --device cuda, one for each, or cpu"
            )
        name = world.device() if torch.cuda.is_available() else name
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        instead = "; --device cpu does without it" if name != "cpu" else ""
        raise DetectPruneError(f"device '{name}' can't be used here: {str(error).splitlines()[0]}{instead}") from None
    return name


def default_workers(processes: int = 1) -> int:
    """Enough for each process to keep ahead of a training step, few enough to leave the processor to it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // 2 // processes))


def option_name(action: argparse.Action) -> str:
    """The option as a person types it: --epochs, whatever the value is called inside."""
    return next((name for name in action.option_strings if name.startswith("--")), action.dest)


def option_of(parser: argparse.ArgumentParser, dest: str) -> str:
    """The name of the parser's option whose value is called `dest` inside."""
    return next(option_name(action) for action in parser._actions if action.dest == dest)


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
