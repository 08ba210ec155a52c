"""`detect-prune sweep`: one network at many removal ratios, and the curve of what they cost."""

import argparse
import gc
import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from detect_prune.cli import prune, train
from detect_prune.cli.child_runs import ChildRun, Runs, RunsFailed
from detect_prune.cli.choices import METHODS, PRECISIONS
from detect_prune.cli.command import run_command
from detect_prune.cli.grid import Grid, Point, parse_methods, parse_ratios, parse_seeds
from detect_prune.cli.options import (
    Parser,
    add_folder_options,
    add_model_option,
    add_network_options,
    add_pretrained_option,
    add_training_data_options,
    add_training_options,
    checked,
    choose_device,
    command_words,
    default_workers,
    option_of,
    option_words,
    positive,
)
from detect_prune.cli.plan import PLAN, fresh_folder, read_plan, resume_plan, save_plan
from detect_prune.cli.pruning_options import (
    AFTER_DENSE,
    add_pruning_options,
    chosen_options,
    is_ratio,
    require_dense_training,
)
from detect_prune.engine.names import SWEEP, TRAINED
from detect_prune.errors import DetectPruneError
from detect_prune.files import remove_unfinished

PROJECT = Path("runs/sweep")
OWN = {"ratios", "methods", "seeds", "name", "project", "resume", "device", "jobs"}
"""Options that the runs of a sweep are not handed as they are."""
OF_PRUNING = {"importance", "budget", "bits", "pattern", "gradual", "floor"}
"""Options that only methods which prune, and have a use for them, are handed."""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog or "detect-prune sweep",
        description="Prunes one network at many ratios, each from the same dense weights, and draws what that costs. "
        "Runs stand side by side where there are several GPUs or --jobs asks for it.",
    )
    add_network_options(parser, "the file of the cfg's name beside it, else in ./weights, if the data is real")
    add_pretrained_option(parser)
    add_model_option(parser)
    parser.add_argument(
        "--ratios",
        type=checked(parse_ratios),
        help="0.1:0.9:0.1 (last included) or 0.5,0.8,0.9; a method that removes nothing is run once",
    )
    parser.add_argument(
        "--methods",
        type=checked(parse_methods),
        help=f"one or several of {','.join(METHODS)} (default admm)",
    )
    parser.add_argument("--seeds", type=checked(parse_seeds), help="0,1,2: everything once for each (default 0)")
    add_training_data_options(parser)
    parser.add_argument(
        "--jobs",
        type=positive(int),
        metavar="N",
        help="runs at a time on each GPU, or on the processor (default 1): a small network leaves most of a GPU idle",
    )
    add_pruning_options(parser)
    add_training_options(parser)
    add_folder_options(parser, str(PROJECT))
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = build_parser(prog)
    return run_command(lambda args, words: _sweep(args, words, parser), parser, argv)


def _sweep(args: argparse.Namespace, argv: list[str], parser: argparse.ArgumentParser) -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import network_name
    from detect_prune.engine.curve import write_curve
    from detect_prune.engine.record import record_of

    # What runs that were begun would else take from their own plans.
    anew = ("workers", "save_every", "eval_every")
    changed = [] if args.resume is None else command_words(parser, {name: getattr(args, name) for name in anew})
    folder = _begin(args, argv, parser) if args.resume is None else _resume(args, parser)
    args.precision = args.timed_precision
    print(f"everything is kept in {folder}", flush=True)
    finished, failed = _run_all(Grid.of(args), folder, args, parser, changed)
    network = {"network": network_name(args)}  # the runs name theirs after the dense network's file
    table = write_curve([record_of(one) | network for one in finished], folder, whole=failed is None)
    print(f"\n{table}\n\nthe curve: {folder / 'accuracy.png'}; all figures: {folder / 'sweep.csv'}")
    if failed is not None:
        raise failed


def _begin(args: argparse.Namespace, argv: list[str], parser: argparse.ArgumentParser) -> Path:
    """The folder of a new sweep that can be run, with its plan. Sets `train_dense`, whether there is a dense network to
    be trained, and `timed_precision`."""
    from detect_prune.cli.build import look_up, network_name
    from detect_prune.datasets import SAMPLE

    grid = Grid.of(args)
    if grid.removes:
        if is_ratio(args.pattern):
            raise DetectPruneError(
                f"--pattern {args.pattern} is a ratio itself, and has no curve to sweep; 'prune' takes it"
            )
        if args.ratios is None:
            raise DetectPruneError("--ratios is missing: the shares to remove, such as 0.1:0.9:0.1")
    elif args.ratios is not None:
        raise DetectPruneError(f"--ratios is given, and nothing is removed by {args.methods}")
    look_up(args)
    trained, args.timed_precision = _check_all(grid, args, parser)
    args.train_dense = not trained
    folder = fresh_folder(Path(args.project or PROJECT), args.name or network_name(args), args.data == SAMPLE)
    save_plan(folder, "sweep", args, argv)
    return folder


