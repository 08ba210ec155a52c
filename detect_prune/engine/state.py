"""What a run knows of its way so far, in plain values: every checkpoint has it, and the closing page is made of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class RunState:
    """All that a resumed run goes on from but the tensors (weights, masks, optimizer, random numbers)."""

    command: str
    """The command line that began the run."""
    machine: dict[str, Any]
    """The one on which the run began: what was timed was timed there."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of a step by precision, where they were compared."""
    done: list[str] = field(default_factory=list)
    """The stages that are not done again."""
    stages: list[dict[str, Any]] = field(default_factory=list)
    """The rows of the closing table."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """What the plots show, a record a moment."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Of each phase its last epoch so far, the steps of it, and the sum of their losses."""
    before_cut: dict[str, Any] | None = None
    """What the last update before the cut found; None where nothing was pruned while training."""
    delivered: str = ""
    """Name of the file with the final weights, once it is written."""
    best: float = -math.inf
    """The highest score that was offered for `best.pt`."""
    global_step: int = 0
    """Steps of all phases so far."""
    seconds: float = 0.0
    """Of work, until it was saved."""
    finished: dict[str, Any] | None = None
    """When the run ended, and how long it took: set once, so that resuming a finished run changes nothing."""

    def see_loss(self, phase: str, epoch: int, loss: float) -> None:
        """Told of every step; it has no loss, NaN, where nothing of its batch could be used."""
        if not math.isfinite(loss):
            return
        last, steps, total = self.losses.get(phase, (epoch, 0, 0.0))
        if last != epoch:
            steps, total = 0, 0.0
        self.losses[phase] = [epoch, steps + 1, total + loss]

    def last_losses(self) -> dict[str, float]:
        """By phase the mean loss of its last epoch."""
        return {phase: total / steps for phase, (_, steps, total) in self.losses.items()}

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunState":
        """The state whose `as_dict` is in `values`, perhaps among others.

        Raises:
            KeyError: one of its fields is missing.
        """
        values = {"losses": {}} | dict(values)  # which runs from before 2026-11-30 do not have
        return cls(**{each.name: values[each.name] for each in fields(cls)})
