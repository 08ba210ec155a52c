"""How long an optimizer's steps are, by its learning rate and where that is going."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LearningRate:
    """Watches the rate of the parameter groups that hold certain weights: what else an optimizer trains has rates of
    its own."""

    def __init__(self) -> None:
        self.steps = 0
        """That were taken, a resumed run's before included."""
        self._optimizer: Optimizer | None = None
        self._numbers: list[int] = []
        """Of the groups. (Not the groups themselves: an optimizer makes new ones where it loads a state.)"""
        self._rate_when_attached = 0.0
        """The rate when the optimizer was attached: whoever warms up by hand has not yet begun."""
        self._stepped_before = False
        self._full = 0.0
        """What a warm-up rises to, by the groups at the first step. Saved, since the optimizer of a resumed run may
        have been made with any rate."""
        self._warms_up = False
        """Whether the steps so far, or the first one of a new optimizer, say that there is one."""
        self._peak = 0.0
        self._has_fallen = False

    def attach(self, optimizer: Optimizer, weights: Iterable[Tensor]) -> None:
        """From now on the steps of this optimizer count.

        Raises:
            ValueError: nothing says how long its steps are.
        """
        watched = {id(weight) for weight in weights}
        numbers = [
            number
            for number, group in enumerate(optimizer.param_groups)
            if any(id(part) in watched for part in group["params"])
        ]
        for group in (optimizer.param_groups[number] for number in numbers):
            if group.get("lr") is None:
                raise ValueError("rho follows the optimizer's learning rate, and its groups have no 'lr'")
            if isinstance(optimizer, torch.optim.SGD) and group["momentum"]:
                if group["momentum"] >= 1:
                    raise ValueError(
                        f"with a momentum of {group['momentum']:g} steps add up without end; below 1 is needed"
                    )
                if group["dampening"] >= 1:
                    raise ValueError(
                        f"a dampening of {group['dampening']:g} leaves nothing of a gradient; below 1 is needed"
                    )
        self._optimizer, self._numbers = optimizer, numbers
        self._rate_when_attached = self.now
        # torch's schedulers, which alone leave an initial rate, note here that steps were taken. Asked at the first
        # step, it would always be so.
        self._stepped_before = getattr(optimizer, "_opt_called", False)

    def detach(self) -> None:
        """The optimizer's steps count no more."""
        self._optimizer, self._numbers = None, []

    @property
    def attached(self) -> bool:
        return self._optimizer is not None

    @property
    def drag(self) -> float | None:
        """A steady gradient moves a weight by its length times the rate in each step, divided by this: (1 - momentum) /
        (1 - dampening) with SGD. None where steps do not follow the length of the gradient, as Adam's."""
        if not isinstance(self._optimizer, torch.optim.SGD):
            return None
        # Without momentum torch has no dampening either.
        return min(
            (1 - group["momentum"]) / (1 - group["dampening"]) if group["momentum"] else 1.0 for group in self._groups()
        )

    @property
    def now(self) -> float:
        return max(float(group["lr"]) for group in self._groups())

    @property
    def ahead(self) -> float:
        """In a warm-up, until the rate falls for the first time, that of its end; else that of now."""
        rate = self.now
        warms_up = self._warms_up and not self._has_fallen and rate >= self._peak
        return max(rate, self._full) if warms_up else rate

    def take_step(self) -> None:
        """The optimizer is about to take one."""
        rate = self.now
        if self.steps == 0:
            # max_lr is OneCycleLR's, whose initial_lr is where it begins.
            self._full = max(
                float(group.get("max_lr", group.get("initial_lr", self._rate_when_attached)))
                for group in self._groups()
            )
            self._warms_up = not self._has_trained() and rate < self._full
        elif rate > self._peak:
            self._warms_up = True
        self.steps += 1
        self._has_fallen = self._has_fallen or rate < self._peak
        self._peak = max(self._peak, rate)

    def _has_trained(self) -> bool:
        """Whether the optimizer had before it was attached: then its rate may have fallen. One that was loaded shows it
        by its state, which SGD without momentum does not have, and Adagrad has before its first step."""
        states = [self._optimizer.state.get(part) for group in self._groups() for part in group["params"]]
        return self._stepped_before or any(state and float(state.get("step", 1)) > 0 for state in states)

    def _groups(self) -> list[dict[str, Any]]:
        return [self._optimizer.param_groups[number] for number in self._numbers]

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "steps": self.steps,
            "full_rate": self._full,
            "warms_up": self._warms_up,
            "peak_rate": self._peak,
            "has_fallen": self._has_fallen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where state_dict was called."""
        self.steps, self._full, self._warms_up = state["steps"], state["full_rate"], state["warms_up"]
        self._peak, self._has_fallen = state["peak_rate"], state["has_fallen"]