def _resume(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Path:
    """The folder of the sweep to go on with, whose options `args` takes on."""
    folder, _ = resume_plan("sweep", parser, args, Path(args.project or PROJECT), finished=SWEEP)
    # Found when the sweep began; whether the network was trained already, and which precision is fastest, may look
    # different now.
    found = read_plan(folder).options
    args.train_dense, args.timed_precision = found.get("train_dense"), found.get("timed_precision", args.precision)
    for name, right in (
        ("train_dense", isinstance(args.train_dense, bool)),
        ("timed_precision", args.timed_precision in PRECISIONS),
    ):
        if not right:
            raise DetectPruneError(f"this plan of a run is damaged: {name} is missing or wrong", file=folder / PLAN)
    return folder


def _run_all(
    grid: Grid, folder: Path, args: argparse.Namespace, parser: argparse.ArgumentParser, changed: Sequence[str]
) -> tuple[list[Path], RunsFailed | None]:
    """Does what is not done yet; returns the folders of the finished runs, and what has failed."""
    from detect_prune.engine.lock import lock_folder

    points = list(grid.points())
    devices = _devices(args.device) * (args.jobs or 1)
    if args.cfg is not None and args.workers is None:
        args.workers = default_workers(min(len(devices), len(points)))
    with closing(lock_folder(folder)), Runs(folder, devices, changed) as runs:
        remove_unfinished(folder)
        dense = {seed: _shared(args, parser) for seed in grid.seeds}
        if args.train_dense:
            started = [_dense_run(seed, args) for seed in grid.seeds]
            for seed, trained in zip(grid.seeds, runs.finish(started)):
                dense[seed] |= _trained_weights(trained, args)
        try:
            return runs.finish([_run_of(point, dense[point.seed]) for point in points]), None
        except RunsFailed as error:
            if not error.finished:
                raise
            return error.finished, error


def _check_all(grid: Grid, args: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[bool, str]:
    """Says before the first training what some run of the sweep could not do, and settles the precision for all: on a
    busy machine each might choose another. Returns whether the network is trained already, and the precision's
    name."""
    import torch

    from detect_prune.cli.build import build_job
    from detect_prune.engine.precision import choose_precision, describe_choice
    from detect_prune.engine.settings import Settings, check

    task = build_job(argparse.Namespace(**vars(args) | {"seed": grid.seeds[0]})).task
    require_dense_training(task, args)
    for option in sorted(set.intersection(*(_has_no_use_for(method, args.importance) for method in grid.methods))):
        value = getattr(args, option)
        if value is not None:
            given = shlex.join(option_words(option_of(parser, option), value))
            raise DetectPruneError(f"{given} is given, and there is no use for it in {', '.join(grid.methods)}")
    for method in grid.methods:
        for ratio in grid.ratios_of(method):
            options = _of_method(method, chosen_options(args))
            check(task, Settings(ratio=None if ratio is None else float(ratio), **options))
    precision = args.precision
    if precision not in PRECISIONS:
        precision, seconds = choose_precision(task)
        if seconds:
            print(describe_choice(precision, seconds), flush=True)
    trained = task.trained
    # The runs are processes of their own, and want the memory in which the step was timed.
    del task
    gc.collect()
    torch.cuda.empty_cache()
    return trained, precision


def _devices(asked: str | None) -> list[str]:
    import torch

    if asked is not None:
        return [choose_device(asked)]
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def _run_of(point: Point, options: dict[str, Any]) -> ChildRun:
    """The run of `prune` with these options that makes this network."""
    options = _of_method(point.method, options) | {"ratio": point.ratio, "seed": point.seed}
    return ChildRun(point.name, "prune", command_words(prune.build_parser(), options))


def _of_method(method: str, options: dict[str, Any]) -> dict[str, Any]:
    left_out = _has_no_use_for(method, options.get("importance"))
    return {name: value for name, value in options.items() if name not in left_out} | {"method": method}


def _has_no_use_for(method: str, importance: str | None) -> set[str]:
    """Options of pruning that are for the other methods of a sweep."""
    from detect_prune.pruning import find_method

    found = find_method(method)
    if found.prunes == "never":
        return OF_PRUNING | (set(AFTER_DENSE) if method == "dense" else set())
    unused = set() if found.uses_admm else {"gradual"}
    if found.layerwise:
        unused.add("floor")
    try:
        found.choose_importance(importance)
    except ValueError:
        unused.add("importance")
    return unused


def _shared(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The options that all runs of `prune` have in common."""
    return {
        action.dest: getattr(args, action.dest)
        for action in parser._actions
        if action.dest not in OWN and getattr(args, action.dest, None) is not None
    }


def _dense_run(seed: int, args: argparse.Namespace) -> ChildRun:
    """The training that all points of a seed begin with."""
    parser = train.build_parser()
    known = {action.dest for action in parser._actions}
    options = {name: value for name, value in vars(args).items() if name in known - OWN and value is not None}
    return ChildRun(f"dense-s{seed}", "train", command_words(parser, options | {"seed": seed}))


def _trained_weights(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The options that make `prune` begin with the network of a finished training."""
    weights = str(folder / (f"{TRAINED}.pt" if args.cfg is None else f"{TRAINED}.weights"))
    cfg = {} if args.cfg is None else {"cfg": str(folder / f"{TRAINED}.cfg")}
    return {"weights": weights, "pretrained": None, "dense_epochs": None} | cfg
