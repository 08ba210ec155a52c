"""Run by test_distributed.py, alone or as one of several processes: small jobs whose results are compared.

Usage: distributed_run.py FOLDER JOB...; FOLDER has what the jobs read, and each leaves FOLDER/JOB-SIZE-RANK.pt, and
FOLDER/threads-PID with the names of the threads that are there when all is done (where that can be seen, on Linux).
"""

import argparse
import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from toy import FP32, StopsItself, toy_network

from detect_prune.cli.command import run_together
from detect_prune.datasets.classification import ClassificationData, LabelledPictures
from detect_prune.datasets.share import Share
from detect_prune.engine.checkpoint import load_checkpoint
from detect_prune.engine.distributed import ALONE, World
from detect_prune.engine.pipeline import prune, train
from detect_prune.engine.recipe import Phase, Recipe
from detect_prune.engine.stop import Stopped
from detect_prune.engine.task import Teacher
from detect_prune.engine.trainer import Trainer
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import GlobalADMM
from detect_prune.tasks.build import detection_task
from detect_prune.tasks.classification import ClassificationTask, build_network


def lenet(folder, world):
    """LeNet-5 through the whole story. Of 181 pictures in batches of 60, the last has one, and process 0 none of it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (181,), generator=generator)
    images = torch.randint(256, (181, 1, 28, 28), generator=generator) // 4
    for image, label in zip(images, labels.tolist()):
        image[:, 2 * label : 2 * label + 8, 4:24] += 150
    split = LabelledPictures(images.to(torch.uint8), labels)
    data = ClassificationData("stripes", tuple("0123456789"), split, split)
    torch.manual_seed(world.rank)  # the first weights are those of process 0
    # SGD: the first steps of Adam have the length of the rate, whatever little noise the gradient is. And four steps an
    # update: with one, weights turn at the edge of Z so often that float noise becomes some per mille.
    recipe = Recipe(
        dense=Phase(1, 0.02, weight_decay=5e-4, ema=0.9),
        admm=Phase(8, 0.01, clip=1.0, distill=0.1),
        retrain=Phase(1, 0.01, clip=1.0, distill=0.1),
        updates=8,
    )
    task = ClassificationTask(build_network("lenet5", data), data, recipe, name="lenet5", batch=60, world=world)
    options = {"ratio": 0.9, "importance": "fisher", "train_dense": True, "precision": FP32}
    result = prune(task.model, task=task, folder=folder / f"lenet-{world.size}", **options)
    dense = task.load(result.folder, "dense").state_dict()
    return {"dense": dense, "weights": result.model.state_dict(), "held": task.model.state_dict()}


def detector(folder, world):
    """A detector without batch norm on eleven pictures, one of them torn, in batches of five; then it learns from
    another one."""
    options = {"batch": 5, "device": "cpu", "workers": world.rank, "world": world}
    task, other = (
        detection_task(folder / "plain.cfg", data=folder / "squares/tiny.yaml", seed=seed, **options) for seed in (0, 1)
    )
    recipe = replace(task.recipe, dense=Phase(3, 0.01, clip=10.0))
    train(task.model, task=task, folder=folder / f"detector-{world.size}", recipe=recipe, precision=FP32)
    history = load_checkpoint(folder / f"detector-{world.size}" / "last.pt")["history"]
    weights = {name: value.clone() for name, value in task.model.state_dict().items()}
    teacher = Teacher(other.model.eval(), 0.5)
    taught = Trainer(task, task.model, Phase(1, 0.01, clip=10.0), FP32, teacher=teacher)
    return {
        "weights": weights,
        "history": [row for row in history if "loss box" in row],
        "taught": [{"loss": report.loss, **report.parts} for report in taught.steps()],
        "taught weights": task.model.state_dict(),
    }


class SharedToy(StopsItself):
    """Batches of 32 in equal parts; the second half of batch `torn` can't be read."""

    def __init__(self, world, torn=None, signal_at=None):
        super().__init__(signal_at if world.rank == 1 else None)
        self.world, self.torn = world, torn

    def batches(self, epoch, start):
        for number, (points, labels) in enumerate(super().batches(epoch, start), start):
            part = Share(self.world.rank, self.world.size).part(32)
            readable = slice(16 if number == self.torn else 32)
            points, labels = points[readable][part], labels[readable][part]
            yield (points, labels) if len(labels) else None


