"""The whole story on one page: dense -> ADMM -> cut -> masked retraining -> score -> files.

Lee, Hwangbo, Yang, Lee (2023), doi 10.1007/s44196-023-00202-z. Its rivals go the same way with the same epochs.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from torch import nn

from detect_prune.engine.batchnorm import can_reestimate, reestimate
from detect_prune.engine.dropout import find_dropouts
from detect_prune.engine.names import DENSE, PRUNED, TRAINED
from detect_prune.engine.precision import Precision, find_precision
from detect_prune.engine.publish import publish
from detect_prune.engine.randomness import random_numbers_kept
from detect_prune.engine.recipe import Phase, Recipe
from detect_prune.engine.run import Run
from detect_prune.engine.scoring import score, score_files
from detect_prune.engine.settings import Choice, Settings, check
from detect_prune.engine.task import Task, Teacher, require_steps
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import (
    Diverged,
    Masks,
    Method,
    Unmeasured,
    magnitude_masks,
    make_pruner,
    prunable_weights,
    too_early,
)
from detect_prune.report.summary import floor_note


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
    ratio: float | Decimal | Mapping[str, float | Decimal] | None = None,
    task: Task,
    folder: str | Path,
    method: str = "admm",
    budget: str = "ratio",
    pattern: str | None = None,
    bits: Mapping[str, float] | None = None,
    gradual: bool | None = None,
    importance: str | None = None,
    floor: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    recipe: Recipe | None = None,
    train_dense: bool | None = None,
    resume: bool = False,
    save_every: float = 180.0,
    eval_every: int | None = None,
    seed: int = 0,
    precision: Precision | str | None = None,
    command: str = "",
) -> Result:
    """Removes `ratio` of all convolution and linear weights of a network, retrains the rest, and measures each step.

    Args:
        model: the network, on the task's device; usually `task.model`. It is changed in place. Each step begins with
            its train(): a network whose batch norms are to stay frozen keeps them in evaluation mode there.
        ratio: the share to remove, in (0, 1), read as a decimal; name -> share for admm-layerwise; None for a pattern
            N:M, which removes its own share, and for a method that removes nothing.
        task: the data, the loss and the score.
        folder: where checkpoints, events, tables and the pruned network go.
        method: one of `detect_prune.pruning.METHODS`; all get the same epochs.
        budget: of what `ratio` is a share: `ratio` (number of weights), `macs` or `bytes`.
        pattern: how the zeros lie: anywhere (None), `N:M` or blocks `1xN`.
        bits: for the budget of bytes, pattern of layers -> stored bits a weight.
        gradual: let ADMM's removal grow over its updates; the recipe says unless given.
        importance: how a weight's worth is compared across layers, see `detect_prune.pruning.importance`; the recipe's
            or the method's own unless given.
        floor: no layer keeps less than this share of what an even cut would leave it; None for
            `detect_prune.pruning.DEFAULT_FLOOR` where all layers share a budget, the only place for a floor.
        include, exclude: glob patterns of weight names that are (not) pruned.
        recipe: lengths and rates of the phases; the task's own unless given.
        train_dense: train the network first, since its weights are not worth pruning yet; the task knows unless given
            (`Task.trained`).
        resume: go on with the run in `folder`.
        save_every: seconds between checkpoints while training.
        eval_every: epochs between scores while training; None for half a phase.
        seed: of everything random; torch's own random numbers are afterwards what they were.
        precision: one of engine.precision.PRECISIONS, or its name; None for the fastest by a timed step, or for that of
            the run that is resumed.
        command: the command line, for the record in metrics.json.

    Raises:
        DetectPruneError: settings that can't be used together or with this network (said before anything is written),
            settings other than those of the run that is resumed, or no picture can be read.
        Stopped: Ctrl-C or a kill; the run has saved itself.
        NotFinite: the loss became NaN, or ADMM diverged.

    Under torchrun all processes call it with the same arguments and the task's world; see `engine/distributed.py`.
    """
    require_steps(task)
    recipe = recipe or task.recipe
    task.model = model
    settings = Settings(
        ratio=ratio,
        method=method,
        budget=budget,
        pattern=pattern,
        bits=bits,
        gradual=gradual,
        importance=importance,
        floor=floor,
        include=include,
        exclude=exclude,
    )
    choice = check(task, settings, recipe)
    train_dense = not task.trained if train_dense is None else train_dense
    recipe = _fitted(recipe, task, choice)
    phases = recipe.phases(choice.method, train_dense)
    for phase in phases.values():
        _require_fitting(phase, task)
    _tell(task.notes)
    run = Run(
        task,
        Path(folder),
        recipe,
        settings=choice.settings.as_dict() | {"train_dense": train_dense, "seed": seed, "data": task.settings()},
        save_every=save_every,
        eval_every=eval_every,
        resume=resume,
        precision=find_precision(precision),
        seed=seed,
        include=include,
        exclude=exclude,
        command=command,
    )
    with run:
        run.plan(phases)

        if train_dense:
            run.once("dense", lambda: run.train("dense", phases["dense"]))
        if method != "dense":
            kept = train_dense or any(phase.distill for phase in phases.values())
            run.once("score dense", lambda: score(run, "dense", keep_as=DENSE if kept else None))

        if choice.method.prunes == "while training":
            run.once("cut", lambda: _train_and_cut(run, phases[method], choice))
        elif choice.method.prunes == "at once":
            run.once("cut", lambda: _cut_at_once(run, choice))
        if choice.method.prunes != "never":
            run.once("score cut", lambda: score(run, "cut"))
            if can_reestimate(run.model):
                run.once("batch norm", lambda: _reestimate(run))
                run.once("score batch norm", lambda: score(run, "cut + batch norm re-estimated"))

        if "retrain" in phases:
            run.once("retrain", lambda: _retrain(run, phases["retrain"]))
        name, stem = _delivers(choice.method)
        run.once("score retrained", lambda: score_files(run, name, stem))
        return _result(run, stem)


def train(
    model: nn.Module,
    *,
    task: Task,
    folder: str | Path,
    recipe: Recipe | None = None,
    masks: Masks | None = None,
    resume: bool = False,
    save_every: float = 180.0,
    eval_every: int | None = None,
    seed: int = 0,
    precision: Precision | str | None = None,
    command: str = "",
) -> Result:
    """Trains a network with the recipe's dense phase. `masks` are held, and where there are any the dropout is that of
    the recipe's retraining. The other arguments are those of `prune`.

    Raises:
        DetectPruneError: the network has no weights that could be pruned, and so counted, or as `prune` does.
        Stopped, NotFinite: see `prune`.
    """
    require_steps(task)
    try:
        prunable_weights(model)
    except ValueError as error:
        raise DetectPruneError(f"the weights of this network can't be counted: {error}") from None
    recipe = recipe or task.recipe
    if masks is not None:  # what is left of a network has few units to spare
        recipe = recipe.with_options(dense={"dropout": recipe.retrain.dropout})
    find_dropouts(model, recipe.dense)
    task.model = model
    _tell(task.notes)
    run = Run(
        task,
        Path(folder),
        recipe,
        settings={"seed": seed, "zeros held": masks is not None, "data": task.settings()},
        save_every=save_every,
        eval_every=eval_every,
        resume=resume,
        precision=find_precision(precision),
        seed=seed,
        command=command,
    )
    run.masks = run.masks or masks
    with run:
        run.plan({"dense": recipe.dense})
        run.once("dense", lambda: run.train("dense", recipe.dense, keep_best=True))
        task.trained = True
        run.once("score trained", lambda: score_files(run, "trained", TRAINED))
        return _result(run, TRAINED)


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, flush=True)


def _fitted(recipe: Recipe, task: Task, choice: Choice) -> Recipe:
    """The recipe for a set of this size and what was chosen; says aloud where a phase becomes longer."""
    if choice.method.uses_admm and choice.settings.gradual != recipe.gradual:
        # So many steps to an update were chosen for the recipe's own way to ask for the removal.
        recipe = replace(recipe, steps_per_update=None)
    fitted = recipe.for_set(task.steps_per_epoch)
    if choice.method.name != "dense" and fitted.admm.epochs > recipe.admm.epochs:
        print(
            f"ADMM's phase, or what another method has in its place, is {fitted.admm.epochs} epochs long instead of "
            f"{recipe.admm.epochs}: so many give ADMM {fitted.updates} updates",
            flush=True,
        )
    return fitted


def _require_fitting(phase: Phase, task: Task) -> None:
    """Refuses what the phase asks of a network or a loss that has no such thing: now, and not after the whole dense
    training."""
    find_dropouts(task.model, phase)
    if phase.distill and "teacher" not in inspect.signature(task.loss).parameters:
        raise DetectPruneError("the recipe distills, and the loss of this task takes no teacher")


def _delivers(method: Method) -> tuple[str, str]:
    """The name of the last row, and the stem of the files."""
    if method.prunes != "never":
        return "retrained", PRUNED
    return "dense" if method.name == "dense" else "dense, trained longer", TRAINED


def _train_and_cut(run: Run, phase: Phase, choice: Choice) -> None:
    """One stage, since Z, U and the worths are of no use, and are not kept, once the cut is made."""
    settings = choice.settings
    try:
        pruner = make_pruner(
            choice.method,
            run.model,
            choice.constraint,
            updates=run.recipe.updates,
            importance=settings.importance,
            gradual=settings.gradual,
            include=settings.include,
            exclude=settings.exclude,
        )
        run.train(choice.method.name, phase, pruner=pruner, teacher=_teacher(run, phase))
    except Diverged as error:
        raise DetectPruneError(str(error)) from None
    except Unmeasured as error:
        raise DetectPruneError(
            f"{error}, in a new run; if this one has trained a dense network, with --weights from its folder"
        ) from None
    print(f"before the cut: {pruner.report}", flush=True)
    run.state.before_cut = pruner.report.as_dict()
    if warning := too_early(run.state.before_cut.get("primal", {})):
        print(warning, flush=True)
    _cut(run, pruner.cut())


def _retrain(run: Run, phase: Phase) -> None:
    run.train("retrain", phase, teacher=_teacher(run, phase), keep_best=True)


def _teacher(run: Run, phase: Phase) -> Teacher | None:
    """The dense network, as its file has it: that is what a resumed run finds as well."""
    if not phase.distill:
        return None
    # A network that is built draws random weights first, and dropout would go on from other numbers after a resume.
    with random_numbers_kept(run.task.device):
        dense = run.task.load(run.folder, DENSE)
    run.precision.prepare(dense)
    print(f"it learns from the dense network's answers as well, with a weight of {phase.distill:g}", flush=True)
    return Teacher(dense.eval(), phase.distill)


def _reestimate(run: Run) -> None:
    run.world.on_main(lambda: reestimate(run.model, run.task.inputs()))
    run.world.share(run.model)


def _result(run: Run, stem: str) -> Result:
    problems = [sentence for each in run.world.collect(run.task.problems()) for sentence in each]
    finished = run.finish()
    stages, text = run.world.on_main(lambda: (run.state.stages, publish(run, finished, problems)))
    return Result(run.folder, run.task.load(run.folder, stem).eval(), stages, text)


def _cut_at_once(run: Run, choice: Choice) -> None:
    settings = choice.settings
    try:
        masks = magnitude_masks(
            run.model,
            constraint=choice.constraint,
            importance=settings.importance,
            include=settings.include,
            exclude=settings.exclude,
        )
    except Diverged as error:
        raise DetectPruneError(str(error)) from None
    _cut(run, masks)


def _cut(run: Run, masks: Masks) -> None:
    masks.apply()
    run.masks = masks
    run.world.require_same(masks.values(), "the weights that stay")
    run.world.require_same(run.model.state_dict().values(), "the weights")
    total = masks.n_total
    if masks.bound:
        print(floor_note(masks.bound), flush=True)
    print(
        f"cut: {masks.n_kept:,} of {total:,} weights stay, {total - masks.n_kept:,} are zero from here on", flush=True
    )
