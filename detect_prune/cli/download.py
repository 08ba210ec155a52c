"""`detect-prune download`: official weights and data sets, to where the other commands look for them."""

import argparse
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from detect_prune.cli.command import run_command
from detect_prune.cli.options import Parser, path_name
from detect_prune.official import DATA, WEIGHTS, DataSet, find_weights_file, install_data, install_file
from detect_prune.resources import find_resource


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog or "detect-prune download",
        description="Fetches official files and checks them. What is broken off goes on where it was; what is there "
        "already is only checked.",
        epilog=f"Weights, by cfg name or file name: {', '.join(WEIGHTS)}. Data: "
        + ", ".join(f"{name} ({_gigabytes(name):.1f} GB)" for name in DATA)
        + "; unpacking takes as much again.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="such as yolov4, yolov4.conv.137, coco or voc")
    parser.add_argument(
        "--dir",
        type=path_name,
        metavar="DIR",
        help="where it goes (default: ./weights for weights, ./datasets/coco or voc for data)",
    )
    return parser


def _gigabytes(name: str) -> float:
    return sum(archive.official.file.size or 0 for archive in DATA[name].archives) / 1e9


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(_download, build_parser(prog), argv)


def _download(args: argparse.Namespace, argv: list[str]) -> None:
    wanted = [DATA[name] if name in DATA else find_weights_file(name) for name in args.names]
    for official, name in zip(wanted, args.names):
        if name in DATA:
            folder = Path(args.dir or Path("datasets") / official.folder)
            for sentence in install_data(official, folder, _shown):
                print(sentence)
            print(f"{name} is in {folder}: --data {official.descriptor}{_data_root(official, folder)}")
        else:
            path, sentence = install_file(official, Path(args.dir or "weights"), _shown)
            print(f"{path} {sentence}")


def _data_root(data: DataSet, folder: Path) -> str:
    """The option that the descriptor needs to find the data; none where that is its own place."""
    own = find_resource("data", data.descriptor).resolve().parent.parent / "datasets" / data.folder
    return "" if folder.resolve() == own else f" --data-root {shlex.quote(str(folder))}"


@contextmanager
def _shown(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows how far a piece of work is: bytes of so many, or files."""
    from detect_prune.report.progress import Progress

    with ExitStack() as stack:
        progress: Progress | None = None

        def told(done: int) -> None:
            nonlocal progress
            if progress is None:  # what was there before the first word counts for nothing in the speed
                initial = 0 if total is None else done
                progress = stack.enter_context(Progress(total, name, initial=initial, of_bytes=total is not None))
            progress.advance(done - progress.done)

        yield told