def norms(folder, world):
    """Batch norm: one step, and an epoch with a batch of which process 1 has nothing."""
    found = {}
    for name, torn, steps in (("first", None, 1), ("torn", 1, 8)):
        model = toy_network()
        reports = Trainer(SharedToy(world, torn), model, Phase(1, 0.05, ema=0.9), FP32).steps()
        found[name] = {"losses": [next(reports).loss for _ in range(steps)], "weights": model.state_dict()}
    return found


class Frozen(nn.Module):
    """A network whose batch norms keep their statistics, whatever mode it is put into; one layer is not used."""

    def __init__(self):
        super().__init__()
        self.body, self.unused = toy_network(), nn.Linear(3, 3)

    def forward(self, x):
        return self.body(x)

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()
        return self


def frozen(folder, world):
    """Frozen batch norms are like none: a batch of which process 1 has nothing is used. ADMM and its cut come after."""
    model = Frozen()
    phase = Phase(1, 0.05, "adamw", weight_decay=0.1)
    losses = [report.loss for report in Trainer(SharedToy(world, torn=1), model, phase, FP32).steps()]
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    pruned, held = {}, {}
    for importance, gradual in (("lamp", False), ("taylor", True)):
        model.load_state_dict(trained)
        admm = GlobalADMM(model, 0.6, updates=4, importance=importance, gradual=gradual, exclude=["unused"])
        list(Trainer(SharedToy(world, torn=1), model, Phase(2, 0.02), FP32, pruner=admm).steps())
        masks = admm.cut()
        held |= {f"{importance} {name}": masks[name] for name in masks}
        pruned |= {f"{importance} {name}": value.clone() for name, value in model.state_dict().items()}
    return {"losses": losses, "weights": trained, "pruned": pruned, "masks": held}


def stopped(folder, world):
    """A signal to process 1 alone stops both at the same step, and --resume goes on from there."""
    recipe = SharedToy.recipe.with_options(dense={"epochs": 1}, admm={"epochs": 4}, retrain={"epochs": 1})
    found = {}
    for name, signal_at in (("straight", None), ("stopped", 8 + 13), ("resumed", None)):
        task = SharedToy(world, signal_at=signal_at)
        run = folder / ("straight" if name == "straight" else "run")
        options = {"train_dense": True, "precision": FP32, "recipe": recipe, "resume": name == "resumed"}
        options["save_every"] = 0.0  # after each step, and all processes have to take part
        try:
            result = prune(task.model, task=task, folder=run, ratio=0.6, **options)
            found[name] = result.model.state_dict()
        except Stopped:
            found[name] = load_checkpoint(run / "last.pt")["unfinished"]["trainer"]["step"]
    return found


def drifted(folder, world):
    """Processes that hold other bits are told apart."""
    weights = [torch.ones(3), torch.ones(3, 4).t()]
    world.require_same(weights, "the weights")
    weights[1][2, 1] += 1e-6 * world.rank
    try:
        world.require_same(weights, "the weights")
    except DetectPruneError as error:
        return str(error)


def asked_to_stop(folder, world):
    """All processes leave their work at the same place."""
    optimizer = torch.optim.SGD(toy_network().parameters(), 0.1)  # torch takes its modules for several processes along
    optimizer.step()
    world.gather(0)
    raise Stopped(folder)


def broken(folder, world):
    """One process alone can't go on."""
    world.gather(0)
    if world.rank == 1:
        raise DetectPruneError("the disk of process 1 is full")
    world.gather(0)


JOBS = {job.__name__: job for job in (lenet, detector, norms, frozen, stopped, drifted, asked_to_stop, broken)}


def main(folder: Path, jobs: list[str], world: World = ALONE) -> None:
    for job in jobs:
        torch.save(JOBS[job](folder, world), folder / f"{job}-{world.size}-{world.rank}.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("jobs", nargs="+")
    status = run_together(lambda args, words, world: main(args.folder, args.jobs, world), parser, None)
    names = []
    for thread in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):  # it has just ended
            names.append((thread / "comm").read_text())
    (parser.parse_args().folder / f"threads-{os.getpid()}").write_text("".join(names))
    sys.exit(status)
