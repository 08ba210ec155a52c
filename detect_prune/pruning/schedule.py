"""How rho and the ratio grow over the updates."""

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

_SETTLING = 0.9
"""After this share of the updates W is meant to have met Z; the rest lets both settle."""


def whole_updates(updates: int) -> int:
    """The number of updates as Python's own int, which a saved state can hold.

    Raises:
        ValueError: it is no whole number, or less than one.
    """
    if not isinstance(updates, Integral) or updates < 1:
        raise ValueError(f"the updates are a whole number of them, at least one update, not {updates!r}")
    return int(updates)


def is_due(step: int, total: int, times: int) -> bool:
    """Whether something that happens `times` times in `total` steps, at equal distances, does so at the end of this
    step (from 1). The last time is the last step; never more than once a step."""
    return step * times // total > (step - 1) * times // total


def cubic(time: float) -> float:
    """The part of the removal that is asked for at `time`, 0..1: fast first, slow at the end (Zhu and Gupta 2017,
    arXiv 1710.01878, equation 1)."""
    return 1 - (1 - min(max(time, 0.0), 1.0)) ** 3


@dataclass(frozen=True)
class RhoSchedule:
    """The one knob of ADMM that would otherwise have to be tuned for every network.

    Starts rho relative to the loss gradient, or where the ratio grows relative to how far the penalty goes between two
    updates, and lets it grow just fast enough for W to meet Z by the end.

    The updates are divided into stages. Within a stage rho and the worth q stay as they are, so that the dual variable
    means one thing. Between two stages the relative primal residual ||W - Z|| / ||W|| of the worst layer is compared
    with a straight line from where it was when Z was first asked for the whole removal down to `goal` after nine tenths
    of the updates, and rho is multiplied by the factor by which it is too large, at most by `most` and never by less
    than `least`. A network that follows Z willingly thus keeps a small rho, and its loss has more to say about which
    weights stay. The line is straight and not one of equal factors, which would press most of the weights out before
    the others have learnt to do without them. While the ratio grows, so does the residual, whatever rho is: there the
    line only starts after three quarters of the updates, when 98 % of the removal has been asked for, and until then
    the residual is compared with `lag`.
    """

    start: float | None = None
    """First rho; None: `relative_start`, measured, or `effective` where the ratio grows, with SGD or a `decoupled`
    penalty."""
    relative_start: float = 0.1
    """The penalty's gradient, were the whole removal asked for and U zero, is at first so long, relative to the loss
    gradient's (root mean square over the first steps)."""
    stages: int = 20
    """How many at most: between two of them rho and q are chosen anew."""
    goal: float = 0.02
    """The worst layer's relative primal residual after nine tenths of the updates."""
    least: float = 1.0
    most: float = 2.0
    """Bounds of the factor from the rho of one stage to that of the next."""
    effective: float = 0.1
    """Lower limit, from the second stage on, and where the ratio grows the first rho itself: learning rate * rho *
    steps between two updates * (1 - dampening) / (1 - momentum), the share of its way that the penalty alone would move
    W, while it is small. With less, W stands still while U goes on summing it up, and Z wanders. (For optimizers that
    follow the length of the gradient, and for a penalty that is `decoupled`, which knows no momentum.)"""
    stable: float = 0.5
    """Upper limit of learning rate * rho, and in the penalty of learning rate * rho * q: gradient descent on the
    penalty alone diverges above 2."""

    dual_step: float = 1.0
    """gamma, the step length of U = U + gamma * (W - Z). ADMM proper has 1; on a convex problem any above 0 and below
    (1 + sqrt 5) / 2 converges (Glowinski 1984, "Numerical Methods for Nonlinear Variational Problems", chapter VI). A
    weight that has just left Z's support has a U of gamma times itself, so that the penalty aims at -gamma times it:
    with 1 it swings through zero for several updates, and while the ratio grows such weights are many."""
    holds_support: bool = True
    """Whether the penalty also pulls at the weights in Z's support, where Z is not zero, towards the Z - U of the last
    update. Where not, their Z counts as renewed at every step: to W + U, the best that it can be while the support
    stays, so that the penalty's gradient is zero there. What is pulled back to where it was at the last update learns
    more slowly."""

    decoupled: bool = False
    """Whether, with an optimizer whose steps do not follow the length of the gradient (Adam and its like), the penalty
    moves W itself, by learning rate * rho * q (W - Z + U) in each step, as AdamW's weight decay does (Loshchilov and
    Hutter 2019, arXiv 1711.05101), instead of joining the gradient. There it could move a weight by no more than the
    learning rate, however large the weight is."""

    empties_outputs: bool = False
    """Whether an output (a filter, or a row of a linear layer) that has no weight left in Z's support is zero in W and
    U at once, and from then on. Before batch norm a filter does the same however small it is, so that the penalty alone
    would never teach the network to do without it, and the cut would take it away at one blow."""

    lag: float = 0.25
    """While the ratio grows W lags behind Z, whatever rho is; with a larger primal residual than this rho grows."""

    def __post_init__(self) -> None:
        if self.start is not None and not 0 < self.start < math.inf:
            raise ValueError(f"rho must be positive, not {self.start}")
        limits = 1 <= self.least <= self.most and 0 <= self.effective < math.inf and self.stable > 0 and self.lag > 0
        limits = limits and 0 < self.dual_step < 1.618 and isinstance(self.stages, Integral) and self.stages >= 1
        if not limits or not 0 < self.goal < 1 or not 0 < self.relative_start < math.inf:
            raise ValueError(f"this schedule of rho can't be followed: {self}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Real) and not isinstance(value, bool):
                # A saved state holds no numbers of numpy's.
                object.__setattr__(self, field.name, int(value) if field.name == "stages" else float(value))

    @classmethod
    def constant(cls, rho: float) -> "RhoSchedule":
        """The same rho, and the same worth, from the first step to the last, taken as it is: where learning rate * rho
        * q is above 2, gradient descent on the penalty diverges, and what q is only `raw` tells beforehand (1)."""
        return cls(start=float(rho), stages=1, most=1.0, stable=math.inf)

    @classmethod
    def growing(cls) -> "RhoSchedule":
        """The default where the ratio grows: rho grows to bring W to Z only when the removal is nearly complete, so it
        begins large enough for W to follow, and has fewer stages to grow in afterwards. What leaves the support settles
        at zero without a swing, and what stays is free."""
        return cls(effective=1.0, most=4.0, dual_step=0.25, holds_support=False, decoupled=True, empties_outputs=True)

    def ends_stage(self, done: int, updates: int) -> bool:
        """Is the update number `done` (from 1) of `updates` the last of its stage, and another one follows?"""
        return done < updates and is_due(done, updates, min(self.stages, updates))

    def stage_end(self, done: int, updates: int) -> int:
        """The number of the last update of the stage that goes on after `done` of `updates`."""
        return next((later for later in range(done + 1, updates) if self.ends_stage(later, updates)), updates)

    def growth(self, done: int, updates: int, since: int, first: float, now: float) -> float:
        """The factor for rho after `done` of `updates`, where the worst residual was `first` after `since` of them, by
        when nearly all of the removal has been asked for, and is `now`."""
        wanted = self.lag
        if done >= since:
            end = _SETTLING * updates
            left = max(0.0, (end - done) / (end - since))
            wanted = self.goal + max(first - self.goal, 0.0) * left
        return min(max(now / wanted, self.least), self.most)
