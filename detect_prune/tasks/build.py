"""From file names to a task: the network for the classes of the data, with the weights as far as they fit."""

import os
from pathlib import Path

import torch

from detect_prune.classification import find_architecture
from detect_prune.darknet import Cfg, adapt_classes, copy_matching, load_cfg, read_backbone
from detect_prune.darknet.plan import plan_network
from detect_prune.darknet.steps import Head
from detect_prune.datasets import SAMPLE, load_data
from detect_prune.datasets.classification import held_out, in_grey, load_classification
from detect_prune.engine.distributed import ALONE, World
from detect_prune.engine.randomness import random_numbers_kept, seed_torch
from detect_prune.errors import DetectPruneError
from detect_prune.files import first_file
from detect_prune.official import download_hint
from detect_prune.resources import find_resource
from detect_prune.tasks.classification import ClassificationTask, build_network
from detect_prune.tasks.detection import DetectionTask
from detect_prune.tasks.detector import Detector, compare_names, fill, is_checkpoint
from detect_prune.tasks.recipes import classification_recipe, detection_recipe
from detect_prune.tensors import load_state

LARGE = 20_000_000
"""Weights from which on a network counts as large: the built-in set then uses smaller pictures and fewer steps."""
_CPU = torch.device("cpu")
"""Where networks are made."""


def find_weights(name: str | Path) -> Path:
    """The path as given, or weights/`name`.

    Raises:
        DetectPruneError: it is in neither place, or a folder is.
    """
    if found := first_file((Path(name), Path("weights") / name)):
        return found
    if os.path.isdir(name):
        raise DetectPruneError("this is a folder; the name of a weights file was expected", file=name)
    hint = download_hint(Path(name).name)
    raise DetectPruneError(f"no such weights file, neither as given nor in ./weights{hint}", file=name)


def detection_task(
    cfg: str | Path,
    weights: str | Path | None = None,
    *,
    pretrained: str | Path | None = None,
    data: str | Path = SAMPLE,
    data_root: str | Path | None = None,
    imgsz: int | None = None,
    batch: int = 8,
    workers: int = 0,
    seed: int = 0,
    device: str | None = None,
    world: World = ALONE,
) -> DetectionTask:
    """A detector and its data, ready to be trained or pruned.

    Where the data has another number of classes than the cfg, the heads are adapted: `task.notes` says so, and which
    weights start at random; the task's network then does not count as trained.

    Args:
        cfg: a path, or a bare name such as yolov4.cfg.
        weights: its .weights file, as given or in ./weights, or a checkpoint of a run on data with the same number of
            classes (best.pt); None for random weights.
        pretrained: instead of `weights`, a backbone's file such as yolov4.conv.137, as given or in ./weights: it fills
            the first sections, and the rest starts at random.
        data: a descriptor, or `sample` for the built-in set.
        data_root: the folder of the data, instead of the descriptor's.
        imgsz: width and height of the input in pixels; the cfg's, or a small one for the built-in set.
        batch: pictures a step, of all processes of the world together.
        workers: processes that prepare pictures, for each of those.
        seed: of everything random on the data side.
        device: the GPU if there is one, unless given.
        world: the processes that share the work.

    Raises:
        DetectPruneError: a file is missing or wrong; the sentence names it.
    """
    source = find_resource("cfg", cfg)
    parsed = published = load_cfg(source)
    if weights is not None and pretrained is not None:
        raise DetectPruneError(
            f"weights ({weights}) and pretrained weights of a backbone ({pretrained}) were both given; "
            "one of them was expected"
        )
    weights = None if weights is None else find_weights(weights)
    pretrained = None if pretrained is None else find_weights(pretrained)
    loaded = load_data(data, data_root)
    steps = plan_network(parsed)
    classes = next(step.spec.classes for step in steps if isinstance(step, Head))
    large = sum(step.floats for step in steps) > LARGE
    if imgsz is None and loaded.is_sample:
        imgsz = 128 if large else 192
    notes = []
    if classes != len(loaded.names):
        notes.append(f"the heads are adapted from {classes} to {len(loaded.names)} classes")
        parsed = adapt_classes(parsed, len(loaded.names))
    if imgsz is not None:
        parsed = parsed.with_input_size(imgsz, imgsz)
    with random_numbers_kept(_CPU):
        seed_torch(seed, _CPU)
        model = Detector(parsed, loaded.names)
        trained, remarks = _fill(model, published, weights, pretrained)  # which makes the published network as well
    if weights is not None and classes == len(loaded.names):
        remarks += compare_names(source, loaded.names)
    recipe = detection_recipe(sample=loaded.is_sample, large=large)
    task = DetectionTask(
        model, loaded, recipe, batch=batch, workers=workers, seed=seed, device=device or world.device(), world=world
    )
    task.notes = notes + remarks + loaded.warnings
    task.trained = trained
    return task


