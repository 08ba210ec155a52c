"""rho, the weight of the penalty: set from the gradients that are measured and from the optimizer's steps."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from detect_prune.pruning.chunks import Diverged
from detect_prune.pruning.learning_rate import LearningRate
from detect_prune.pruning.schedule import RhoSchedule

_MEASURED_STEPS = 10
"""Steps at the very start over which the loss gradient is measured; the last of them has the penalty already. Where
the ratio grows it is measured up to the first update, since the first Z then asks for next to nothing."""
PRESSES_AFTER = 0.75
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
        self._first_residual = 0.0
        self.rate = LearningRate()
        """Of the optimizer whose steps count."""

    @property
    def moves_weights(self) -> bool:
        """Whether the penalty moves W itself, beside the optimizer's step, instead of joining the gradient."""
        return self.schedule.decoupled and self.rate.attached and self.rate.drag is None

    # ---- before the first penalty

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

    def _stable(self) -> float:
        """Above this, descent on the penalty alone would swing instead of settle, where q is 1."""
        rate = self.rate.ahead if self.rate.attached else 0.0
        return self.schedule.stable / rate if rate > 0 else math.inf

    def _effective(self, done: int) -> float:
        """With this, descent on the penalty alone moves W by a given share of its way between two updates. 0 where the
        steps of the optimizer do not follow the length of the gradient, and the penalty is a part of it."""
        drag = 1.0 if self.moves_weights else self.rate.drag
        if drag is None:
            return 0.0
        way = self.rate.ahead / drag * self.rate.steps / max(done, 1)
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
        return math.ceil(PRESSES_AFTER * self.updates) if self.gradual else 1

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
            "first_residual": self._first_residual,
            **self.rate.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where state_dict was called."""
        self.value, self.limit, self.measured = state["rho"], state["limit"], state["measured"]
        self._gradient_square, self._first_residual = state["gradient_square"], state["first_residual"]
        self.rate.load_state_dict(state)
