"""`detect-prune sweep`: one network at many removal ratios, and the curve of what they cost."""

import argparse
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from queue import Queue
from threading import RLock
from types import FrameType
from typing import Any

from detect_prune.cli import common, prune, train
from detect_prune.errors import DetectPruneError

PROJECT = Path("runs/sweep")
FINISHED = "sweep.json"
INTERRUPTED = 130
"""Exit status of a run that was asked to stop and has saved itself."""
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
        seeds = [common.seed(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"'{text}' has a seed twice")
    return seeds


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    made = common.Parser(
        prog=prog or "detect-prune sweep",
        description="Prunes one network at many ratios, each from the same dense weights, and draws what that costs. "
        "Runs stand side by side where there are several GPUs or --jobs asks for it.",
    )
    common.add_network_options(made, "weights/<cfg name>.weights if it is there and the data is real")
    common.add_pretrained_option(made)
    common.add_model_option(made)
    made.add_argument(
        "--ratios",
        type=common.checked(parse_ratios),
        help="0.1:0.9:0.1 (last included) or 0.5,0.8,0.9; a method that removes nothing is run once",
    )
    made.add_argument(
        "--methods",
        type=common.checked(parse_methods),
        help=f"one or several of {','.join(prune.METHODS)} (default admm)",
    )
    made.add_argument("--seeds", type=common.checked(parse_seeds), help="0,1,2: everything once for each (default 0)")
    common.add_training_data_options(made)
    made.add_argument(
        "--jobs",
        type=common.positive(int),
        metavar="N",
        help="runs at a time on each GPU, or on the processor (default 1): a small network leaves most of a GPU idle",
    )
    prune.add_pruning_options(made)
    common.add_training_options(made)
    common.add_folder_options(made, str(PROJECT))
    return made


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    made = parser(prog)
    return common.run_command(lambda args, words: _sweep(args, words, made), made, argv)


def _sweep(args: argparse.Namespace, argv: list[str], made: argparse.ArgumentParser) -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import look_up
    from detect_prune.datasets import SAMPLE
    from detect_prune.engine.curve import record_of, write_curve

    project = Path(args.project or PROJECT)
    changed = []
    if args.resume is not None:
        # What a run that was begun would else take from its own plan.
        changed = common.command_words(made, {name: getattr(args, name) for name in ("workers", "save_every")})
        folder, argv = common.resume_plan("sweep", made, args, project, finished=FINISHED)
        # Found when the sweep began; whether the network was trained already, and which precision is fastest, may look
        # different now.
        found = common.read_plan(folder).options
        args.train_dense, args.timed_precision = found.get("train_dense"), found.get("timed_precision", args.precision)
        for name, right in (
            ("train_dense", isinstance(args.train_dense, bool)),
            ("timed_precision", args.timed_precision in common.PRECISIONS),
        ):
            if not right:
                raise DetectPruneError(
                    f"this plan of a run is damaged: {name} is missing or wrong", file=folder / common.PLAN
                )
    else:
        if not set(parse_methods(args.methods or "admm")) <= set(prune.KEEPING):
            if prune.is_ratio(args.pattern):
                raise DetectPruneError(
                    f"--pattern {args.pattern} is a ratio itself, and has no curve to sweep; 'prune' takes it"
                )
            if args.ratios is None:
                raise DetectPruneError("--ratios is missing: the shares to remove, such as 0.1:0.9:0.1")
        look_up(args)
        trained, args.timed_precision = _check_all(args, made)
        args.train_dense = not trained
        folder = common.fresh_folder(project, args.name or Path(args.cfg or args.model).stem, args.data == SAMPLE)
        common.save_plan(folder, "sweep", args, argv)
    args.precision = args.timed_precision
    print(f"everything is kept in {folder}", flush=True)
    methods, seeds = parse_methods(args.methods or "admm"), parse_seeds(args.seeds or "0")
    ratios = [] if args.ratios is None else parse_ratios(args.ratios)
    points = list(_points(methods, ratios, seeds))
    devices = _devices(args.device) * (args.jobs or 1)
    if args.cfg is not None and args.workers is None:
        args.workers = common.default_workers(min(len(devices), len(points)))
    with Runs(folder, devices, changed) as runs:
        dense = {seed: _shared(args, made) for seed in seeds}
        if args.train_dense:
            started = [_dense_run(seed, args) for seed in seeds]
            for seed, trained in zip(seeds, runs.finish(started)):
                dense[seed] |= _trained_weights(trained, args)
        finished = runs.finish([point.run(dense[point.seed]) for point in points])
    network = Path(args.cfg or args.model).stem  # the runs name theirs after the dense network's file
    table = write_curve([record_of(one) | {"network": network} for one in finished], folder)
    print(f"\n{table}\n\nthe curve: {folder / 'accuracy.png'}; all figures: {folder / 'sweep.csv'}")


def _check_all(args: argparse.Namespace, made: argparse.ArgumentParser) -> tuple[bool, str]:
    """Says before the first training what some run of the sweep could not do, and settles the precision for all: on a
    busy machine each might choose another. Returns whether the network is trained already, and the precision's
    name."""
    import torch

    from detect_prune.cli.build import build_job
    from detect_prune.engine.pipeline import check
    from detect_prune.engine.precision import PRECISIONS, choose_precision, describe_choice

    seed = parse_seeds(args.seeds or "0")[0]
    task = build_job(argparse.Namespace(**vars(args) | {"seed": seed})).task
    methods = parse_methods(args.methods or "admm")
    prune.require_dense_training(task, args)
    for option in sorted(set.intersection(*(_has_no_use_for(method, args.importance) for method in methods))):
        value = getattr(args, option)
        if value is not None and value is not False:
            given = common.option_of(made, option) + (f" {value}" if isinstance(value, str) else "")
            raise DetectPruneError(f"{given} is given, and there is no use for it in {', '.join(methods)}")
    for method in methods:
        for ratio in [None] if method in prune.KEEPING else parse_ratios(args.ratios):
            options = _of_method(method, prune.chosen_options(args))
            check(task, ratio=None if ratio is None else float(ratio), **options)
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
        return [common.choose_device(asked)]
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


@dataclass(frozen=True)
class ChildRun:
    """A run of `prune` or `train` in the sweep's folder."""

    name: str
    command: str
    words: list[str]


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
        return ChildRun(name, "prune", common.command_words(prune.parser(), options))


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
    return ChildRun(f"dense-s{seed}", "train", common.command_words(made, options | {"seed": seed}))


def _trained_weights(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The options that make `prune` begin with the network of a finished training."""
    weights = str(folder / ("trained.pt" if args.cfg is None else "trained.weights"))
    cfg = {} if args.cfg is None else {"cfg": str(folder / "trained.cfg")}
    return {"weights": weights, "pretrained": None, "dense_epochs": None} | cfg


class Runs:
    """Runs of a sweep as processes of their own; finished ones are not run again.

    A run that was begun goes on from its last checkpoint. With room for one run its output is the sweep's, with room
    for several it goes to NAME.log. While entered, Ctrl-C and a kill of the sweep are handed on to the runs.

    Args:
        folder: of the sweep.
        devices: a run at a time on each; one that is named twice takes two.
        changed: options that a run which goes on is given anew.
    """

    def __init__(self, folder: Path, devices: Sequence[str], changed: Sequence[str] = ()):
        self.folder, self.devices, self.changed = folder, list(devices), list(changed)
        self._processes: set[subprocess.Popen] = set()
        self._stopping = False
        """No further run is begun."""
        # Else a process that has just begun, and is in no list yet, would never hear of the stop. Reentrant, since a
        # second signal may interrupt the handler of the first.
        self._beginning = RLock()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Runs":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        with self._beginning:
            self._stopping = True
            for process in self._processes:
                process.send_signal(number)

    def finish(self, runs: Sequence[ChildRun]) -> list[Path]:
        """Brings all runs to their end; returns their folders in the same order.

        Raises:
            Stopped: the sweep was asked to stop.
            DetectPruneError: a run has failed; those that were not begun yet are not begun.
        """
        from detect_prune.engine.run import Stopped

        free: Queue[str] = Queue()
        for device in self.devices:
            free.put(device)
        environment = self._environment(len(runs))

        def one(run: ChildRun) -> Path:
            device = free.get()
            try:
                return self._finish_one(run, device, environment)
            except BaseException as error:
                if len(self.devices) > 1 and not self._stopping:
                    print(f"{error}\nno other run is begun", flush=True)
                self._stopping = True
                raise
            finally:
                free.put(device)

        with ThreadPoolExecutor(len(self.devices)) as pool:
            waiting = [pool.submit(one, run) for run in runs]
        errors = [error for each in waiting if (error := each.exception()) is not None]
        if errors:
            # What went wrong says more than that others were not begun because of it.
            raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
        return [each.result() for each in waiting]

    def _environment(self, runs: int) -> dict[str, str]:
        """That of this process, and the threads of each of so many runs: together as many as this one may have.

        Finished runs count as well: with other numbers of threads a resumed run would not end at the same bits.
        """
        import torch

        together = min(len(self.devices), runs)
        if together < 2:
            return dict(os.environ)
        threads = str(max(1, torch.get_num_threads() // together))
        return {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}

    def _folder_of(self, name: str) -> Path:
        # A run on the built-in set says so in its name.
        sample = self.folder / f"{name}-sample"
        return sample if sample.exists() else self.folder / name

    def _finish_one(self, run: ChildRun, device: str, environment: dict[str, str]) -> Path:
        from detect_prune.engine.curve import METRICS
        from detect_prune.engine.run import Stopped

        folder = self._folder_of(run.name)
        if (folder / METRICS).exists():
            return folder
        if self._stopping:
            raise Stopped(self.folder)
        if (folder / common.PLAN).exists():
            words = ["--resume", str(folder), *self.changed]
        else:
            _remove_without_plan(folder)
            words = [*run.words, "--project", str(self.folder), "--name", run.name]
        print(f"\n{run.name}, on {device}", flush=True)
        status = self._call([run.command, *words, "--device", device], run.name, environment)
        if status == INTERRUPTED or self._stopping:
            raise Stopped(self.folder)
        if status:
            log = f"; see {self._log(run.name)}" if len(self.devices) > 1 else ""
            raise DetectPruneError(f"the run {run.name} has failed with exit status {status}{log}", file=self.folder)
        return self._folder_of(run.name)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _call(self, words: Sequence[str], name: str, environment: dict[str, str]) -> int:
        command = [sys.executable, "-m", "detect_prune", *words]
        # A group of its own: else Ctrl-C reaches a run twice, and the second one tells it not to save.
        if len(self.devices) == 1:
            return self._wait(self._begin(command, env=environment))
        with open(self._log(name), "ab") as log:
            return self._wait(self._begin(command, env=environment, stdout=log, stderr=subprocess.STDOUT))

    def _begin(self, command: Sequence[str], **options: Any) -> subprocess.Popen:
        from detect_prune.engine.run import Stopped

        with self._beginning:
            if self._stopping:
                raise Stopped(self.folder)
            process = subprocess.Popen(command, process_group=0, **options)
            self._processes.add(process)
            return process

    def _wait(self, process: subprocess.Popen) -> int:
        try:
            return process.wait()
        finally:
            with self._beginning:
                self._processes.discard(process)


def _remove_without_plan(folder: Path) -> None:
    """Removes the folder of a run that was killed before it had written its plan; else the run would find its name
    taken, choose another, and its results would be looked for in vain.

    Raises:
        DetectPruneError: there is something in it.
    """
    try:
        for unfinished in folder.glob(f".{Path(common.PLAN).stem}-*"):
            unfinished.unlink()
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DetectPruneError(f"is in the way of a run ({error.strerror})", file=folder) from None
