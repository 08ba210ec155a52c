"""`prune.py` and `detect-prune prune`: one network, one data set, one removal ratio."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detect_prune.cli.choices import METHODS
from detect_prune.cli.command import run_together
from detect_prune.cli.options import (
    Parser,
    add_model_option,
    add_network_options,
    add_pretrained_option,
    add_run_options,
    add_training_data_options,
    command_words,
    option_of,
    path_name,
    removal_ratio,
)
from detect_prune.cli.pruning_options import (
    AFTER_DENSE,
    add_pruning_options,
    chosen_options,
    chosen_ratio,
    needs_ratio,
    require_dense_training,
)
from detect_prune.errors import DetectPruneError
from detect_prune.official import WEIGHTS

if TYPE_CHECKING:
    from detect_prune.engine.distributed import World
    from detect_prune.engine.task import Task
    from detect_prune.pruning import Masks

PROJECT = Path("runs/prune")


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog or "python prune.py",
        description="Prunes a network by global ADMM: removes one share of all its weights, retrains the rest, and "
        "measures each step.",
        epilog="Without real data the built-in sample set is used, and a dense network is trained on it first.",
    )
    add_network_options(parser, "the file of the cfg's name beside it, else in ./weights, if the data is real")
    add_pretrained_option(parser)
    add_model_option(parser)
    parser.add_argument(
        "--ratio",
        type=removal_ratio,
        help="share of all weights (of those that --include and --exclude leave) to remove, such as 0.8",
    )
    parser.add_argument(
        "--layer-ratios",
        type=path_name,
        metavar="FILE",
        help="instead of --ratio, with --method admm-layerwise: JSON with the share of each layer, "
        '{"conv1.weight": 0.3, ...}',
    )
    parser.add_argument(
        "--method", choices=METHODS, help="how (default admm); all methods get the same epochs, so that they compare"
    )
    add_training_data_options(parser)
    add_pruning_options(parser)
    add_run_options(parser, str(PROJECT))
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = build_parser(prog)
    return run_together(lambda args, words, world: _prune(args, words, parser, world), parser, argv)


def _prune(args: argparse.Namespace, argv: list[str], parser: argparse.ArgumentParser, world: "World") -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import begin
    from detect_prune.engine.pipeline import prune
    from detect_prune.pruning import Masks

    if args.resume is None:
        if args.ratio is not None and args.layer_ratios is not None:
            raise DetectPruneError(
                "--ratio is one share for all layers, --layer-ratios has one for each: give one of them"
            )
        if args.ratio is None and args.layer_ratios is None and needs_ratio(args):
            raise DetectPruneError("--ratio is missing: the share of all weights to remove, such as 0.8")
    begun = begin(
        args,
        argv,
        parser,
        "prune",
        PROJECT,
        world,
        name=lambda task: _run_name(task.name, args),
        check=lambda task: _check(task, args, parser),
    )
    job = begun.job
    asked = args.ratio or args.layer_ratios
    removed = f"removal ratio {asked}; " if asked else ""
    print(f"{job.says}\n{removed}everything is kept in {begun.folder}", flush=True)
    if args.resume is None:
        if not job.task.trained:
            print(f"{_untrained(args)}, so a dense network is trained first", flush=True)
        elif args.weights is not None:
            _tell_of_zeros(Masks.from_nonzero(job.task.model, args.include or (), args.exclude or ()))
    result = prune(job.task.model, ratio=chosen_ratio(args), **begun.arguments, **chosen_options(args))
    print(result.text)
    if job.sample:
        print(
            "This was the built-in sample set: small pictures and few steps, to show the machinery. "
            f"The same for real data:\n{real_data_command(parser, begun.argv)}"
        )


def _tell_of_zeros(masks: "Masks") -> None:
    """What nobody expects of a network that was pruned before."""
    total, zeros = masks.n_total, masks.n_total - masks.n_kept
    if zeros:
        print(
            f"{zeros:,} of {total:,} weights ({100 * zeros / total:.1f} %) are zero already and may grow back ('train' "
            f"holds zeros); a ratio is one of all {total:,}",
            flush=True,
        )


def _check(task: "Task", args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Says before anything is written what the run could not do, or would not read, and settles what is left to the
    recipe."""
    from detect_prune.engine.settings import Settings, check

    require_dense_training(task, args)
    unread = [option_of(parser, dest) for dest in AFTER_DENSE if getattr(args, dest) is not None]
    if unread and args.method == "dense":
        raise DetectPruneError(
            f"dense is not trained after the dense training: there is no use for {', '.join(unread)}"
        )
    choice = check(task, Settings(ratio=chosen_ratio(args), **chosen_options(args)))
    if args.gradual is not None and not choice.method.uses_admm:
        raise DetectPruneError(f"--no-gradual is a choice of ADMM's; {args.method} has none")
    # Kept in the plan, which has every option with the value that it came to.
    args.importance, args.gradual = choice.settings.importance, choice.settings.gradual


def _untrained(args: argparse.Namespace) -> str:
    if args.weights is not None:
        return "parts of the network start at random"
    known = "only a backbone's weights" if args.pretrained is not None else "no weights"
    return f"there are {known} to start from"


def _run_name(network: str, args: argparse.Namespace) -> str:
    """yolov4-0.8, yolov4-gradual-0.8, yolov4-2of4."""
    pattern = None if args.pattern is None else args.pattern.replace(":", "of")
    return "-".join(str(part) for part in (network, args.method, pattern, args.ratio) if part is not None)


def real_data_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> str:
    """The command of a sample run for real data: everything that was typed, less what belongs to the sample."""
    given = vars(parser.parse_args(argv))
    given |= {"data": "coco.yaml", "data_root": "DIR", "name": None, "project": None, "resume": None}
    official = f"{Path(given['cfg']).stem}.weights"
    if official not in WEIGHTS:
        given |= {"data": "FILE.yaml", "data_root": None}
    elif given["pretrained"] is None:
        given |= {"weights": given["weights"] or official, "dense_epochs": None}  # these weights are trained
    return f"{parser.prog} {shlex.join(command_words(parser, given))}"
