"""A task that trains in milliseconds: points in the plane, two classes, a small network with batch norm and dropout."""

import copy
import math
import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detect_prune.engine.distributed import ALONE
from detect_prune.engine.pipeline import prune
from detect_prune.engine.precision import Precision
from detect_prune.engine.recipe import Phase, Recipe
from detect_prune.engine.task import Metrics


def toy_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 16, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(16, 16, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


class ToyTask:
    """Inside or outside a ring; 8 batches of 32 an epoch, of which the second epoch lacks a picture."""

    name = "toy"
    world = ALONE
    trained = False
    steps_per_epoch = 8
    recipe = Recipe(
        dense=Phase(8, 0.05, weight_decay=1e-4, ema=0.9),
        admm=Phase(8, 0.02),
        retrain=Phase(6, 0.02, weight_decay=1e-4, ema=0.9, clip=5.0),
        updates=32,
    )

    def __init__(self, poison_at: int | None = None):
        self.model = toy_network()
        self.device = torch.device("cpu")
        self.poison_at, self.asked = poison_at, 0
        self.skipped: set[str] = set()
        self.notes: list[str] = []

    @staticmethod
    def points(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        points = torch.rand(count, 2, 1, 1, generator=torch.Generator().manual_seed(seed)) * 4 - 2
        return points, ((points.flatten(1).norm(dim=1) - 1.2).abs() < 0.6).long()

    def batches(self, epoch, start):
        for number in range(start, self.steps_per_epoch):
            if number == epoch == 1:
                self.skipped.add("torn.png")
            yield self.points(1 + epoch * self.steps_per_epoch + number, 32)

    def count(self, batch):
        return len(batch[1])

    def loss(self, model, batch):
        self.asked += 1
        points, labels = batch
        loss = nn.functional.cross_entropy(model(points), labels)
        if self.asked == self.poison_at:
            loss = loss * math.nan
        return loss, {"entropy": loss.detach()}

    def inputs(self):
        for number in range(4):
            yield self.points(10_000 + number, 32)[0]

    def evaluate(self, model):
        points, labels = self.points(99_999, 500)
        model.eval()
        with torch.no_grad():
            right = (model(points).argmax(1) == labels).float().mean().item()
        return Metrics({"top-1": right}, "top-1")

    def figures(self, model):
        return {"plane": np.zeros((16, 16, 3), np.uint8)}

    def save(self, model, folder: Path, stem):
        path = Path(folder) / f"{stem}.pt"
        torch.save(model.state_dict(), path)
        return [path]

    def load(self, folder, stem):
        model = copy.deepcopy(self.model)
        model.load_state_dict(torch.load(Path(folder) / f"{stem}.pt", weights_only=True))
        return model

    def settings(self):
        return {"network": "toy", "data": "ring", "memory": "of a goldfish"}

    def problems(self):
        return [f"not read: {name}" for name in sorted(self.skipped)]


class StopsItself(ToyTask):
    """Sends itself a signal while the loss of step `at` is computed."""

    def __init__(self, at=None, number=signal.SIGTERM):
        super().__init__()
        self.at, self.number = at, number

    def loss(self, model, batch):
        if self.asked + 1 == self.at:
            os.kill(os.getpid(), self.number)
        return super().loss(model, batch)


FP32 = Precision()


def run(folder, task=None, **options):
    """The whole story; `options` go to `prune`."""
    task = task or ToyTask()
    defaults = {"ratio": 0.6, "train_dense": True, "precision": FP32}
    return prune(task.model, task=task, folder=folder, **(defaults | options))


def same_bits(one, other):
    """Two results have the same network and the same scores at every stage."""
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert [stage["metrics"] for stage in one.stages] == [stage["metrics"] for stage in other.stages]
