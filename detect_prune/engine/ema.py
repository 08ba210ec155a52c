"""Exponential moving average of a model's weights and statistics."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """average = d * average + (1 - d) * model after every step, d rising from 0 to `decay`.

    The ramp d = decay * (1 - exp(-step / tau)) keeps the first, bad weights of a short phase out of its result. A
    weight that a mask holds at zero from the start stays exactly zero in the average.

    Args:
        model: whose floating-point parameters and buffers are averaged; whole numbers are copied.
        decay: the final d, below 1.
        steps: length of the phase in steps; sets tau, and limits the window of the average to a tenth of the phase.
    """

    def __init__(self, model: nn.Module, decay: float, steps: int):
        self.decay = min(decay, 1 - 1 / max(2.0, steps / 10))
        self.tau = max(1.0, steps / 50)
        self.step = 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.step += 1
        decay = self.decay * (1 - math.exp(-self.step / self.tau))
        current = model.state_dict()
        floating = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in floating], [current[name] for name in floating], 1 - decay)
        for name, value in current.items():
            if not value.is_floating_point():
                self.average[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for name, value in self.average.items():
            value.copy_(state["average"][name])

    def weights(self) -> dict[str, Tensor]:
        """The averaged state, for `model.load_state_dict`."""
        return self.average
