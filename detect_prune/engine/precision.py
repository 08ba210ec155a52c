"""Which arithmetic is fastest here: found by timing a step, not by asking the processor for its name."""

import math
import time
import warnings
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from detect_prune.engine.machine import DoesNotFit
from detect_prune.engine.randomness import random_numbers_kept
from detect_prune.engine.task import Task, step_within_memory
from detect_prune.errors import DetectPruneError, Notice
from detect_prune.pruning import modes_kept


@dataclass(frozen=True)
class Precision:
    """bf16 autocast or not, channels last or not. Weights, optimizer and evaluation stay in float32 in any case."""

    bf16: bool = False
    channels_last: bool = False

    def __str__(self) -> str:
        return ("bf16 autocast" if self.bf16 else "float32") + (", channels last" if self.channels_last else "")

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Lays the weights out as this precision wants them; their values and shapes stay. (Module.to refuses channels
        last where there are 3d convolutions, which it does not mean.)"""
        wanted = torch.channels_last if self.channels_last else torch.contiguous_format
        for value in chain(model.parameters(), model.buffers()):
            if value.dim() == 4:
                value.data = value.data.contiguous(memory_format=wanted)
        return model


PRECISIONS = {
    "fp32": Precision(),
    "fp32-channels-last": Precision(channels_last=True),
    "bf16": Precision(bf16=True, channels_last=True),
}
"""By the name that the command line has for it; `choose_precision` tries all of them, the plainest first."""
_ROUNDS = 2
"""Timed steps of each, after one that warms up."""


def find_precision(precision: "Precision | str | None") -> Precision | None:
    """The precision of that name, or the one that is given.

    Raises:
        DetectPruneError: there is none.
    """
    if isinstance(precision, str):
        if precision not in PRECISIONS:
            raise DetectPruneError(f"no precision is called {precision!r}; there are {', '.join(PRECISIONS)}")
        return PRECISIONS[precision]
    return precision


def describe_choice(chosen: str, seconds: dict[str, float]) -> str:
    """What `choose_precision` found, in a sentence: two of nearly the same speed are a matter of luck, and each gives
    other weights in the last digits, so whoever wants to repeat a run has to know which it was."""
    times = ", ".join(f"{name} {time:.3g} s" for name, time in seconds.items())
    return f"a step is fastest in {PRECISIONS[chosen]} ({times}); to repeat it: --precision {chosen}"


def choose_precision(task: Task) -> tuple[str, dict[str, float]]:
    """Times forward, backward and nothing else on one batch for each candidate; the shortest of its times counts.

    The candidates take turns, so that a machine that is busy for a second with something else is unfair to none.

    The model's values and its modes (training or evaluation) are left as they were; its memory format is the chosen
    one's, and there are no gradients.

    Returns:
        The fastest of PRECISIONS, by its name, and the seconds a step for each that fits into memory and in which a
        step does not fail (empty where no batch could be read).

    Raises:
        DetectPruneError: none fits into memory.
        Exception: what a step of plain float32 raises.
    """
    batch = next((batch for batch in task.batches(0, 0) if batch is not None), None)
    if batch is None:
        return "fp32", {}
    model = task.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seconds: dict[str, float] = {}
    with modes_kept(model), random_numbers_kept(task.device):
        model.train()
        fitting = list(PRECISIONS)
        for turn in range(1 + _ROUNDS):
            for candidate in tuple(fitting):
                PRECISIONS[candidate].prepare(model)
                try:
                    with step_within_memory(task):
                        time_taken = _timed_step(task, PRECISIONS[candidate], batch)
                except (DoesNotFit, RuntimeError, TypeError) as error:
                    if isinstance(error, DoesNotFit):
                        too_large = str(error)  # and not the error, which holds on to the memory of the step
                    elif PRECISIONS[candidate] == Precision():
                        raise
                    else:  # the loss of a task may not be one for bf16: it goes through numpy, say
                        warnings.warn(f"{candidate} is left out, for a step fails in it: {error}", Notice, stacklevel=2)
                    fitting.remove(candidate)
                    seconds.pop(candidate, None)
                    continue
                finally:
                    model.zero_grad(set_to_none=True)
                if turn:  # the first one warms up
                    seconds[candidate] = min(time_taken, seconds.get(candidate, math.inf))
    model.load_state_dict(before)
    if not seconds:
        raise DoesNotFit(too_large)
    best = min(seconds, key=seconds.__getitem__)
    PRECISIONS[best].prepare(model)
    return best, seconds


def _timed_step(task: Task, precision: Precision, batch: Any) -> float:
    def synchronise() -> None:
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)

    synchronise()
    start = time.perf_counter()
    with precision.autocast(task.device):
        loss, _ = task.loss(task.model, batch)
    loss.backward()
    synchronise()
    return time.perf_counter() - start
