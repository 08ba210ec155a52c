"""A Darknet network that a person can use: load it, give it a picture, get boxes."""

import os
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from detect_prune.darknet import Cfg, Darknet, WeightsHeader, load_cfg, read_weights
from detect_prune.darknet.cfg import CfgWarning
from detect_prune.datasets import Fit, read_picture
from detect_prune.datasets.descriptor import read_names
from detect_prune.errors import DetectPruneError
from detect_prune.numbers import counted
from detect_prune.pruning import modes_kept
from detect_prune.resources import find_resource, packaged_folder
from detect_prune.structures import Detections
from detect_prune.tasks.inference import full_float32, to_input
from detect_prune.tasks.scoring import SHOWN, detect_on_pictures
from detect_prune.tensors import load_state


def usual_names(classes: int) -> tuple[str, ...]:
    """COCO's names for 80 classes, VOC's for 20, else numbers."""
    usual = {80: "coco.names", 20: "voc.names"}
    if classes in usual:
        return read_names(packaged_folder("data") / usual[classes])
    return tuple(str(label) for label in range(classes))


class Detector(Darknet):
    """A Darknet network with names for its classes.

    Called with a batch (B, 3, H, W) of RGB in 0..1 it gives the raw heads, as `Darknet` does; `predict` gives boxes.
    """

    def __init__(self, cfg: Cfg, names: tuple[str, ...] = ()):
        super().__init__(cfg)
        self.names = tuple(names) or usual_names(self.num_classes)
        self.header: WeightsHeader | None = None
        if len(self.names) != self.num_classes:
            raise DetectPruneError(
                f"the network has {self.num_classes} classes, and {len(self.names)} names were given", file=cfg.path
            )

    @torch.no_grad()  # not inference_mode, whose tensors can't be changed in place or be a loss's targets
    @full_float32()
    def predict(
        self,
        picture: str | Path | np.ndarray,
        *,
        score_threshold: float = SHOWN.score_threshold,
        iou_threshold: float = SHOWN.iou_threshold,
    ) -> Detections:
        """Finds objects in one picture. (In several threads at once where the network is in evaluation mode, as `load`
        gives it.)

        Args:
            picture: a file, turned upright as its EXIF says, as viewers show it; or (H, W, 3) uint8 RGB.
            score_threshold: lowest score that is returned.
            iou_threshold: of the non-maximum suppression that the cfg names.

        Returns:
            Detections in pixels of the picture (the upright one), best first.

        Raises:
            DetectPruneError: it is not such a picture, or the file is none that can be read.
        """
        pixels = read_picture(picture, upright=True) if isinstance(picture, (str, Path)) else picture
        if not isinstance(pixels, np.ndarray):
            raise DetectPruneError(
                f"a picture is a file, or an array (height, width, 3) of uint8, and no {type(pixels).__name__}"
            )
        if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype != np.uint8:
            raise DetectPruneError(
                f"a picture is (height, width, 3) of uint8; this one is {pixels.shape} of {pixels.dtype}"
            )
        fitted, placement = Fit(self.input_size, self.cfg.letter_box)(pixels)
        # torch takes no view that runs backwards, such as a BGR picture's [..., ::-1].
        inputs = torch.from_numpy(np.ascontiguousarray(fitted)).permute(2, 0, 1)[None]
        trains = any(module.training for module in self.modules())
        with modes_kept(self) if trains else nullcontext():
            if trains:
                self.eval()
            raws = self(to_input(inputs, self))
        protocol = replace(SHOWN, score_threshold=score_threshold, iou_threshold=iou_threshold)
        (found,) = detect_on_pictures(raws, [placement], self, protocol)
        return replace(found, names=self.names)


def load(
    cfg: str | Path, weights: str | Path | None = None, *, names: tuple[str, ...] = (), imgsz: int | None = None
) -> Detector:
    """Builds a detector from Darknet's files.

    Args:
        cfg: a path or a bare name, looked up as `find_resource` says.
        weights: the .weights file that belongs to it, or a checkpoint of a run with the same classes (best.pt); None
            leaves fresh random weights.
        imgsz: width and height of the input in pixels, instead of the cfg's.
        names: class names; unless given those of the .names file of the cfg's name beside it, which runs leave there,
            else those of COCO or VOC where the number of classes fits, else numbers.

    Raises:
        DetectPruneError: a file is missing, wrong, or not of this network.
    """
    source = find_resource("cfg", cfg)
    parsed = load_cfg(source)
    detector = Detector(parsed if imgsz is None else parsed.with_input_size(imgsz, imgsz), names)
    beside = _names_beside(source)
    if not names and beside is not None:
        _take_names(detector, beside)
    if weights is not None:
        fill(detector, weights)
    return detector.eval()


def _names_beside(cfg: Path) -> Path | None:
    """The file of class names of the cfg's name, where there is one: runs leave it there."""
    file = cfg.with_suffix(".names")
    return file if os.path.isfile(file) else None


def compare_names(cfg: Path, names: Sequence[str]) -> list[str]:
    """A sentence where the classes of a network, by the .names file beside its cfg, are not called as the data's, which
    has as many and is trained on or scored number by number. (A file of another number of names is not the network's.)

    Raises:
        DetectPruneError: the file can't be read, or the data has the same names in another order.
    """
    file = _names_beside(cfg)
    if file is None:
        return []
    known = read_names(file)
    ours, theirs = ([re.sub("[ _-]", "", name.casefold()) for name in each] for each in (known, names))
    different = [label for label, (one, other) in enumerate(zip(ours, theirs)) if one != other]
    if len(known) != len(names) or not different:
        return []
    first = different[0]
    example = f"class {first} is '{known[first]}' there and '{names[first]}' in the data"
    if sorted(ours) == sorted(theirs):
        raise DetectPruneError(
            f"the data has these classes in another order: {example}; put them into one order, or remove this file to "
            "have them taken by their numbers",
            file=file,
        )
    return [
        f"{len(different)} of {counted(len(names), 'class', 'classes')} have other names in {file}: {example}. They "
        "are taken for the same, by their numbers"
    ]


def _take_names(detector: Detector, file: Path) -> None:
    found = read_names(file)
    if len(found) == detector.num_classes:
        detector.names = found
    else:
        # Beside a published cfg there may be the names of the data that it is about to be adapted to.
        warnings.warn(
            CfgWarning(f"{file}: {len(found)} names are of no use to a network of {detector.num_classes} classes"),
            stacklevel=3,
        )


def is_checkpoint(weights: str | Path) -> bool:
    """Whether the name is that of a checkpoint (`.pt`) and not of Darknet's weights."""
    return Path(weights).suffix == ".pt"


def fill(detector: Detector, weights: str | Path) -> None:
    """Reads weights into a detector of just their shapes.

    Raises:
        DetectPruneError: the file is missing, wrong, or of another network.
    """
    if is_checkpoint(weights):
        load_state(detector, weights)
    else:
        detector.header = read_weights(detector, weights)
