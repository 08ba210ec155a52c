"""rho, the weight of the penalty: set from the gradients that are measured and from the optimizer's steps."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from detect_prune.pruning.schedule import RhoSchedule
from detect_prune.pruning.selection import Diverged

_MEASURED_STEPS = 10
"""Steps at the very start over which the loss gradient is measured; the last of them has the penalty already. Where
the ratio grows it is measured up to the first update, since the first Z then asks for next to nothing."""
PRESSING = 0.75
"""Where the ratio grows, rho grows to bring W to Z only after this share of the updates, and by then the worth is that
of the whole removal: until then the residual says how fast the ratio grows. By then the cubic has asked for
98 % of the removal, so that Z still has a third more weights than in the end at 95 % removed, and three times as many
at 99.2 %."""


class Rho:
    """What rho is, and what it becomes, by a RhoSchedule.

    Args:
        schedule: how it starts and grows.
        gradual: whether the ratio grows.
        updates: how many Z and U updates there will be.
    """

    def __init__(self, schedule: RhoSchedule, gradual: bool, updates: int):
        self.schedule, self.gradual, self.updates = schedule, gradual, updates
        self.value: float | None = schedule.start
        """None until it is settled."""
        self.limit: float | None = None
        """Of q in the penalty, from the first penalty on: see `largest_worth`."""
        self.measured = 0
        """Steps whose loss gradients have been measured."""
        self._gradient_square = 0.0
        self._steps = 0
        self._attached_rate = 0.0
        """The learning rate when the optimizer was attached: whoever warms up by hand has not yet begun."""
        self._full_rate = 0.0
        """What a warm-up rises to, by the optimizer's groups at the first step. Saved, since the optimizer of a resumed
        run may have been made with any rate."""
        self._warms_up = False
        """Whether the steps so far, or the first one of a new optimizer, say that there is one."""
        self._peak_rate = 0.0
        self._has_fallen = False
        self._first_residual = 0.0
        self._optimizer: Optimizer | None = None
        self._numbers: list[int] = []
        """Of the optimizer's parameter groups that hold a pruned weight: what else it trains has rates of its own. (Not
        the groups themselves: an optimizer makes new ones where it loads a state.)"""

    def attach(self, optimizer: Optimizer, weights: Iterable[Tensor]) -> None:
        """From now on the steps of this optimizer count.

        Raises:
            ValueError: nothing says how long its steps are.
        """
        pruned = {id(weight) for weight in weights}
        numbers = [
            number
            for number, group in enumerate(optimizer.param_groups)
            if any(id(part) in pruned for part in group["params"])
        ]
        for group in (optimizer.param_groups[number] for number in numbers):
            if "lr" not in group:
                raise ValueError("rho follows the optimizer's learning rate, and its groups have no 'lr'")
            if isinstance(optimizer, torch.optim.SGD) and group["momentum"] >= 1:
                raise ValueError(
                    f"with a momentum of {group['momentum']:g} steps add up without end; below 1 is needed"
                )
        self._optimizer, self._numbers = optimizer, numbers
        self._attached_rate = self._current_rate()
        # torch's schedulers, which alone leave an initial rate, note here that steps were taken. From the first step
        # that ADMM sees it is always so.
        self._had_trained = getattr(optimizer, "_opt_called", False)

    def detach(self) -> None:
        """The optimizer's steps count no more."""
        self._optimizer, self._numbers = None, []

    @property
    def moves_weights(self) -> bool:
        """Whether the penalty moves W itself, beside the optimizer's step, instead of joining the gradient."""
        if self._optimizer is None or isinstance(self._optimizer, torch.optim.SGD):
            return False
        return self.schedule.decoupled

    # ---- before the first penalty

    def take_step(self) -> None:
        """The optimizer is about to take one."""
        rate = self._current_rate()
        if self._steps == 0:
            # max_lr is OneCycleLR's, whose initial_lr is where it begins.
            self._full_rate = max(
                float(group.get("max_lr", group.get("initial_lr", self._attached_rate))) for group in self._groups()
            )
            # The rate of an optimizer that has trained may have fallen before ADMM began. (One that was loaded shows it
            # by its state, which SGD without momentum does not have.)
            state = any(self._optimizer.state.get(part) for group in self._groups() for part in group["params"])
            self._warms_up = not (self._had_trained or state) and rate < self._full_rate
        elif rate > self._peak_rate:
            self._warms_up = True
        self._steps += 1
        self._has_fallen = self._has_fallen or rate < self._peak_rate
        self._peak_rate = max(self._peak_rate, rate)

    def measure(self, gradients: Iterable[Tensor]) -> bool:
        """Sees the loss gradients of a step; whether that was enough to settle rho without an update."""
        if self.value is None and not self._first_effective():
            self._gradient_square += float(sum(gradient.float().square().sum() for gradient in gradients))
        self.measured += 1
        return not self.gradual and self.measured >= _MEASURED_STEPS

    def settle(self, full_pull: Callable[[], float]) -> None:
        """Fixes the first rho, where none was given.

        Args:
            full_pull: the length of the penalty's gradient per rho, were the whole removal asked for now.

        Raises:
            Diverged: the loss gradient is not finite.
        """
        if self.value is None:
            self.value = min(self._first_effective() or self._relative(full_pull), self._stable())

    def _first_effective(self) -> float:
        """The first rho where the steps alone say it; 0 where the loss gradient has to.

        Where the ratio grows they are all those up to the first update, as many as there will be between two. With a
        larger rho, what has just left Z's support would be thrown all the way to -U, beyond zero, before U can tell.
        """
        return self._effective(1) if self.gradual else 0.0

    def _relative(self, full_pull: Callable[[], float]) -> float:
        """The rho that gives the penalty's gradient its length relative to the loss gradient's."""
        push = math.sqrt(self._gradient_square / max(self.measured, 1))
        if not math.isfinite(push):
            raise Diverged("the loss gradient is not finite: rho can't be set from it")
        pull = full_pull()
        # A network that needs no pruning (pull 0) or has no gradient (push 0) still gets a rho that the schedule can
        # multiply.
        return self.schedule.relative_start * push / pull if push > 0 and pull > 0 else 1e-6

    # ---- bounds

    def _groups(self) -> list[dict[str, Any]]:
        return [self._optimizer.param_groups[number] for number in self._numbers]

    def _current_rate(self) -> float:
        return max(float(group["lr"]) for group in self._groups())

    def _rate(self) -> float:
        """The learning rate that rho has to suit: in a warm-up, until the rate falls for the first time, that of its
        end."""
        rate = self._current_rate()
        warms_up = self._warms_up and not self._has_fallen and rate >= self._peak_rate
        return max(rate, self._full_rate) if warms_up else rate

    def _stable(self) -> float:
        """Above this, descent on the penalty alone would swing instead of settle, where q is 1."""
        rate = self._rate() if self._optimizer is not None else 0.0
        return self.schedule.stable / rate if rate > 0 else math.inf

    def _effective(self, done: int) -> float:
        """With this, descent on the penalty alone moves W by a given share of its way between two updates. 0 where the
        steps of the optimizer do not follow the length of the gradient, and the penalty is a part of it."""
        if self.moves_weights:
            momentum = 0.0
        elif isinstance(self._optimizer, torch.optim.SGD):
            momentum = max(group["momentum"] for group in self._groups())
        else:
            return 0.0
        way = self._rate() / (1 - momentum) * self._steps / max(done, 1)
        return self.schedule.effective / way if way > 0 else 0.0

    def largest_worth(self) -> float:
        """The q above which descent on the penalty alone would swing. The penalty goes no further, where the projection
        does: one layer of tiny weights must not make rho tiny for all."""
        return self._stable() / self.value

    def suits_the_rate(self) -> bool:
        """Whether rho and `limit` are small enough for the learning rate as it is; the first time `limit` is set."""
        largest = self.largest_worth()
        if self.limit is None:
            self.limit = largest
        return largest >= self.limit

    def change(self, value: float) -> tuple[float, float]:
        """Another rho, and the limit that goes with it; returns what both were."""
        before = self.value, self.largest_worth() if self.limit is None else self.limit
        self.value = value
        self.limit = self.largest_worth()
        return before

    def lowered(self) -> float:
        """The rho for a rate that has risen again, as with warm restarts."""
        return min(self.value, self._stable())

    # ---- between two stages

    @property
    def first_pressing(self) -> int:
        """The first update after which rho grows to bring W to Z."""
        return math.ceil(PRESSING * self.updates) if self.gradual else 1

    def next(self, done: int, worst: float) -> float:
        """The rho of the next stage.

        Args:
            done: updates so far.
            worst: the primal residual of the worst layer.
        """
        factor = self.schedule.growth(done, self.updates, self.first_pressing, self._first_residual, worst)
        return min(max(factor * self.value, self._effective(done)), self._stable())

    def see_residual(self, done: int, worst: float) -> None:
        """Told of every update, see `next`."""
        if done == self.first_pressing:
            self._first_residual = worst

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "rho": self.value,
            "limit": self.limit,
            "measured": self.measured,
            "gradient_square": self._gradient_square,
            "steps": self._steps,
            "full_rate": self._full_rate,
            "warms_up": self._warms_up,
            "peak_rate": self._peak_rate,
            "has_fallen": self._has_fallen,
            "first_residual": self._first_residual,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where state_dict was called."""
        self.value, self.limit, self.measured = state["rho"], state["limit"], state["measured"]
        self._gradient_square, self._steps = state["gradient_square"], state["steps"]
        self._full_rate, self._warms_up = state["full_rate"], state["warms_up"]
        self._peak_rate, self._has_fallen = state["peak_rate"], state["has_fallen"]
        self._first_residual = state["first_residual"]
