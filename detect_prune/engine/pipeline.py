"""The whole story on one page: dense -> ADMM -> cut -> masked retraining -> score -> files.

Lee, Hwangbo, Yang, Lee: "Global weight pruning by ADMM" (2023), doi 10.1007/s44196-023-00202-z.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from detect_prune.engine.batchnorm import reestimate
from detect_prune.engine.precision import Precision
from detect_prune.engine.publish import publish
from detect_prune.engine.run import Run
from detect_prune.engine.task import Metrics, Recipe, Task
from detect_prune.errors import DetectPruneError
from detect_prune.export.sizes import zip_size
from detect_prune.pruning import Diverged, GlobalADMM, Masks, count_macs, prunable_weights
from detect_prune.pruning.constraints import global_ratio
from detect_prune.pruning.importance import make_importance
from detect_prune.report.summary import Stage

DENSE, PRUNED, TRAINED = "dense", "pruned", "trained"
"""Stems of the files that a run leaves."""


@dataclass
class Result:
    """What a run leaves behind."""

    folder: Path
    model: nn.Module
    """The network as it was read back from the files in `folder`."""
    stages: list[dict[str, Any]]
    """The rows of the closing table, in order."""
    text: str
    """The closing table and the verdict, as printed."""

    def __str__(self) -> str:
        return self.text


def prune(
    model: nn.Module,
    *,
    ratio: float,
    task: Task,
    folder: str | Path,
    recipe: Recipe | None = None,
    train_dense: bool = False,
    importance: str = "lamp",
    floor: float = 0.05,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    resume: bool = False,
    save_every: float = 180.0,
    seed: int = 0,
    precision: Precision | None = None,
    command: str = "",
) -> Result:
    """Removes `ratio` of all convolution and linear weights of a network, retrains the rest, and measures each step.

    Args:
        model: the network, on the task's device; usually `task.model`. It is changed in place.
        ratio: the share of weights to remove, in (0, 1), read as a decimal.
        task: the data, the loss and the score.
        folder: where checkpoints, events, tables and the pruned network go.
        recipe: lengths and rates of the phases; the task's own unless given.
        train_dense: train the network first, since it has no weights that would be worth pruning.
        importance: how a weight's worth is compared across layers, see `detect_prune.pruning.importance`.
        floor: no layer keeps less than this share of what an even cut would leave it.
        include, exclude: glob patterns of weight names that are (not) pruned.
        resume: go on with the run in `folder`.
        save_every: seconds between checkpoints while training.
        seed: of everything random.
        precision: None for the fastest by a timed step.
        command: the command line, for the record in metrics.json.

    Raises:
        DetectPruneError: a ratio, an importance, a floor or a pattern that can't be used with this network (said before
            anything is written), settings other than those of the run that is resumed, or no picture can be read.
        Stopped: Ctrl-C or a kill; the run has saved itself.
        NotFinite: the loss became NaN, or ADMM diverged.
    """
    if not 0 < ratio < 1:
        raise DetectPruneError(f"the removal ratio is {ratio}; a number above 0 and below 1 was expected")
    recipe = recipe or task.recipe
    task.model = model
    chosen = {"importance": importance, "floor": floor, "include": list(include), "exclude": list(exclude)}
    _require_feasible(model, ratio, **chosen)
    identity = {"ratio": ratio, "train_dense": train_dense, "seed": seed, **chosen, "data": task.settings()}
    run = Run(
        task,
        Path(folder),
        recipe,
        identity=identity,
        save_every=save_every,
        resume=resume,
        precision=precision,
        seed=seed,
        include=include,
        exclude=exclude,
        command=command,
    )
    with run:
        phases = {"dense": recipe.dense} if train_dense else {}
        run.plan(phases | {"admm": recipe.admm, "retrain": recipe.retrain})

        if train_dense:
            run.once("dense", lambda: run.train("dense", recipe.dense))
        run.once("score dense", lambda: _score(run, "dense", keep_as=DENSE if train_dense else None))

        run.once("cut", lambda: _admm_and_cut(run, ratio, chosen))
        run.once("score cut", lambda: _score(run, "cut"))
        run.once("batch norm", lambda: reestimate(model, task.inputs()))
        run.once("score batch norm", lambda: _score(run, "cut + batch norm re-estimated"))

        run.once("retrain", lambda: run.train("retrain", recipe.retrain, keep_best=True))
        run.once("score retrained", lambda: _score_files(run, "retrained", PRUNED))
        text = publish(run, identity)
    return Result(run.folder, task.load(run.folder, PRUNED), run.stages, text)


def train(
    model: nn.Module,
    *,
    task: Task,
    folder: str | Path,
    recipe: Recipe | None = None,
    masks: Masks | None = None,
    resume: bool = False,
    save_every: float = 180.0,
    seed: int = 0,
    precision: Precision | None = None,
    command: str = "",
) -> Result:
    """Trains a network with the recipe's dense phase, holding `masks` if given; the arguments are those of `prune`."""
    recipe = recipe or task.recipe
    task.model = model
    identity = {"seed": seed, "zeros held": masks is not None, "data": task.settings()}
    run = Run(
        task,
        Path(folder),
        recipe,
        identity=identity,
        save_every=save_every,
        resume=resume,
        precision=precision,
        seed=seed,
        command=command,
    )
    run.masks = run.masks or masks
    with run:
        run.plan({"dense": recipe.dense})
        run.once("dense", lambda: run.train("dense", recipe.dense, keep_best=True))
        run.once("score trained", lambda: _score_files(run, "trained", TRAINED))
        text = publish(run, identity)
    return Result(run.folder, task.load(run.folder, TRAINED), run.stages, text)


