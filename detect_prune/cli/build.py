"""From options to a task: every choice that was made for the user is said aloud."""

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detect_prune.cli.choices import MODELS
from detect_prune.cli.options import choose_device, default_workers
from detect_prune.cli.plan import fresh_folder, resume_plan, save_plan, started_elsewhere
from detect_prune.datasets import SAMPLE, data_available
from detect_prune.datasets.descriptor import read_names
from detect_prune.engine.distributed import ALONE, World
from detect_prune.engine.precision import PRECISIONS
from detect_prune.engine.task import Task
from detect_prune.errors import DetectPruneError
from detect_prune.numbers import counted
from detect_prune.official import download_hint
from detect_prune.resources import find_resource, packaged_folder
from detect_prune.tasks.build import classification_task, detection_task, find_weights
from detect_prune.tasks.detector import Detector, load


@dataclass
class Job:
    """A task that is ready, and what was decided on the way to it."""

    task: Task
    sample: bool
    """Whether the data is the built-in set."""
    says: str
    """Plain lines: what is run on what."""


def build_job(args: argparse.Namespace, world: World = ALONE) -> Job:
    """The job that --cfg or --model asks for. Choices made here are written into `args`, and so into the run's plan.

    Raises:
        DetectPruneError: neither or both are given, an option is not for such a network, a file is missing or wrong.
    """
    if (args.cfg is None) == (args.model is None):
        models = ", ".join(MODELS)
        raise DetectPruneError(f"give --cfg FILE for a detector, or --model NAME ({models}) for a classifier")
    for option in ("workers", "imgsz", "pretrained"):
        if args.model is not None and getattr(args, option) is not None:
            raise DetectPruneError(f"--{option} is for detectors; --model {args.model} has no use for it")
    if args.cfg is not None and args.hold_out is not None:
        raise DetectPruneError(
            "--hold-out is for classifiers; the descriptor of a detector's data says what it is scored on"
        )
    if args.resume is None:
        args.seed = args.seed or 0
        look_up(args)
    task = _task(args, world)
    _override(task, args)
    # The digests are for --resume, not for people.
    shown = ", ".join(f"{name} {value}" for name, value in task.settings().items() if not name.endswith("digest"))
    if args.pretrained is not None:
        start = f"a backbone's weights {args.pretrained}"
    else:
        start = f"weights {args.weights}" if args.weights is not None else "no weights to start from"
    sample = args.cfg is not None and args.data == SAMPLE  # a classifier's data may be a folder of that name
    return Job(task, sample, f"{shown}, {start}, device {task.device}")


def look_up(args: argparse.Namespace) -> None:
    """Fills what was not given with what is found. A resumed run keeps what it found, whatever has appeared since.

    Raises:
        DetectPruneError: there is no COCO where --data-root says, and no --data.
    """
    if args.data is None and args.cfg is not None:
        args.data = "coco.yaml" if data_available("coco.yaml", args.data_root) else SAMPLE
        if args.data == SAMPLE and args.data_root is not None:
            raise DetectPruneError("there is no COCO here; --data says which data set it is", file=args.data_root)
    if args.weights is None and args.pretrained is None and args.cfg is not None and args.data != SAMPLE:
        found = _usual_weights(args.cfg)
        args.weights = None if found is None else str(found)


def network_name(args: argparse.Namespace) -> str:
    """That of the cfg's file, without its ending, or of the classifier."""
    return args.model if args.cfg is None else find_resource("cfg", args.cfg).stem


def _task(args: argparse.Namespace, world: World) -> Task:
    shared = {
        "data": args.data,
        "data_root": args.data_root,
        "seed": args.seed,
        "device": choose_device(args.device, world),
        "world": world,
    }
    if args.cfg is None:
        return classification_task(args.model, args.weights, hold_out=args.hold_out, batch=args.batch or 128, **shared)
    workers = default_workers(world.local_size) if args.workers is None else args.workers
    return detection_task(
        args.cfg,
        args.weights,
        pretrained=args.pretrained,
        imgsz=args.imgsz,
        batch=args.batch or 8,
        workers=workers,
        **shared,
    )


