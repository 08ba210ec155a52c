"""From options to a task: which data, which weights, which size; every choice that was made for the user is said aloud."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from detect_prune.cli.common import choose_device, default_workers
from detect_prune.darknet import adapt_classes, copy_matching, load_cfg
from detect_prune.datasets import DetectionData, data_available, load_classification, load_data, read_names
from detect_prune.engine.precision import Precision
from detect_prune.engine.task import Recipe, Task
from detect_prune.errors import DetectPruneError
from detect_prune.resources import find_resource
from detect_prune.tasks.classification import ClassificationTask, build_network
from detect_prune.tasks.detection import DetectionTask
from detect_prune.tasks.detector import Detector, load
from detect_prune.tasks.recipes import classification_recipe, detection_recipe

SAMPLE = "sample"
LARGE = 20_000_000
"""Weights from which on a network counts as large: the built-in set then uses smaller pictures and fewer steps."""


@dataclass
class Job:
    """A task that is ready, and what was decided on the way to it."""

    task: Task
    sample: bool
    has_weights: bool
    says: str
    """One plain line: what is run on what."""


def choose_data(args: argparse.Namespace) -> None:
    """Fills `args.data` and `args.weights` where the user left them open; both are then part of the run's plan."""
    if args.data is None:
        args.data = "coco.yaml" if data_available("coco.yaml", args.data_root) else SAMPLE
        if args.data == SAMPLE and args.data_root is not None:
            raise DetectPruneError("there is no COCO below --data-root; --data says which data set it holds", file=args.data_root)
    if args.weights is None and args.data != SAMPLE and getattr(args, "model", None) is None:
        usual = Path("weights") / f"{Path(args.cfg).stem}.weights"
        args.weights = str(usual) if usual.is_file() else None


def find_weights(name: str) -> Path:
    """The path as given, or weights/`name`.

    Raises:
        DetectPruneError: it is in neither place.
    """
    for path in (Path(name), Path("weights") / name):
        if path.is_file():
            return path
    raise DetectPruneError("no such weights file, neither as given nor in ./weights", file=name)


def detection_job(args: argparse.Namespace) -> Job:
    """Builds the network of --cfg for the classes of --data, with the weights of --weights as far as they fit."""
    cfg = load_cfg(find_resource("cfg", args.cfg))
    data = load_data(args.data, args.data_root)
    lines = []
    original = Detector(cfg)
    large = sum(parameter.numel() for parameter in original.parameters()) > LARGE
    if args.imgsz is None and data.is_sample:
        args.imgsz = 160 if large else 224
    if args.batch is None:
        args.batch = 8
    weights = None if args.weights is None else find_weights(args.weights)
    if weights is not None:
        original = load(cfg.path, weights)
    adapted = cfg
    if original.num_classes != len(data.names):
        adapted = adapt_classes(adapted, len(data.names))
        lines.append(f"the heads of {cfg.path.name} are adapted from {original.num_classes} to {len(data.names)} classes")
    if args.imgsz is not None:
        adapted = adapted.with_input_size(args.imgsz, args.imgsz)
    model = Detector(adapted, data.names)
    if weights is not None:
        fresh = copy_matching(original, model)
        model.header = original.header
        if fresh:
            lines.append(f"{weights.name} gives all weights but those of {', '.join(fresh)}, which start at random")
    recipe = _with_overrides(detection_recipe(sample=data.is_sample, large=large, batch=args.batch), args)
    task = DetectionTask(
        model, data, recipe, batch=args.batch, workers=_workers(args), seed=args.seed, device=choose_device(args.device)
    )
    start = f"weights {weights}" if weights is not None else "no weights"
    lines.insert(0, f"network {cfg.path}, {start}, data {_describe(data)}, input {task.size[0]}x{task.size[1]}, device {task.device}")
    return Job(task, data.is_sample, weights is not None, "\n".join(lines))


def _describe(data: DetectionData) -> str:
    kind = "the built-in sample set" if data.is_sample else data.name
    return f"{kind} ({len(data.train):,} + {len(data.val):,} pictures, {len(data.names)} classes)"


def classification_job(args: argparse.Namespace) -> Job:
    """Builds --model for the data set of --data."""
    if args.data in (None, SAMPLE):
        args.data = "mnist" if args.model == "lenet5" else "cifar10"
    data = load_classification(args.data, args.data_root)
    if args.batch is None:
        args.batch = 128
    model = build_network(args.model, data)
    if args.weights is not None:
        from detect_prune.classification import load_pretrained

        load_pretrained(model, find_weights(args.weights))
    recipe = _with_overrides(classification_recipe(args.model), args)
    task = ClassificationTask(
        model, data, recipe, name=args.model, batch=args.batch, seed=args.seed, device=choose_device(args.device)
    )
    start = f"weights {args.weights}" if args.weights else "no weights"
    says = f"network {args.model}, {start}, data {data.name} ({len(data.train):,} + {len(data.test):,} pictures), device {task.device}"
    return Job(task, sample=False, has_weights=args.weights is not None, says=says)


def build_job(args: argparse.Namespace) -> Job:
    """The job that --cfg or --model asks for.

    Raises:
        DetectPruneError: neither or both are given, or any file is missing or wrong.
    """
    if (args.cfg is None) == (getattr(args, "model", None) is None):
        raise DetectPruneError("give --cfg FILE for a detector, or --model lenet5 or resnet56 for a classifier")
    if args.seed is None:
        args.seed = 0
    choose_data(args)
    return detection_job(args) if args.cfg is not None else classification_job(args)


def _workers(args: argparse.Namespace) -> int:
    return default_workers() if args.workers is None else args.workers


def _with_overrides(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    overrides: dict[str, dict[str, float]] = {"dense": {}, "admm": {}, "retrain": {}}
    for phase in overrides:
        epochs = getattr(args, f"{phase}_epochs", None)
        if epochs is not None:
            overrides[phase]["epochs"] = epochs
        if args.lr is not None:
            overrides[phase]["lr"] = args.lr
    return recipe.with_options(**overrides)


def chosen_precision(args: argparse.Namespace) -> Precision | None:
    """What --precision says; None leaves it to the timed step."""
    return {"fp32": Precision(), "bf16": Precision(bf16=True, channels_last=True)}.get(args.precision)


def detector_for_use(args: argparse.Namespace) -> Detector:
    """The network of --cfg with --weights, for commands that use it as it is.

    Raises:
        DetectPruneError: --cfg is missing, or there are no weights.
    """
    if args.cfg is None:
        raise DetectPruneError("--cfg is missing: the network's Darknet cfg")
    weights = args.weights or f"{Path(args.cfg).stem}.weights"
    names = read_names(args.names) if getattr(args, "names", None) else ()
    model = load(args.cfg, find_weights(weights), names=names, imgsz=args.imgsz)
    return model.to(choose_device(args.device))