def _require_feasible(
    model: nn.Module, ratio: float, importance: str, floor: float, include: Sequence[str], exclude: Sequence[str]
) -> None:
    """Says before the first step what ADMM would only say after the whole dense training."""
    try:
        make_importance(importance)
        sizes = {name: weight.numel() for name, weight in prunable_weights(model, include, exclude).items()}
        global_ratio(list(sizes.values()), ratio, floor).floors(sizes)
    except ValueError as error:
        raise DetectPruneError(str(error)) from None


def _admm_and_cut(run: Run, ratio: float, chosen: dict[str, Any]) -> None:
    """One stage, since Z, U and the worths are of no use, and are not kept, once the cut is made."""
    phase = run.recipe.admm
    # The schedule of rho ends with the last update, so it has to know how many there will really be.
    updates = min(run.recipe.updates, phase.epochs * run.task.steps_per_epoch)
    try:
        admm = GlobalADMM(run.model, ratio, updates=updates, **chosen)
    except Diverged as error:
        raise DetectPruneError(str(error)) from None
    run.train("admm", phase, admm=admm)
    if admm.residuals is not None:  # not where the run was stopped after the last update
        print(f"before the cut: {admm.residuals}", flush=True)
    run.masks = admm.cut()
    total = run.masks.n_total
    print(
        f"cut: {run.masks.n_kept:,} of {total:,} weights stay, {total - run.masks.n_kept:,} are zero from here on",
        flush=True,
    )


def _score(run: Run, stage: str, keep_as: str | None = None) -> Metrics:
    """Evaluates the model as it stands and measures the files that it would be stored in."""
    metrics = run.task.evaluate(run.model)
    with tempfile.TemporaryDirectory(dir=run.folder) as scratch:
        folder = run.folder if keep_as else Path(scratch)
        weights_file = run.task.save(run.model, folder, keep_as or PRUNED)[-1]
        stored, zipped = weights_file.stat().st_size, zip_size(weights_file)
    run.add_stage(_row(run, run.model, stage, metrics, stored, zipped), metrics)
    print(f"{stage}: {metrics}", flush=True)
    return metrics


def _score_files(run: Run, stage: str, stem: str) -> None:
    """The last weights, written, read back, and only then evaluated: the figure belongs to the file."""
    weights_file = run.task.save(run.model, run.folder, stem)[-1]
    run.delivered = weights_file.name
    delivered = run.task.load(run.folder, stem)
    if run.masks is not None:
        _require_support(run.masks, run.weights(delivered))
    metrics = run.task.evaluate(delivered)
    run.keep_if_best(metrics)
    run.add_stage(_row(run, delivered, stage, metrics, weights_file.stat().st_size, zip_size(weights_file)), metrics)
    print(f"{stage}: {metrics}", flush=True)


def _require_support(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    """A promise, checked on the file itself: no weight outside the mask is anything but zero."""
    for name, weight in weights.items():
        if name in masks and bool(weight.detach()[~masks[name]].any()):
            raise AssertionError(f"{name} has non-zero weights outside its mask: a bug in the retraining")


def _row(run: Run, model: nn.Module, stage: str, metrics: Metrics, stored: int, zipped: int) -> Stage:
    weights = run.weights(model)
    macs = count_macs(model, next(iter(run.task.inputs()))[:1]).values()
    return Stage(
        stage,
        metrics.values,
        kept=sum(int(weight.count_nonzero()) for weight in weights.values()),
        total=sum(weight.numel() for weight in weights.values()),
        macs_dense=sum(layer.dense for layer in macs),
        macs_nonzero=sum(layer.nonzero for layer in macs),
        bytes_stored=stored,
        bytes_zip=zipped,
    )