def _override(task: Task, args: argparse.Namespace) -> None:
    """Puts --lr, --distill and the numbers of epochs into the task's recipe."""
    overrides: dict[str, dict[str, float]] = {}
    for phase in ("dense", "admm", "retrain"):
        given = {"epochs": getattr(args, f"{phase}_epochs", None), "lr": args.lr}
        if phase != "dense":
            given["distill"] = getattr(args, "distill", None)
        overrides[phase] = {name: value for name, value in given.items() if value is not None}
    task.recipe = task.recipe.with_options(**overrides)


@dataclass
class Begun:
    """A run of the engine that is about to start or to go on."""

    job: Job
    folder: Path
    argv: list[str]
    """The options that the run was begun with, as they were typed."""
    arguments: dict[str, Any]
    """What the engine's `prune` and `train` both take."""


def begin(
    args: argparse.Namespace,
    argv: Sequence[str],
    parser: argparse.ArgumentParser,
    command: str,
    project: Path,
    world: World,
    name: Callable[[Task], str],
    check: Callable[[Task], None] = lambda task: None,
) -> Begun:
    """Builds the job of `args` and finds its folder: that of --resume, or a fresh one, where the plan is kept.

    Args:
        args: filled in with what was looked up, or with the options of the run that goes on.
        argv: the options as they were typed.
        parser: the command's parser.
        command: prune or train.
        project: where runs are kept unless --project says otherwise.
        world: the processes that begin it together.
        name: of the run's folder, unless --name is given.
        check: raises where a new run could only fail, before anything is written.

    Raises:
        DetectPruneError: from `check`; as `build_job`, `resume_plan`; or the plan can't be written.
    """
    project = Path(args.project or project)
    resuming = args.resume is not None
    if resuming:
        folder, argv, options = world.on_main(lambda: (*resume_plan(command, parser, args, project), vars(args)))
        vars(args).update(options)
    with started_elsewhere(folder) if resuming else nullcontext():
        job = world.main_first(lambda: build_job(args, world))
    if not resuming:
        check(job.task)
        folder = world.on_main(lambda: fresh_folder(project, args.name or name(job.task), job.sample))
        world.on_main(lambda: save_plan(folder, command, args, argv))
    arguments = {
        "task": job.task,
        "folder": folder,
        "resume": resuming,
        "save_every": 60 * (args.save_every or 3),
        "eval_every": args.eval_every,
        "seed": args.seed,
        "precision": PRECISIONS.get(args.precision),
        "command": f"{parser.prog} {shlex.join(argv)}",
    }
    return Begun(job, folder, argv, arguments)


def detector_for_use(args: argparse.Namespace) -> Detector:
    """The network of --cfg with --weights, for commands that use it as it is. What was chosen is said, and written
    into `args`.

    Raises:
        DetectPruneError: --cfg is missing, there is no such file, or there are no weights.
    """
    if args.cfg is None:
        raise DetectPruneError("--cfg is missing: the network's Darknet cfg")
    source = find_resource("cfg", args.cfg)  # before its weights are: a mistyped cfg is what is wrong then
    weights = find_weights(args.weights) if args.weights is not None else _require_weights(args.cfg)
    args.weights, args.device = str(weights), choose_device(args.device)
    names = read_names(Path(args.names)) if getattr(args, "names", None) is not None else ()
    detector = load(args.cfg, weights, names=names, imgsz=args.imgsz)
    called = f"{counted(detector.num_classes, 'class', 'classes')} called {', '.join(detector.names[:2])}"
    called += " and so on" if detector.num_classes > 2 else ""
    print(f"network {source}, weights {weights}, {called}, device {args.device}", flush=True)
    return detector.to(args.device)


def _places_of_weights(cfg: str) -> list[Path]:
    """Where weights are looked for that were not named: beside the cfg, where a run leaves them, in the working folder
    for a bare name, and in ./weights."""
    source = find_resource("cfg", cfg)
    beside = [] if source.parent == packaged_folder("cfg") else [source.parent]
    folders = dict.fromkeys([*beside, Path(cfg).parent, Path("weights")])
    return [folder / f"{source.stem}.weights" for folder in folders]


def _usual_weights(cfg: str) -> Path | None:
    return next(filter(os.path.isfile, _places_of_weights(cfg)), None)


def _require_weights(cfg: str) -> Path:
    found = _usual_weights(cfg)
    if found is None:
        places = _places_of_weights(cfg)
        hint = download_hint(places[0].name)
        raise DetectPruneError(
            f"its weights are neither {' nor '.join(map(str, places))}{hint}; --weights says which they are", file=cfg
        )
    return found