def _fill(model: Detector, published: Cfg, weights: Path | None, pretrained: Path | None) -> tuple[bool, list[str]]:
    """Fills a network, as far as it fits, from a file made for the published one; at most one of the two is given.

    Returns:
        Whether all of its weights are trained ones, and sentences on those that are not.
    """
    if weights is None and pretrained is None:
        return False, []
    if weights is not None and is_checkpoint(weights):
        fill(model, weights)
        return True, []
    original = Detector(published)
    if weights is not None:
        fill(original, weights)
        fresh = copy_matching(original, model)
        model.header = original.header
        if not fresh:
            return True, []
        return False, [f"all weights come from {weights} but those of {', '.join(fresh)}, which start at random"]
    filled = read_backbone(original, pretrained)
    taken = set(filled) - set(copy_matching(original, model))
    total = sum(1 for step in model.steps if step.floats)
    return False, [f"{len(taken)} of {total} sections with weights come from {pretrained}, the rest starts at random"]


def classification_task(
    network: str,
    weights: str | Path | None = None,
    *,
    data: str | Path | None = None,
    data_root: str | Path | None = None,
    hold_out: int | None = None,
    batch: int = 128,
    seed: int = 0,
    device: str | None = None,
    world: World = ALONE,
) -> ClassificationTask:
    """A classifier and its data, ready to be trained or pruned.

    Args:
        network: lenet5 or resnet20, -32, -44, -56.
        weights: a state dict (.pt, or the published .th of the ResNets) or a checkpoint of a run (best.pt); None for
            random weights.
        data: mnist, cifar10 or a folder of class folders; what the network's paper used unless given.
        data_root: where mnist or cifar10 is, or is downloaded to.
        hold_out: so many training pictures stand in for the test pictures, and are not trained on.
        batch, seed, device, world: as for `detection_task`.

    Raises:
        DetectPruneError: a file is missing or wrong; the sentence names it.
    """
    if data is None:
        data = "mnist" if network == "lenet5" else "cifar10"
    loaded = load_classification(data, data_root)
    if find_architecture(network).input_shape[0] == 1 and loaded.train.images.shape[1] != 1:
        loaded = in_grey(loaded)
    if hold_out is not None:
        loaded = held_out(loaded, hold_out)
    with random_numbers_kept(_CPU):
        seed_torch(seed, _CPU)
        model = build_network(network, loaded)
    if weights is not None:
        load_state(model, find_weights(weights))
    recipe = classification_recipe(network, pretrained=weights is not None)
    task = ClassificationTask(
        model, loaded, recipe, name=network, batch=batch, seed=seed, device=device or world.device(), world=world
    )
    task.trained = weights is not None
    if hold_out is not None and weights is not None:
        task.notes.append(
            f"weights that were trained without --hold-out {hold_out} have seen the pictures that are scored on: the "
            "dense network's score flatters it then"
        )
    return task
