"""`detect-prune COMMAND`: finds the command and hands the rest of the line to it."""

import importlib
import sys
from collections.abc import Sequence

from detect_prune import __version__

COMMANDS = {
    "prune": "prune a network and measure what it cost",
    "sweep": "prune a network at many ratios and draw the curve",
    "train": "train a dense network, or fine-tune a pruned one",
    "val": "score a network on a data set",
    "detect": "find objects in pictures and videos, and draw them",
    "download": "fetch official weights, COCO or VOC",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return importlib.import_module(f"detect_prune.cli.{argv[0]}").main(argv[1:], prog=f"detect-prune {argv[0]}")
    if argv and argv[0] == "--version":
        print(__version__)
        return 0
    lines = [f"  {name:9} {text}" for name, text in COMMANDS.items()]
    text = (
        "usage: detect-prune COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\n'detect-prune COMMAND --help' lists a command's options, 'detect-prune --version' tells the version"
    )
    asked = bool(argv) and argv[0] in ("-h", "--help")
    print(
        text if asked or not argv else f"unknown command '{argv[0]}'\n{text}", file=sys.stdout if asked else sys.stderr
    )
    return 0 if asked else 2
