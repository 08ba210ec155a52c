"""One phase of training, step by step; it can stop after any step and go on from there, on a CPU to the same bits.

A GPU adds up in an order of its own, so there a resumed run only comes close.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from detect_prune.engine.batchnorm import training_norms
from detect_prune.engine.capture import CapturedStep
from detect_prune.engine.dropout import dropping_out
from detect_prune.engine.ema import MovingAverage
from detect_prune.engine.precision import Precision
from detect_prune.engine.recipe import Phase
from detect_prune.engine.task import NotFinite, Task, Teacher, step_within_memory
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import Diverged, GlobalADMM, Masks, Pruner, Update, is_due, parameter_groups

_NO_MORE = object()


@dataclass
class StepReport:
    """What one step did. `loss` is the task's own, without the penalty."""

    step: int
    """Steps of this phase that are done."""
    epoch: int
    loss: float
    parts: dict[str, float]
    lr: float
    update: Update | None = None
    """Set where this step ended with an update of what prunes: of Z and U, or of masks that are tightened."""


def learning_rate(phase: Phase, step: int, total: int) -> float:
    """The rate of step `step` (from 0) of `total`: a linear warm-up, then half a cosine to `final_lr` of the rate."""
    warmup = max(1, round(phase.warmup * total))
    if step < warmup:
        return phase.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return phase.lr * (phase.final_lr + (1 - phase.final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


def build_optimizer(model: nn.Module, phase: Phase, pruner: Pruner | None = None) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay is for weights only, and not for those that ADMM holds."""
    groups = parameter_groups(model, phase.weight_decay, pruner if isinstance(pruner, GlobalADMM) else None)
    if phase.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=phase.lr, momentum=phase.momentum, nesterov=phase.momentum > 0)
    return torch.optim.AdamW(groups, lr=phase.lr, betas=(phase.momentum, 0.999), fused=True)


class Trainer:
    """Trains `model` for one phase.

    A `pruner` joins every step, and its updates, which are not more than the phase has steps, come at equal distances,
    the last one after the last step. With `masks`, the support is held through every step.

    Args:
        task: gives the batches and the loss.
        model: what is trained, on the task's device.
        phase: length, rates, optimizer, dropout.
        precision: arithmetic of forward and backward.
        teacher: joins the task's loss.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        phase: Phase,
        precision: Precision,
        *,
        pruner: Pruner | None = None,
        masks: Masks | None = None,
        teacher: Teacher | None = None,
    ):
        self.task, self.model, self.phase, self.precision = task, model, phase, precision
        # Without one, a task whose loss takes no teacher will do.
        self._taught = {} if teacher is None else {"teacher": teacher}
        self.world = task.world
        self.pruner = pruner
        self._held = [each for each in (pruner, masks) if each is not None]
        self.total = phase.epochs * task.steps_per_epoch
        self.step = 0
        self.between_steps = False
        """Whether a batch is being fetched: all that a step changes is whole then."""
        self.optimizer = build_optimizer(model, phase, pruner)
        if pruner is not None:
            pruner.attach(self.optimizer)
        if masks is not None:
            masks.attach(self.optimizer)
        self.average = MovingAverage(model, phase.ema, self.total) if phase.ema else None
        self._captured = None
        if getattr(task, "capturable", False) and task.device.type == "cuda" and self.world.size == 1:
            self._captured = CapturedStep(model, partial(self._backpropagate, share=1.0))

    def steps(self) -> Iterator[StepReport]:
        """Trains, one report a step, from where the phase stands to its end.

        Raises:
            NotFinite: the loss, or what ADMM measures, is no longer finite. The model is then of no use: its batch-norm
                statistics, at least, have seen the bad values.
            DetectPruneError: a whole epoch had no picture that could be read, a step does not fit into memory, or the
                network has no dropout that the phase could set.
        """
        try:
            yield from self._remaining_steps()
        finally:
            self._captured = None  # its memory is wanted for what comes next

    def _remaining_steps(self) -> Iterator[StepReport]:
        per_epoch = self.task.steps_per_epoch
        while self.step < self.total:
            epoch, start = divmod(self.step, per_epoch)
            before, usable = self.step, False
            for batch in self._fetched(islice(self.task.batches(epoch, start), per_epoch - start)):
                counts = self.world.gather(0 if batch is None else self.task.count(batch))
                trains = self._usable(counts)
                usable = usable or trains
                yield self._one_step(batch, counts if trains else None, epoch)
            # Where an epoch was resumed near its end, the few pictures that were left prove nothing.
            if self.step == before or (start == 0 and not usable):
                problems = " ".join(["", *self.task.problems()])
                raise DetectPruneError(f"not one training picture of epoch {epoch + 1} could be read.{problems}")

    def _fetched(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; `between_steps` says while one is fetched."""
        while True:
            self.between_steps = True
            batch = next(batches, _NO_MORE)
            if batch is _NO_MORE:
                return
            self.between_steps = False
            yield batch

    def _usable(self, counts: list[int]) -> bool:
        """Batch norm has no statistics of no pictures, and on GPUs waits for those of every process. A network without
        it takes a share without pictures for a gradient of zeros."""
        self.model.train()
        return all(counts) or (any(counts) and not training_norms(self.model))

    def _one_step(self, batch: Any, counts: list[int] | None, epoch: int) -> StepReport:
        """`counts` has the number of pictures that each process has of the batch; None where it is of no use."""
        rate = learning_rate(self.phase, self.step, self.total)
        loss, parts = math.nan, {}
        if counts is not None:
            loss, parts = self._descend(batch, counts, rate, epoch)
        self.step += 1
        update = None
        # Where the first pictures can't be read, a small set is due for an update before ADMM has measured anything.
        if self.pruner is not None and self.pruner.ready and is_due(self.step, self.total, self.pruner.updates):
            try:
                update = self.pruner.update()
            except Diverged as error:
                raise self._not_finite(str(error), epoch, self.step) from None
        return StepReport(self.step, epoch, loss, parts, rate, update)

    def _descend(self, batch: Any, counts: list[int], rate: float, epoch: int) -> tuple[float, dict[str, float]]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with step_within_memory(self.task):
                loss, parts = self._differentiate(batch, counts)
                if not math.isfinite(loss):
                    raise self._not_finite(f"the loss became {loss}", epoch, self.step + 1)
                if self.phase.clip:
                    for held in self._held:  # what has been removed must not lengthen the norm
                        held.drop_gradients()
                    nn.utils.clip_grad_norm_(self.model.parameters(), self.phase.clip)
                self.optimizer.step()
        except Diverged as error:
            raise self._not_finite(str(error), epoch, self.step + 1) from None
        if self.average is not None:
            self.average.update(self.model)
        return loss, parts

    def _differentiate(self, batch: Any, counts: list[int]) -> tuple[float, dict[str, float]]:
        """Leaves the gradient of the whole batch's loss in the parameters; returns that loss and its parts.

        A part is told where every process has pictures: one without does not know what parts there are.
        """
        share = counts[self.world.rank] / sum(counts)
        loss, parts = torch.zeros((), device=self.task.device), {}
        if share:
            loss, parts = self._captured(batch) if self._captured else self._backpropagate(batch, share)
        names = list(parts) if all(counts) else []
        figures = torch.stack([loss, *(parts[name].to(loss) for name in names)]).float() * share
        self.world.combine(self.model, share, figures)
        value, *rest = figures.tolist()
        return value, dict(zip(names, rest))

    def _backpropagate(self, batch: Any, share: float) -> tuple[Tensor, dict[str, Tensor]]:
        # Backward, too: a network that recomputes activations there has to leave out the same units.
        with dropping_out(self.model, self.phase):
            with self.precision.autocast(self.task.device):
                loss, parts = self.task.loss(self.model, batch, **self._taught)
            (loss * share).backward()
        return loss.detach(), parts

    def _not_finite(self, what: str, epoch: int, step: int) -> NotFinite:
        return NotFinite(
            f"{what} in epoch {epoch + 1}, step {step} of {self.total}. Start a new run with a smaller --lr (it was "
            f"{self.phase.lr:g}); if this one has trained a dense network, with --weights from its folder"
        )

    def finish(self) -> None:
        """Puts the averaged weights into the model, where the phase keeps an average.

        Raises:
            NotFinite: a weight is no longer finite, though every loss was: that of the last step is from before it.
        """
        if self.average is not None:
            self.model.load_state_dict(self.average.weights())
        for name, value in self.model.named_parameters():
            if not bool(value.isfinite().all()):
                epoch = (self.step - 1) // self.task.steps_per_epoch
                raise self._not_finite(f"{name} is NaN or infinite", epoch, self.step)

    def state_dict(self) -> dict[str, Any]:
        """All but the model and torch's random state, which belong to the run."""
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
