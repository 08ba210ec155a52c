"""Running a network over a set of pictures, in the ways in which detectors are scored."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detect_prune.darknet import Darknet
from detect_prune.datasets import DetectionData, DetectionSet, Fit, val_batches
from detect_prune.datasets.letterbox import Placement
from detect_prune.detection import detect
from detect_prune.engine.machine import within_memory
from detect_prune.errors import DetectPruneError
from detect_prune.report.progress import Progress
from detect_prune.structures import Detections, Truth
from detect_prune.tasks.inference import full_float32, inference_copy, to_input


@dataclass(frozen=True)
class ScoringProtocol:
    """What has to be the same for two scores to be comparable."""

    name: str
    score_threshold: float
    """Lowest score of a detection."""
    iou_threshold: float
    """Of the suppression."""
    resize: str
    """Of pictures: `opencv` or `darknet`, see `detect_prune.datasets.letterbox`."""
    truncate: bool
    """Whether letterboxed pictures have sides cut to whole pixels, or rounded."""
    clip: bool
    """Whether boxes end at the picture's border."""
    unit: str
    """In which the suppression measures distances: fractions of the network's `input`, fractions of the `picture`, or
    `pixel`s of the picture."""
    darknet_order: bool = False
    """Whether detections are listed as Darknet's sort leaves them, or best first."""
    max_candidates: int = 3000
    """A picture, before suppression."""


# Darknet has no limit on candidates; this one is beyond any trained network, and keeps an untrained one within memory.
_MANY = 20_000

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # The way in which AP on COCO is published for PyTorch networks.
        ScoringProtocol("coco", 0.001, 0.6, resize="opencv", truncate=False, clip=True, unit="input"),
        # src/detector.c, validate_detector_map. Boxes stay in fractions of the picture, so that distances along x and y
        # count alike whatever its shape.
        ScoringProtocol(
            "darknet-map",
            0.005,
            0.45,
            resize="darknet",
            truncate=True,
            clip=False,
            unit="picture",
            darknet_order=True,
            max_candidates=_MANY,
        ),
        # src/detector.c, validate_detector: boxes are scaled to pixels before they are suppressed. On 128 COCO pictures
        # AP75 of yolov4-tiny is .2804 in Darknet, .2822 here, and .2858 if suppressed in fractions.
        ScoringProtocol(
            "darknet-valid",
            0.001,
            0.6,
            resize="darknet",
            truncate=True,
            clip=True,
            unit="pixel",
            max_candidates=_MANY,
        ),
    )
}


SHOWN = replace(PROTOCOLS["coco"], name="shown", score_threshold=0.25, iou_threshold=0.45)
"""What people look at: the thresholds of Darknet's `detector test`."""


def require_same_classes(model: Darknet, data: DetectionData) -> None:
    """Raises DetectPruneError unless the network has as many classes as the data."""
    if model.num_classes != len(data.names):
        raise DetectPruneError(
            f"the network has {model.num_classes} classes and the data '{data.name}' has {len(data.names)}; "
            "train.py and prune.py adapt the heads by themselves, scoring can't",
            file=model.cfg.path,
        )


@torch.inference_mode()
@full_float32()
def find_all(
    model: Darknet,
    pictures: DetectionSet,
    protocol: ScoringProtocol,
    *,
    batch: int,
    workers: int = 0,
    letterbox: bool | None = None,
    nms: str = "cfg",
    quiet: bool = False,
) -> tuple[list[Truth], list[Detections], list[str]]:
    """Runs a network over a set. The network is left as it is: what runs is a copy made for it.

    Args:
        workers: threads that read pictures ahead.
        letterbox: keep the pictures' proportions; None for what the cfg says.
        nms: as for `detect`.
        quiet: no progress is shown.

    Returns:
        The truths of the pictures that could be read, what was found in each (pixels of the stored picture), and a
        sentence for each picture that could not be read.

    Raises:
        DetectPruneError: a batch does not fit into memory.
    """
    network = inference_copy(model)
    if letterbox is None:
        letterbox = model.cfg.letter_box
    fit = Fit(model.input_size, letterbox, protocol.resize, protocol.truncate)
    batches = val_batches(pictures, fit, batch, workers)
    truths: list[Truth] = []
    found: list[Detections] = []
    skipped: list[str] = []
    with (
        contextlib.nullcontext() if quiet else Progress(len(batches), "scoring") as progress,
        # Left to the garbage collector, the threads of an interrupted run would go on for a while.
        contextlib.closing(iter(batches)) as groups,
    ):
        for group in groups:
            skipped += group.skipped
            if len(group):
                with within_memory(lambda: f"scoring with batch {batch}", next(model.parameters()).device):
                    raws = network(to_input(group.pictures, network))
                    found += detect_on_pictures(raws, group.placements, model, protocol, nms)
                truths += [pictures[index] for index in group.indices]
            if progress is not None:
                progress.step()
    return truths, found, skipped


def detect_on_pictures(
    raws: Sequence[Tensor], placements: Sequence[Placement], model: Darknet, protocol: ScoringProtocol, nms: str = "cfg"
) -> list[Detections]:
    """What the raw heads of a batch say about its stored pictures, by a protocol's rules.

    Args:
        raws: one tensor a head, as the network returns them.
        placements: where each of the pictures lies in the network's input.
        model: its heads and input size count.
        nms: as for `detect`.
    """
    results = detect(
        raws,
        model.heads,
        model.input_size,
        score_threshold=protocol.score_threshold,
        iou_threshold=protocol.iou_threshold,
        nms=nms,
        max_candidates=protocol.max_candidates,
        frames=_frames(placements, model.input_size, protocol.unit),
        darknet_order=protocol.darknet_order,
    )
    return [_on_picture(*pair, protocol.clip) for pair in zip(results, placements)]


def _frames(placements: Sequence[Placement], size: tuple[int, int], unit: str) -> Tensor | None:
    """(B, 2) width and height of the network's input in the unit."""
    if unit == "input":
        return None
    pixels = np.array([[size[0] / place.scale_x, size[1] / place.scale_y] for place in placements])
    pictures = [[place.width, place.height] for place in placements]
    return torch.from_numpy(pixels if unit == "pixel" else pixels / pictures)


def _on_picture(found: Detections, placement: Placement, clip: bool) -> Detections:
    boxes = placement.back(found.boxes.cpu().numpy())
    if clip:
        boxes = boxes.clip(0, [placement.width, placement.height] * 2).astype(np.float32)
    return Detections(torch.from_numpy(boxes), found.scores.cpu(), found.labels.cpu())
