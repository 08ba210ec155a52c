"""Classification as the engine sees it: pictures in memory, cross-entropy, top-1 accuracy."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detect_prune.classification import find_architecture, logit_distance
from detect_prune.datasets.classification import ClassificationData, classification_batches
from detect_prune.datasets.share import Share
from detect_prune.engine.batchnorm import STATISTICS_DRAW
from detect_prune.engine.distributed import ALONE, World
from detect_prune.engine.recipe import Recipe
from detect_prune.engine.task import Metrics, Teacher
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import modes_kept
from detect_prune.tasks.inference import full_float32
from detect_prune.tensors import load_state, write_tensors

STATISTICS_BATCHES = 20
TEST_BATCH = 500


def build_network(name: str, data: ClassificationData) -> nn.Module:
    """The network of that name for the classes of `data`.

    Raises:
        DetectPruneError: there is none, or it takes pictures of another shape.
    """
    architecture = find_architecture(name)
    shape = tuple(data.train.images.shape[1:])
    if shape != architecture.input_shape:
        raise DetectPruneError(
            f"{name} takes pictures of (channels, height, width) {architecture.input_shape}, and those of {data.name} "
            f"are {shape}"
        )
    return architecture.build(len(data.classes))


class ClassificationTask:
    """A classifier, its data and its accuracy; the `Task` protocol's members are described there."""

    primary = "top-1"
    capturable = True

    def __init__(
        self,
        model: nn.Module,
        data: ClassificationData,
        recipe: Recipe,
        *,
        name: str,
        batch: int = 128,
        seed: int = 0,
        device: torch.device | str = "cpu",
        world: World = ALONE,
    ):
        world.require_shares(min(batch, len(data.train)))
        self.device, self.world = torch.device(device), world
        self.model = model.to(self.device)
        self.name, self.data, self.recipe, self.batch, self.seed = name, data, recipe, batch, seed
        self.trained = False
        self.notes: list[str] = []
        self.skipped: set[str] = set()
        self.architecture = find_architecture(name)
        self.augment = data.train.images.shape[1] == 3
        self.steps_per_epoch = -(-len(data.train) // batch)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        share = Share(self.world.rank, self.world.size)
        yield from classification_batches(
            self.data.train, self.batch, self.seed, epoch, start, self.augment, share, self.device
        )

    def count(self, batch: tuple[Tensor, Tensor]) -> int:
        return len(batch[1])

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], teacher: Teacher | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, labels = batch
        inputs = self.architecture.prepare(pictures)
        logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        if teacher is None:
            return loss, {}
        distance = teacher.weight * logit_distance(logits, teacher(inputs))
        return loss + distance, {"labels": loss.detach(), "distillation": distance.detach()}

    def inputs(self) -> Iterator[Tensor]:
        # Shifted and flipped as in training: whole pictures have no black border, and cost a ResNet-20 five points.
        drawn = classification_batches(
            self.data.train, self.batch, self.seed, STATISTICS_DRAW, augment=self.augment, device=self.device
        )
        for pictures, _ in islice(drawn, STATISTICS_BATCHES):
            yield self.architecture.prepare(pictures)

    def evaluate(self, model: nn.Module) -> Metrics:
        """Share of test pictures whose most probable class is the right one."""
        right = 0
        with full_float32(), modes_kept(model), torch.no_grad():
            model.eval()
            test = (self.data.test.images, self.data.test.labels)
            for pictures, labels in zip(*(part.split(TEST_BATCH) for part in test)):
                found = model(self.architecture.prepare(pictures.to(self.device))).argmax(1)
                right += int((found == labels.to(self.device)).sum())
        return Metrics({"top-1": right / len(self.data.test)}, self.primary)

    def figures(self, model: nn.Module) -> dict[str, np.ndarray]:
        return {}

    def save(self, model: nn.Module, folder: Path, stem: str) -> list[Path]:
        """A state dict of contiguous tensors, to be read with `torch.load(..., weights_only=True)`."""
        path = folder / f"{stem}.pt"
        write_tensors(path, {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})
        return [path]

    def load(self, folder: Path, stem: str) -> nn.Module:
        model = build_network(self.name, self.data)
        load_state(model, folder / f"{stem}.pt")
        return model.to(self.device)

    def settings(self) -> dict[str, Any]:
        return {
            "network": self.name,
            "data": self.data.name,
            "training pictures": len(self.data.train),
            "test pictures": len(self.data.test),
            "data digest": self.data.digest,
            "batch": self.batch,
            "augmentation": "crop and flip" if self.augment else "none",
        }

    def problems(self) -> list[str]:
        return list(self.data.warnings)
