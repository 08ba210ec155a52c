"""`detect-prune sweep`: one network at many removal ratios, and the curve of what they cost."""

import argparse
import gc
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from detect_prune.cli import prune, train
from detect_prune.cli.child_runs import ChildRun, Runs, RunsFailed
from detect_prune.cli.command import run_command
from detect_prune.cli.options import (
    PRECISIONS,
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
    seed_number,
)
from detect_prune.cli.plan import PLAN, fresh_folder, read_plan, resume_plan, save_plan
from detect_prune.engine.names import SWEEP, TRAINED
from detect_prune.errors import DetectPruneError
from detect_prune.files import remove_unfinished

PROJECT = Path("runs/sweep")
OWN = {"ratios", "methods", "seeds", "name", "project", "resume", "device", "jobs"}
"""Options that the runs of a sweep are not handed as they are."""
OF_PRUNING = {"importance", "budget", "bits", "pattern", "gradual", "floor"}
"""Options that only methods which prune, and have a use for them, are handed."""
MOST_RATIOS = 1000


def parse_ratios(text: str) -> list[str]:
    """`0.5,0.9` or `0.1:0.9:0.1` (first:last:step, the last included) or both: decimals, so that nothing drifts.

    Raises:
        ValueError: says what was expected.
    """
    ratios: list[Decimal] = []
    for part in text.split(","):
        numbers = part.split(":")
        try:
            first, last, step = (Decimal(number) for number in (numbers if len(numbers) == 3 else [part, part, "1"]))
        except InvalidOperation:
            raise ValueError(f"'{part}' is no ratio and no range first:last:step, such as 0.1:0.9:0.1") from None
        if not all(number.is_finite() for number in (first, last, step)) or not (0 < first <= last < 1 and step > 0):
            raise ValueError(f"'{part}' has to lie above 0 and below 1, and to rise by a step above 0")
        # Asked before dividing by a step that may be as good as nothing.
        if last > first and (last - first) / MOST_RATIOS >= step:
            raise ValueError(f"'{part}' has too many ratios; a sweep has at most {MOST_RATIOS:,}")
        count = int((last - first) / step) + 1
        ratios += [first + step * number for number in range(count)]
    if len(set(ratios)) < len(ratios):
        raise ValueError(f"'{text}' has a ratio twice")
    return [format(ratio.normalize(), "f") for ratio in ratios]


