"""Detection as the engine sees it: a Darknet network, pictures with boxes, and AP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detect_prune.darknet import Cfg
from detect_prune.darknet.steps import Convolution, plan_sizes
from detect_prune.datasets import (
    Augmentation,
    Batch,
    Batches,
    DetectionData,
    Fit,
    read_picture,
    train_batches,
    val_batches,
)
from detect_prune.datasets.descriptor import write_names
from detect_prune.datasets.share import Share
from detect_prune.detection import YoloLoss, coco_metrics, head_distance, voc_metrics
from detect_prune.engine.batchnorm import STATISTICS_DRAW
from detect_prune.engine.distributed import ALONE, World
from detect_prune.engine.recipe import Recipe
from detect_prune.engine.task import Metrics, Teacher
from detect_prune.errors import DetectPruneError
from detect_prune.export.darknet import save_network
from detect_prune.numbers import counted
from detect_prune.report.figures import contact_sheet, draw_boxes
from detect_prune.tasks.detector import Detector, load
from detect_prune.tasks.inference import to_input
from detect_prune.tasks.scoring import PROTOCOLS, SHOWN, find_all, require_same_classes

STATISTICS_PICTURES = 256
"""Training pictures from which batch-norm statistics are measured again."""
SHOWN_PICTURES = 12
SAMPLE_AUGMENTATION = Augmentation(hue=0.0, saturation=1.0, exposure=1.0, scale=0.1, translate=0.05, mosaic=0.0)
"""For the built-in set, whatever the cfg says: its colours and places vary by themselves, and its runs are short."""


def augmentation_of(cfg: Cfg) -> Augmentation:
    """How far training pictures are changed, by Darknet's keys: hue, saturation, exposure, flip and mosaic of [net],
    jitter of [yolo]. Darknet cuts up to `jitter` of each side away or adds as much, which is a zoom and a shift; it
    makes a mosaic of every other picture where `mosaic` is set.

    Raises:
        DetectPruneError: a value is out of range; with its line.
    """
    net = cfg.net
    jitters = [layer.float("jitter", 0.2, low=0.0, high=0.99) for layer in cfg.layers if layer.name == "yolo"]
    jitter = jitters[-1] if jitters else 0.2  # the last one decides, as in Darknet's train_detector
    saturation, exposure = (net.float(key, 1.0, low=0.01, high=100.0) for key in ("saturation", "exposure"))
    return Augmentation(
        hue=net.float("hue", 0.0, low=0.0, high=0.5),
        # Darknet draws the factor or its inverse, so .75 and 1.333 mean the same.
        saturation=max(saturation, 1 / saturation),
        exposure=max(exposure, 1 / exposure),
        scale=jitter,
        translate=jitter / 2,
        flip=net.int("flip", 1) != 0,
        mosaic=0.5 if net.int("mosaic", 0) else 0.0,
    )


class DetectionTask:
    """A detector, its data and its AP; the `Task` protocol's members are described there.

    Args:
        model: its cfg says the input size, the letterbox and the augmentation; its classes are the data's.
        data: training and validation pictures.
        recipe: how it is trained unless the caller says otherwise.
        batch: pictures a step.
        workers: processes that prepare pictures.
        seed: of every draw on the data side.
        device: where the network is.
        world: the processes that share each batch.

    Raises:
        DetectPruneError: the network and the data have different numbers of classes, the cfg asks for an
            augmentation that is out of range, or a batch is too small for batch norm.
    """

    primary = "AP50"

    def __init__(
        self,
        model: Detector,
        data: DetectionData,
        recipe: Recipe,
        *,
        batch: int = 8,
        workers: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        world: World = ALONE,
    ):
        require_same_classes(model, data)
        world.require_shares(min(batch, len(data.train)))
        self.device, self.world = torch.device(device), world
        self.model: nn.Module = model.to(self.device)
        self.name = Path(model.cfg.path or "network").stem
        self.data, self.recipe = data, recipe
        self.batch, self.workers, self.seed = batch, workers, seed
        self.fit, self.header = Fit(model.input_size, model.cfg.letter_box), model.header
        self.trained = False
        self.notes: list[str] = []
        self.augmentation = SAMPLE_AUGMENTATION if data.is_sample else augmentation_of(model.cfg)
        self._criterion = YoloLoss(model.heads)
        self.skipped: set[str] = set()
        self._smallest_batch = _smallest_batch(model)
        usual = min(batch, len(data.train)) // world.size
        if usual < self._smallest_batch:
            raise DetectPruneError(
                f"batch norm needs two values a channel to learn from, and with {usual} picture a step (and process) "
                f"and an input of {self.fit.size[0]}x{self.fit.size[1]} the smallest map has one; choose a larger "
                "batch or input",
                file=model.cfg.path,
            )
        self.steps_per_epoch = len(self._training(0, 0))

    def _training(self, epoch: int, start: int) -> Batches:
        return train_batches(
            self.data.train,
            self.fit,
            self.batch,
            self.seed,
            epoch,
            start,
            workers=self.workers,
            augment=self.augmentation,
            share=Share(self.world.rank, self.world.size),
        )

    def batches(self, epoch: int, start: int) -> Iterator[Batch | None]:
        for batch in self._training(epoch, start):
            self.skipped.update(batch.skipped)
            # So few may be left where others could not be read.
            yield batch if len(batch) >= self._smallest_batch else None

    def count(self, batch: Batch) -> int:
        return len(batch)

    def loss(self, model: nn.Module, batch: Batch, teacher: Teacher | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = to_input(batch.pictures, model)
        raws = model(inputs)
        loss, parts = self._criterion(raws, batch.targets, self.fit.size)
        if teacher is None:
            return loss, parts
        distance = teacher.weight * head_distance(raws, teacher(inputs), self._criterion.heads)
        return loss + distance, parts | {"distillation": distance.detach()}

    def inputs(self) -> Iterator[Tensor]:
        # Sets are often sorted by what is in the pictures: the first ones would be all of a kind.
        order = np.random.default_rng([self.seed, STATISTICS_DRAW]).permutation(len(self.data.train))
        drawn = self.data.train.subset(order[: max(self.batch, STATISTICS_PICTURES // self.batch * self.batch)])
        skipped: list[str] = []
        yielded = False
        for batch in val_batches(drawn, self.fit, self.batch):
            skipped += batch.skipped
            if len(batch) >= self._smallest_batch:
                yielded = True
                yield to_input(batch.pictures, self.model)
        if not yielded:
            raise DetectPruneError(f"none of {len(drawn)} training pictures could be read: {'; '.join(skipped[:3])}")

    def evaluate(self, model: nn.Module) -> Metrics:
        """COCO's AP on all validation pictures that can be read, by the protocol `coco`.

        Raises:
            DetectPruneError: none can be read, or none of these has a box that counts.
        """
        truths, found, skipped = find_all(
            model, self.data.val, PROTOCOLS["coco"], batch=self.batch, workers=self.workers
        )
        if skipped and not truths:
            raise DetectPruneError(
                f"none of the {len(skipped)} validation pictures could be read: {'; '.join(skipped[:3])}"
            )
        result = coco_metrics(truths, found, self.data.names)
        if result.AP is None:
            raise DetectPruneError(
                f"no box that counts is in the {counted(len(truths), 'validation picture')} that can be read: there is "
                f"nothing to score by{': ' if skipped else ''}{'; '.join(skipped[:3])}"
            )
        values = {
            name: value
            for name, value in result.as_dict().items()
            if name.startswith(("AP", "AR")) and value is not None
        }
        per_class = result.as_dict()["classes"]
        headline = ["AP", "AP50"]
        if self.data.format == "voc":
            headline.append("mAP")
            values["mAP"] = voc_metrics(truths, found, self.data.names).mAP or 0.0
        notes = [f"{counted(len(skipped), 'validation picture')} left out: {'; '.join(skipped[:3])}"] if skipped else []
        return Metrics(values, self.primary, per_class, notes, tuple(headline))

    def figures(self, model: nn.Module) -> dict[str, np.ndarray]:
        shown = self.data.val.subset(range(min(SHOWN_PICTURES, len(self.data.val))))
        truths, found, _ = find_all(model, shown, SHOWN, batch=self.batch, quiet=True)
        pictures = [draw_boxes(read_picture(truth.path), boxes, self.data.names) for truth, boxes in zip(truths, found)]
        return {"detections": contact_sheet(pictures)} if pictures else {}

    def save(self, model: nn.Module, folder: Path, stem: str) -> list[Path]:
        write_names(folder / f"{stem}.names", self.data.names)
        return save_network(model, folder, stem, self.header)

    def load(self, folder: Path, stem: str) -> nn.Module:
        return load(folder / f"{stem}.cfg", folder / f"{stem}.weights", names=self.data.names).to(self.device)

    def settings(self) -> dict[str, Any]:
        return {
            "network": self.name,
            "data": self.data.name,
            "training pictures": len(self.data.train),
            "validation pictures": len(self.data.val),
            "data digest": self.data.digest,
            "classes": len(self.data.names),
            "input": f"{self.fit.size[0]}x{self.fit.size[1]}",
            "letterbox": self.fit.letterbox,
            "batch": self.batch,
            # A run that is resumed would go on with another network, or fail, where the file was edited meanwhile.
            "cfg digest": self.model.cfg.digest(),
        }

    def problems(self) -> list[str]:
        problems = list(self.data.warnings)
        if self.skipped:
            by = f" by process {self.world.rank}" if self.world.size > 1 else ""
            problems.append(
                f"{counted(len(self.skipped), 'training picture')} skipped{by}: {'; '.join(sorted(self.skipped)[:3])}"
            )
        return problems


def _smallest_batch(model: Detector) -> int:
    """How many pictures a step needs at least: batch norm in training wants two values a channel."""
    sizes = plan_sizes(model.steps, model.input_size)
    normalised = [step.index for step in model.steps if isinstance(step, Convolution) and step.batch_normalize]
    return 2 if any(sizes[index] == (1, 1) for index in normalised) else 1
