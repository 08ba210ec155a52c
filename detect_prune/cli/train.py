"""`train.py` and `detect-prune train`: trains a dense network, or fine-tunes a pruned one without losing its zeros."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detect_prune.cli.command import run_together
from detect_prune.cli.options import (
    Parser,
    add_model_option,
    add_network_options,
    add_pretrained_option,
    add_run_options,
    add_training_data_options,
    positive,
)
from detect_prune.errors import DetectPruneError

if TYPE_CHECKING:
    from detect_prune.engine.distributed import World

PROJECT = Path("runs/train")


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog or "python train.py",
        description="Trains a network. One that was pruned keeps its zeros, unless --train-zeros is given.",
    )
    add_network_options(parser, "the file of the cfg's name beside it, else in ./weights, if the data is real")
    add_pretrained_option(parser)
    add_model_option(parser)
    add_training_data_options(parser)
    parser.add_argument("--epochs", type=positive(int), dest="dense_epochs", metavar="N", help="of training")
    parser.add_argument(
        "--train-zeros", action="store_true", default=None, help="let the zeros of a pruned network grow back"
    )
    add_run_options(parser, str(PROJECT))
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = build_parser(prog)
    return run_together(lambda args, words, world: _train(args, words, parser, world), parser, argv)


def _check(args: argparse.Namespace) -> None:
    if args.train_zeros and args.weights is None:
        raise DetectPruneError("--train-zeros is for weights that were pruned, and --weights is not given")


def _train(args: argparse.Namespace, argv: list[str], parser: argparse.ArgumentParser, world: "World") -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import begin
    from detect_prune.engine.pipeline import train
    from detect_prune.pruning import Masks

    begun = begin(args, argv, parser, "train", PROJECT, world, lambda task: task.name, lambda task: _check(args))
    job = begun.job
    print(f"{job.says}\neverything is kept in {begun.folder}", flush=True)
    masks = Masks.from_nonzero(job.task.model)
    zeros = masks.n_total - masks.n_kept
    # Training makes no exact zero, so one in weights from a file was put there by pruning, however little was pruned.
    hold = zeros > 0 and args.weights is not None and not args.train_zeros
    if hold:
        print(
            f"{zeros:,} of {masks.n_total:,} weights are zero and stay so (--train-zeros lets them grow back)",
            flush=True,
        )
    result = train(job.task.model, masks=masks if hold else None, **begun.arguments)
    print(result.text)
