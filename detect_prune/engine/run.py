"""One run and its folder: stages that are done once, and checkpoints."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detect_prune.engine.batchnorm import sharing_in_words, synchronised
from detect_prune.engine.checkpoint import load_checkpoint, plain_values, save_checkpoint
from detect_prune.engine.journal import Journal
from detect_prune.engine.lock import lock_folder
from detect_prune.engine.machine import describe_machine
from detect_prune.engine.names import BEST, LAST, PICTURES
from detect_prune.engine.precision import PRECISIONS, Precision, choose_precision, describe_choice
from detect_prune.engine.randomness import random_numbers_kept, seed_torch
from detect_prune.engine.recipe import Phase, Recipe
from detect_prune.engine.resuming import other_arithmetic, require_same_settings
from detect_prune.engine.state import RunState
from detect_prune.engine.stop import Stopped, StopSignal
from detect_prune.engine.task import Metrics, Task, Teacher
from detect_prune.engine.trainer import StepReport, Trainer
from detect_prune.errors import DetectPruneError
from detect_prune.files import remove_unfinished, require_disk_space
from detect_prune.pruning import Masks, Pruner, prunable_weights
from detect_prune.report.figures import save_picture
from detect_prune.report.progress import Progress, Timeline
from detect_prune.report.summary import Stage

RECORDS_PER_PHASE = 500


class Run:
    """The state of a run, and its way through the stages.

    A stage is a name and a function. A stage that is done is not done again after a resume; a training stage goes on
    in the middle. `last.pt` is written after each stage, and while training every `save_every` seconds and when a
    stop is asked for.

    In a world of several processes each has its Run and goes through the stages; that of process 0 keeps the folder.

    Args:
        task: what is trained, and in which world.
        folder: where everything is kept.
        recipe: how it is trained.
        settings: plain values that must be the same when the run is resumed (the ratio, for example).
        save_every: seconds between checkpoints while training.
        eval_every: epochs between scores while training; None for half a phase.
        resume: go on from `folder`/last.pt; where the run did not come that far, it begins again.
        precision: None for the fastest by a timed step, or for that of the run that is resumed.
        include, exclude: glob patterns of the weights that are pruned and counted.
        command: the command line as it was given; kept for the record.

    Raises:
        DetectPruneError: the folder of a run to resume does not exist or belongs to other settings; that of a new one
            holds a run already; another process is at work in it; a step does not fit into memory.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        recipe: Recipe,
        *,
        settings: dict[str, Any],
        save_every: float = 180.0,
        eval_every: int | None = None,
        resume: bool = False,
        precision: Precision | None = None,
        seed: int = 0,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        command: str = "",
    ):
        self.task, self.folder, self.recipe = task, Path(folder), recipe
        if eval_every is not None and eval_every < 1:
            raise DetectPruneError(f"there is at least one epoch between two scores, not {eval_every}")
        self.save_every, self.eval_every = save_every, eval_every
        self.world = task.world
        self.settings = plain_values(settings)
        _require_plain(self.settings)
        self._identity = {"recipe": recipe.as_dict(), **self.settings}
        self.model: nn.Module = task.model
        self.masks: Masks | None = None
        self.include, self.exclude = include, exclude
        self.state = RunState(command, describe_machine(task.device) | {"processes": self.world.size})
        self.stop = StopSignal(follows=not self.world.main)
        self.timeline = Timeline({})
        self.phases: dict[str, Phase] = {}
        self._unfinished: dict[str, Any] | None = None
        self._counted = self._saved = time.monotonic()
        """Until when the seconds are counted, and when a checkpoint was last written."""
        self._kept = contextlib.ExitStack()
        """What is held until the end: in process 0 the folder and its log, and whoever called finds torch's random
        numbers again as they were."""
        self._kept.enter_context(random_numbers_kept(task.device))
        seed_torch(seed, task.device)
        self.world.vary_randomness(task.device)
        try:
            self._begin(resume, precision)
        except BaseException:
            # Not left to the garbage collector: a notebook keeps the traceback, and with it this run and its lock.
            with contextlib.suppress(DetectPruneError):
                self._kept.close()
            raise

    def _begin(self, resume: bool, precision: Precision | None) -> None:
        """Opens the folder, restores what is in it, and lays the weights out for training."""
        restored = self.world.on_main(lambda: self._open_folder(resume))
        # Killed before anything was done: what it may have logged until then happens again.
        purge_step = 0 if resume else None
        if restored:
            self._restore(load_checkpoint(self.folder / LAST), precision)
            if self.state.done or self.state.global_step:
                purge_step = self.state.global_step + 1
        else:
            self.precision = precision
            if precision is None:
                # All of them time it, because they will run side by side; process 0 decides.
                found = choose_precision(self.task)
                chosen, self.state.timings = self.world.on_main(lambda: found)
                self.precision = PRECISIONS[chosen]
                if self.state.timings:
                    # Two may be equally fast: timed again after a kill, the other one might win.
                    self.save()
                    if self.world.main:
                        print(describe_choice(chosen, self.state.timings), flush=True)
        self.precision.prepare(self.model)
        self.world.share(self.model)
        if remark := sharing_in_words(self.model, self.world.size):
            print(remark, flush=True)
        self.journal = Journal(self.state, self.folder if self.world.main else None, purge_step)
        self._kept.callback(self.journal.close)

    def __enter__(self) -> "Run":
        self.stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            # What went wrong first, or that the run has stopped and saved itself, says more than a log that can't be
            # closed.
            with contextlib.suppress(*([] if kind is None else [DetectPruneError])):
                self._kept.close()
            if kind is Stopped:
                # torchrun kills all processes when the first one leaves: not before process 0 has saved.
                self.world.gather(0)
        finally:
            self.stop.__exit__(kind, error, trace)
        if kind is KeyboardInterrupt and (self.folder / LAST).exists():
            raise Stopped(self.folder, saved=False) from None  # a second Ctrl-C, which does not wait

    # ---- stages -------------------------------------------------------------------------------------------------

    def plan(self, phases: dict[str, Phase]) -> None:
        """Says what will be trained: to the clock, so that the progress can say when everything will be done, and for
        the closing page."""
        self.phases = phases
        per_epoch = self.task.steps_per_epoch
        self.timeline = Timeline({name: phase.epochs * per_epoch for name, phase in phases.items()})

    def once(self, stage: str, work: Callable[[], None]) -> None:
        """Does `work` unless the stage is done already, then saves.

        Raises:
            Stopped: a stop was asked for after `work` looked for one the last time; the stage is done and saved.
        """
        if stage in self.state.done:
            return
        work()
        with self.stop.guard():
            self.state.done.append(stage)
            self._unfinished = None
            self.save()
            (stopping,) = self.world.any(self.stop.requested)
        if stopping:
            raise Stopped(self.folder)

    def finish(self) -> dict[str, Any]:
        """When the run ended and how many seconds of work it took; the same however often a finished run is resumed."""
        if self.state.finished is None:
            date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
            self.state.finished = {"seconds": round(self.elapsed(), 1), "date": date}
            self.save()
        return self.state.finished

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The weights of `model` that this run prunes, by name."""
        return prunable_weights(model, self.include, self.exclude)

    @property
    def chooses_layers(self) -> bool:
        """Whether patterns leave layers out."""
        return bool(self.include or self.exclude)

    def train(
        self,
        name: str,
        phase: Phase,
        *,
        pruner: Pruner | None = None,
        teacher: Teacher | None = None,
        keep_best: bool = False,
    ) -> None:
        """Trains the model for one phase, holding the masks if there are any.

        Raises:
            Stopped: a stop was asked for; the run has saved itself in the middle of the phase.
        """
        trainer = Trainer(
            self.task, self.model, phase, self.precision, pruner=pruner, masks=self.masks, teacher=teacher
        )
        if self._unfinished is not None:
            trainer.load_state_dict(self._unfinished["trainer"])
            if pruner is not None:
                try:
                    pruner.load_state_dict(self._unfinished["pruner"])
                except ValueError as error:
                    raise DetectPruneError(str(error), file=self.folder / LAST) from None
            self._unfinished = None
        evaluate_every = (self.eval_every or math.ceil(phase.epochs / 2)) * self.task.steps_per_epoch
        record_every = max(1, trainer.total // RECORDS_PER_PHASE)
        self.timeline.begin(name, trainer.step)
        with (
            self.stop.guard(),
            synchronised(self.model, self.world.size),
            Progress(trainer.total, name, initial=trainer.step, timeline=self.timeline) as progress,
            self._stopping_with_its_workers(trainer, pruner),
        ):
            for report in trainer.steps():
                self.state.global_step += 1
                self.state.see_loss(name, report.epoch, report.loss)
                self.journal.step(name, report, record=report.step % record_every == 0)
                progress.step(**self._live(report, pruner))
                if report.step % evaluate_every == 0 and report.step < trainer.total:
                    metrics = self.world.on_main(lambda: self._evaluate_on_the_way(name, trainer, keep_best))
                    progress.write(f"{name}, epoch {report.epoch + 1}: {metrics}")
                due = time.monotonic() - self._saved > self.save_every
                stopping, due = self.world.any(self.stop.requested, due)
                if stopping or due:
                    self._save_phase(trainer, pruner)
                if stopping:
                    raise Stopped(self.folder)
        trainer.finish()
        self.world.require_same(self.model.state_dict().values(), "the weights")

    @contextlib.contextmanager
    def _stopping_with_its_workers(self, trainer: Trainer, pruner: Pruner | None) -> Iterator[None]:
        """A worker may die of what asks this process to stop: of Ctrl-C, where it is not yet in a group of its own (on
        Windows it never is), or of a signal to all processes. torch tells of it at any moment."""
        try:
            yield
        except RuntimeError as error:
            alone = self.world.size == 1 and self.stop.requested
            if not alone or "DataLoader worker" not in str(error):
                raise
            if trainer.between_steps:
                self._save_phase(trainer, pruner)
            elif not (self.folder / LAST).exists():
                raise
            raise Stopped(self.folder, saved=trainer.between_steps) from None

    def _save_phase(self, trainer: Trainer, pruner: Pruner | None) -> None:
        self.save({"trainer": trainer.state_dict(), "pruner": pruner.state_dict() if pruner is not None else None})

    def add_stage(self, stage: Stage, metrics: Metrics) -> None:
        """Adds a row to the closing table, and draws what the network finds at this stage."""
        beside = ("primary", "headline", "per_class", "notes")
        self.state.stages.append(asdict(stage) | {name: getattr(metrics, name) for name in beside})
        self.journal.metrics(stage.name, metrics)
        for name, picture in self.task.figures(self.model).items():
            self.journal.picture(f"{name}/{stage.name}", picture)
            save_picture(self.picture_path(stage.name, name), picture)

    def picture_path(self, stage: str, name: str) -> Path:
        return self.folder / PICTURES / f"{stage} {name}.jpg".replace(" + ", "-").replace(" ", "-")

    def keep_if_best(self, metrics: Metrics) -> None:
        """Writes `best.pt` if no evaluation of this run that was offered here scored higher."""
        if metrics.score > self.state.best:
            self.state.best = metrics.score
            step = self.state.global_step
            best = {"model": self.model.state_dict(), "metrics": metrics.values, "global_step": step}
            save_checkpoint(self.folder / BEST, best)

    @staticmethod
    def _live(report: StepReport, pruner: Pruner | None) -> dict[str, float]:
        done = pruner.report if pruner is not None else None
        return {"loss": report.loss, "lr": report.lr, **(done.headline() if done is not None else {})}

    def _evaluate_on_the_way(self, name: str, trainer: Trainer, keep_best: bool) -> Metrics:
        """Scores what the phase would hand over if it ended now; training then goes on as if nothing had been."""
        current = {key: value.clone() for key, value in self.model.state_dict().items()}
        trainer.finish()
        metrics = self.task.evaluate(self.model)
        self.journal.metrics(name, metrics)
        if keep_best:
            self.keep_if_best(metrics)
        self.model.load_state_dict(current)
        return metrics

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def save(self, unfinished: dict[str, Any] | None = None) -> None:
        """Writes `last.pt`; `unfinished` is the state of a phase in its middle. All processes call this: process 0
        collects the little that they don't have in common."""
        self.state.seconds, self._counted = self.elapsed(), time.monotonic()
        own = {
            "random": torch.get_rng_state(),
            "random of GPU": torch.cuda.get_rng_state(self.task.device) if self._on_gpu else None,
            "skipped": sorted(self.task.skipped),
        }
        processes = self.world.collect(own)
        if self.world.main:
            values = {
                **self.state.as_dict(),
                "identity": self._identity,
                "precision": {"bf16": self.precision.bf16, "channels_last": self.precision.channels_last},
                "unfinished": unfinished,
                "processes": processes,
            }
            masks = self.masks.state_dict() if self.masks is not None else None
            checkpoint = plain_values(values) | {"model": self.model.state_dict(), "masks": masks}
            save_checkpoint(self.folder / LAST, checkpoint)
        self._saved = time.monotonic()

    def _open_folder(self, resume: bool) -> bool:
        """Takes possession of the folder; returns whether it holds a checkpoint to go on from."""
        if resume and not os.path.isdir(self.folder):
            raise DetectPruneError("no such folder; that of a run to resume was expected", file=self.folder)
        self._kept.enter_context(lock_folder(self.folder))
        for folder in (self.folder, self.folder / PICTURES):
            remove_unfinished(folder)
        saved = (self.folder / LAST).exists()
        if saved and not resume:
            raise DetectPruneError(
                "this folder already holds a run; choose another (--name), or go on with it (--resume)",
                file=self.folder,
            )
        if resume and not saved:
            print(f"{self.folder} holds no checkpoint yet: the run begins again", flush=True)
        if not saved:
            self._require_space()
        return saved

    def _restore(self, checkpoint: dict[str, Any], precision: Precision | None) -> None:
        try:
            state = RunState.from_dict(checkpoint)
            identity, begun_in, model, masks, unfinished, processes = (
                checkpoint[name] for name in ("identity", "precision", "model", "masks", "unfinished", "processes")
            )
        except KeyError as error:
            raise DetectPruneError(
                f"this is no state of a run, for it has no {error}; with the weights of a network, as {BEST} has them, "
                "a new run begins (--weights)",
                file=self.folder / LAST,
            ) from None
        require_same_settings(self._identity, identity, self.folder / LAST)
        self.precision = Precision(**begun_in)
        if precision not in (None, self.precision):
            raise DetectPruneError(
                f"this run was started in {self.precision}, not in {precision}; resume it without a precision, or "
                "start a new one",
                file=self.folder / LAST,
            )
        self.model.load_state_dict(model)
        if masks is not None:
            self.masks = Masks.from_state_dict(self.model, masks)
        self._unfinished = unfinished
        for own in processes[self.world.rank :: self.world.size]:
            self.task.skipped.update(own["skipped"])
        if self.world.rank < len(processes):
            own = processes[self.world.rank]
            # Between two stages as well as within one: dropout in the next phase goes on from here.
            torch.set_rng_state(own["random"])
            # A run may have begun on another kind of device.
            if self._on_gpu and own["random of GPU"] is not None:
                torch.cuda.set_rng_state(own["random of GPU"], self.task.device)
        if len(processes) != self.world.size and state.finished is None:
            print(
                f"the checkpoint has the random numbers of {len(processes)} processes, and there are "
                f"{self.world.size}: with dropout the run ends at other weights than it would have",
                flush=True,
            )
        if state.finished is None and (other := other_arithmetic(state.machine, self.state.machine)):
            print(f"{other}: it ends at other weights than it would have, by rounding", flush=True)
        self.state = state

    @property
    def _on_gpu(self) -> bool:
        return self.task.device.type == "cuda"

    def elapsed(self) -> float:
        """Of work until now, that before a resume included."""
        return self.state.seconds + time.monotonic() - self._counted

    def _require_space(self) -> None:
        # Weights, two optimizer moments, the average, Z and U; twice, because the old checkpoint stays until the new
        # one is whole.
        size = sum(value.numel() * value.element_size() for value in self.model.state_dict().values())
        require_disk_space(self.folder, 2 * 6 * size + 2 * size + 50_000_000)


def _require_plain(settings: Mapping[str, Any]) -> None:
    """Raises DetectPruneError for a setting that neither a checkpoint nor metrics.json can hold: before the work."""
    for name, value in settings.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise DetectPruneError(
                f"{name} is {value!r}; a run keeps plain values only: texts, numbers, lists"
            ) from None
