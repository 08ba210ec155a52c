"""What the engine asks of whoever is trained and pruned: one small protocol, and the numbers that come back.

The engine never learns what a picture or a box is. `detect_prune.tasks` has the two implementations, detection and
classification; any object with these members can be handed to `detect_prune.prune`.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detect_prune.engine.distributed import World
from detect_prune.engine.machine import within_memory
from detect_prune.engine.recipe import Recipe
from detect_prune.errors import DetectPruneError


@dataclass
class Metrics:
    """Scores of one evaluation.

    `values` maps names such as `AP`, `AP50` or `top-1` to shares in 0..1; `primary` names the one that decides which
    checkpoint is best (0 where there was nothing to find); `headline` names those that get a column in the tables and a
    curve, the primary one unless given; `per_class` has one flat record a class; `notes` are sentences for the person
    who reads the table (pictures that could not be read, for example).
    """

    values: dict[str, float]
    primary: str
    per_class: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    headline: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.values = {name: float(value) for name, value in self.values.items()}
        self.headline = tuple(self.headline) or (self.primary,)

    @property
    def score(self) -> float:
        return self.values.get(self.primary, 0.0)

    def __str__(self) -> str:
        return "  ".join(f"{name} {value:.4f}" for name, value in self.values.items())


@dataclass(frozen=True)
class Teacher:
    """The dense network, whose answers the network that is pruned learns beside the labels (Hinton, Vinyals and Dean
    2015, arXiv 1503.02531). Called with inputs it gives its outputs, without a gradient."""

    model: nn.Module
    """In evaluation mode."""
    weight: float
    """Of the distance between the two networks' outputs in the loss."""

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Any:
        return self.model(inputs)


class Task(Protocol):
    """A model, its data and its score.

    A task may have `capturable = True`: its batches are tuples of tensors, and what `loss` does with them on a GPU
    follows from their shapes alone, so that one step's work can be recorded and run again (`engine/capture.py`). `loss`
    is then not called for every batch.
    """

    name: str
    """Names the run's folder: the network's name."""
    model: nn.Module
    device: torch.device
    world: World
    """The processes that share the work; `engine.distributed.ALONE` where it is one."""
    trained: bool
    """Whether all its weights were trained before, so that there is something to prune. Where they were not, `prune`
    trains a dense network first."""
    notes: list[str]
    """Sentences on how the task came about, said once before it starts: heads that were adapted, for example."""
    steps_per_epoch: int
    """At least 1."""
    skipped: set[str]
    """Names of the training pictures that this process could not read so far; a resumed run knows them still."""
    recipe: Recipe
    """What is run unless the caller says otherwise."""

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The batches of an epoch from batch `start` on; the same for the same epoch, however often it is asked.

        Each yields something that `loss` takes, or None where none of its pictures could be read. In a world of several
        processes it is this process's share of the batch, which may be empty; together they are the one process's.
        """
        ...

    def count(self, batch: Any) -> int:
        """Pictures in what `batches` yielded."""
        ...

    def loss(self, model: nn.Module, batch: Any, teacher: Teacher | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch (a scalar that can be differentiated) and its parts, detached, for the log.

        It is called under autocast to bf16 where the run is in that precision. A mean over the batch's pictures: the
        engine weights that of a share by its pictures. With a teacher, which a task need not take as long as no phase
        distills, the loss has `teacher.weight` times the distance from its outputs as well.
        """
        ...

    def inputs(self) -> Iterable[Tensor]:
        """Batches (B, ...) of training pictures, on `device`, as the network takes them: for batch-norm statistics, and
        the first for counting multiplications, which every run does.

        Drawn from all of them: the first ones of a set are often all of one class.
        """
        ...

    def evaluate(self, model: nn.Module) -> Metrics:
        """Scores the network, in process 0 alone. It may leave it in evaluation mode; its weights stay as they are."""
        ...

    def figures(self, model: nn.Module) -> dict[str, np.ndarray]:
        """Pictures to look at, already drawn: name -> (height, width, 3) uint8 RGB."""
        ...

    def save(self, model: nn.Module, folder: Path, stem: str) -> list[Path]:
        """Writes the files that other tools read; the one with the weights comes last."""
        ...

    def load(self, folder: Path, stem: str) -> nn.Module:
        """Reads back what `save` wrote, as a new model on `device`."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain values that say what was trained on what, for metrics.json. `network` and `data` are the names of both,
        by which runs are put beside each other."""
        ...

    def problems(self) -> list[str]:
        """Sentences about the data so far, as this process has seen it: pictures that were skipped, boxes that were
        dropped."""
        ...


def require_steps(task: Task) -> None:
    """Raises DetectPruneError where an epoch of the task has no step: training would do nothing, and say nothing."""
    if task.steps_per_epoch < 1:
        raise DetectPruneError(
            f"an epoch of the task '{task.name}' has at least one step, not {task.steps_per_epoch}: is its set empty?"
        )


class NotFinite(DetectPruneError):
    """The loss, a weight or a gradient is NaN or infinite: training can't go on from here."""


def step_within_memory(task: Task) -> AbstractContextManager[None]:
    """A step of training, which may not fit into the device's memory: see `within_memory`."""
    return within_memory(lambda: f"a step with batch {task.settings().get('batch', 'of this size')}", task.device)