def parse_methods(text: str) -> list[str]:
    """`admm,gradual`. Raises ValueError for a method that there is not, or that is there twice."""
    methods = [method.strip() for method in text.split(",")]
    for method in methods:
        if method not in prune.METHODS:
            raise ValueError(f"'{method}' is none of {', '.join(prune.METHODS)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"'{text}' has a method twice")
    return methods


def parse_seeds(text: str) -> list[int]:
    """`0,1,2`. Raises ValueError for what is no seed, or is there twice."""
    try:
        seeds = [seed_number(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"'{text}' has a seed twice")
    return seeds


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    made = Parser(
        prog=prog or "detect-prune sweep",
        description="Prunes one network at many ratios, each from the same dense weights, and draws what that costs. "
        "Runs stand side by side where there are several GPUs or --jobs asks for it.",
    )
    add_network_options(made, "the file of the cfg's name beside it, else in ./weights, if the data is real")
    add_pretrained_option(made)
    add_model_option(made)
    made.add_argument(
        "--ratios",
        type=checked(parse_ratios),
        help="0.1:0.9:0.1 (last included) or 0.5,0.8,0.9; a method that removes nothing is run once",
    )
    made.add_argument(
        "--methods",
        type=checked(parse_methods),
        help=f"one or several of {','.join(prune.METHODS)} (default admm)",
    )
    made.add_argument("--seeds", type=checked(parse_seeds), help="0,1,2: everything once for each (default 0)")
    add_training_data_options(made)
    made.add_argument(
        "--jobs",
        type=positive(int),
        metavar="N",
        help="runs at a time on each GPU, or on the processor (default 1): a small network leaves most of a GPU idle",
    )
    prune.add_pruning_options(made)
    add_training_options(made)
    add_folder_options(made, str(PROJECT))
    return made


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    made = parser(prog)
    return run_command(lambda args, words: _sweep(args, words, made), made, argv)


def _sweep(args: argparse.Namespace, argv: list[str], made: argparse.ArgumentParser) -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import look_up, network_name
    from detect_prune.datasets import SAMPLE
    from detect_prune.engine.curve import write_curve
    from detect_prune.engine.lock import lock_folder
    from detect_prune.engine.record import record_of

    project = Path(args.project or PROJECT)
    changed = []
    if args.resume is not None:
        # What a run that was begun would else take from its own plan.
        changed = command_words(made, {name: getattr(args, name) for name in ("workers", "save_every", "eval_every")})
        folder, argv = resume_plan("sweep", made, args, project, finished=SWEEP)
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
    else:
        if not set(parse_methods(args.methods or "admm")) <= set(prune.KEEPING):
            if prune.is_ratio(args.pattern):
                raise DetectPruneError(
                    f"--pattern {args.pattern} is a ratio itself, and has no curve to sweep; 'prune' takes it"
                )
            if args.ratios is None:
                raise DetectPruneError("--ratios is missing: the shares to remove, such as 0.1:0.9:0.1")
        elif args.ratios is not None:
            raise DetectPruneError(f"--ratios is given, and nothing is removed by {args.methods}")
        look_up(args)
        trained, args.timed_precision = _check_all(args, made)
        args.train_dense = not trained
        folder = fresh_folder(project, args.name or network_name(args), args.data == SAMPLE)
        save_plan(folder, "sweep", args, argv)
    args.precision = args.timed_precision
    print(f"everything is kept in {folder}", flush=True)
    methods, seeds = parse_methods(args.methods or "admm"), parse_seeds(args.seeds or "0")
    ratios = [] if args.ratios is None else parse_ratios(args.ratios)
    points = list(_points(methods, ratios, seeds))
    devices = _devices(args.device) * (args.jobs or 1)
    if args.cfg is not None and args.workers is None:
        args.workers = default_workers(min(len(devices), len(points)))
    with closing(lock_folder(folder)), Runs(folder, devices, changed) as runs:
        remove_unfinished(folder)
        dense = {seed: _shared(args, made) for seed in seeds}
        if args.train_dense:
            started = [_dense_run(seed, args) for seed in seeds]
            for seed, trained in zip(seeds, runs.finish(started)):
                dense[seed] |= _trained_weights(trained, args)
        failed = None
        try:
            finished = runs.finish([point.run(dense[point.seed]) for point in points])
        except RunsFailed as error:
            failed, finished = error, error.finished
            if not finished:
                raise
    network = {"network": network_name(args)}  # the runs name theirs after the dense network's file
    table = write_curve([record_of(one) | network for one in finished], folder, whole=failed is None)
    print(f"\n{table}\n\nthe curve: {folder / 'accuracy.png'}; all figures: {folder / 'sweep.csv'}")
    if failed is not None:
        raise failed


def _check_all(args: argparse.Namespace, made: argparse.ArgumentParser) -> tuple[bool, str]:
    """Says before the first training what some run of the sweep could not do, and settles the precision for all: on a
    busy machine each might choose another. Returns whether the network is trained already, and the precision's
    name."""
    import torch

    from detect_prune.cli.build import build_job
    from detect_prune.engine.precision import PRECISIONS, choose_precision, describe_choice
    from detect_prune.engine.settings import Settings, check

    seed = parse_seeds(args.seeds or "0")[0]
    task = build_job(argparse.Namespace(**vars(args) | {"seed": seed})).task
    methods = parse_methods(args.methods or "admm")
    prune.require_dense_training(task, args)
    for option in sorted(set.intersection(*(_has_no_use_for(method, args.importance) for method in methods))):
        value = getattr(args, option)
        if value is not None:
            given = shlex.join(option_words(option_of(made, option), value))
            raise DetectPruneError(f"{given} is given, and there is no use for it in {', '.join(methods)}")
    for method in methods:
        for ratio in [None] if method in prune.KEEPING else parse_ratios(args.ratios):
            options = _of_method(method, prune.chosen_options(args))
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


@dataclass(frozen=True)
class Point:
    """One network of the sweep."""

    method: str
    ratio: str | None
    seed: int

    def run(self, options: dict[str, Any]) -> ChildRun:
        """The run of `prune` with these options."""
        name = "-".join(part for part in (self.method, self.ratio, f"s{self.seed}") if part is not None)
        options = _of_method(self.method, options) | {"ratio": self.ratio, "seed": self.seed}
        return ChildRun(name, "prune", command_words(prune.parser(), options))


def _of_method(method: str, options: dict[str, Any]) -> dict[str, Any]:
    left_out = _has_no_use_for(method, options.get("importance"))
    return {name: value for name, value in options.items() if name not in left_out} | {"method": method}


def _has_no_use_for(method: str, importance: str | None) -> set[str]:
    """Options of pruning that are for the other methods of a sweep."""
    from detect_prune.pruning import find_method

    found = find_method(method)
    if found.prunes == "never":
        return OF_PRUNING | (set(prune.AFTER_DENSE) if method == "dense" else set())
    unused = set() if found.uses_admm else {"gradual"}
    if found.layerwise:
        unused.add("floor")
    try:
        found.choose_importance(importance)
    except ValueError:
        unused.add("importance")
    return unused


def _points(methods: Sequence[str], ratios: Sequence[str], seeds: Sequence[int]) -> Iterator[Point]:
    """Seed by seed, so that a sweep that is stopped leaves whole curves."""
    for seed in seeds:
        for method in methods:
            for ratio in [None] if method in prune.KEEPING else ratios:
                yield Point(method, ratio, seed)


def _shared(args: argparse.Namespace, made: argparse.ArgumentParser) -> dict[str, Any]:
    """The options that all runs of `prune` have in common."""
    return {
        action.dest: getattr(args, action.dest)
        for action in made._actions
        if action.dest not in OWN and getattr(args, action.dest, None) is not None
    }


def _dense_run(seed: int, args: argparse.Namespace) -> ChildRun:
    """The training that all points of a seed begin with."""
    made = train.parser()
    known = {action.dest for action in made._actions}
    options = {name: value for name, value in vars(args).items() if name in known - OWN and value is not None}
    return ChildRun(f"training-s{seed}", "train", command_words(made, options | {"seed": seed}))


def _trained_weights(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The options that make `prune` begin with the network of a finished training."""
    weights = str(folder / (f"{TRAINED}.pt" if args.cfg is None else f"{TRAINED}.weights"))
    cfg = {} if args.cfg is None else {"cfg": str(folder / f"{TRAINED}.cfg")}
    return {"weights": weights, "pretrained": None, "dense_epochs": None} | cfg
