"""What a weight is worth: the q of the norm sum q_i v_i^2 that both the penalty and the projection use.

A convolution before batch normalisation is scale-free: multiplied by 10 it computes the same function. Raw magnitude
would then rank its weights 100 times higher, so raw is a choice and not the default. The others give the same
ranking after such a scaling.
"""

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from detect_prune.pruning.chunks import Diverged, chunks, require_finite, to_numbers
from detect_prune.pruning.lamp import TINY, lamp_worths
from detect_prune.pruning.prunable import detached


class Unmeasured(ValueError):
    """A layer has had no gradient, from which its worth would be measured."""


class Importance(Protocol):
    """How q follows from the weights (and from gradients, where `observes` says so).

    Public attributes say how it was set, and stay as they are; a saved state is refused where they differ. What it
    learns belongs into others, whose names begin with an underscore, and into `state_dict`.
    """

    observes: bool

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        """Sees the loss gradients of one step, by layer, before the penalty is added."""
        ...

    def worths(
        self, weights: Mapping[str, Tensor], keep: float, costs: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        """q > 0 for each layer: 0-dimensional, (n, 1, ...) for each of its n outputs, or of the shape of its weight.

        Args:
            keep: share of all weights, each counted by what it costs, that is going to stay.
            costs: name -> what a weight of the layer costs; 1 where it is not named.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Raw:
    """q = 1: plain magnitude, as in the paper (Lee et al. 2023, doi 10.1007/s44196-023-00202-z)."""

    observes = False

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        raise NotImplementedError("this importance needs no gradients")

    def worths(
        self, weights: Mapping[str, Tensor], keep: float, costs: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        return {name: torch.ones((), device=weight.device) for name, weight in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise ValueError(f"this state belongs to another importance: it holds {', '.join(map(str, state))}")


class Normalised(Raw):
    """q = 1 / mean(w^2) of the layer: magnitude relative to the layer's own."""

    def worths(
        self, weights: Mapping[str, Tensor], keep: float, costs: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        return {name: 1 / _mean_square(weight).clamp(min=TINY) for name, weight in weights.items()}


class Lamp(Raw):
    """LAMP's ranking: w^2 / sum of the not smaller w^2 of its layer (Lee et al. 2021, arXiv 2010.07611, equation 5).

    Taken literally, q would be many times larger for the weights that stay than for those that go, and the penalty
    would tie them to Z and keep them from learning. Inside a layer LAMP ranks as magnitude does; only how many weights
    each layer keeps is its own. So q is one number a layer, chosen so that the projection of W is the same as with
    LAMP's own scores: one over the square of the weight at which the layer is cut. Where a layer has lost more than the
    others, those that are left are a larger part of it and rise in the ranking: no layer dies. (Weights of one layer
    that are of one size stand or fall together by q, where LAMP's scores, which count them one by one, part them. In a
    network of a few values only, the layers' shares are therefore others than LAMP's, and it takes a floor to keep
    each alive.)

    Where weights cost differently, as in a budget of multiplications, the ranking is that of LAMP's score over cost.
    What is left of the budget when the first weight does not fit may then go to others that do. Blocks of weights are
    ranked by a q that was found for single weights.
    """

    def worths(
        self, weights: Mapping[str, Tensor], keep: float, costs: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        return lamp_worths(weights, keep, costs or {})


class Fisher:
    """q = E[g^2], the diagonal of the empirical Fisher matrix, as a running mean over the steps.

    Args:
        per_layer: one value a layer (its mean) instead of one a weight: far less noisy, and free of charge in memory.
        decay: of the running mean; its start is corrected as Adam's is.
        damping: this share of the layer's mean is added to each value: a weight that has never seen a gradient would
            have no penalty and never move.
    """

    observes = True

    def __init__(self, per_layer: bool = False, decay: float = 0.99, damping: float = 0.1):
        self.per_layer, self.decay, self.damping = per_layer, decay, damping
        self._mean: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        values = detached(gradients)
        if self.per_layer:
            self._learn({name: _mean_square(value) for name, value in values.items()})
        else:  # one after the other: all squares together would be as large as the network
            for name, value in values.items():
                self._learn({name: value.float().square()})

    def _learn(self, squares: Mapping[str, Tensor]) -> None:
        for name, square in squares.items():
            # Means that come from a file are wherever it was read to, until the first gradient is seen.
            self._mean[name] = self._mean[name].to(square) if name in self._mean else torch.zeros_like(square)
            self._steps[name] = self._steps.get(name, 0) + 1
        if squares:
            torch._foreach_lerp_([self._mean[name] for name in squares], list(squares.values()), 1 - self.decay)

    def worths(
        self, weights: Mapping[str, Tensor], keep: float, costs: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        """See Importance; raises Unmeasured where no gradient of a layer has been seen yet."""
        means = self._means(weights)
        return {name: value.add_(self.damping * value.mean()).clamp_(min=TINY) for name, value in means.items()}

    def _means(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        unseen = [name for name in weights if name not in self._mean]
        if unseen:
            raise Unmeasured(
                f"the importance of {', '.join(unseen)} is measured from gradients, and there were none: it wants "
                "steps of an optimizer that ADMM is attached to, or an object that has seen some; a layer that the "
                "network does not use is to be excluded"
            )
        return {
            name: self._mean[name].to(weight.device) / (1 - self.decay ** self._steps[name])
            for name, weight in weights.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {"mean": dict(self._mean), "steps": dict(self._steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._mean = {name: mean.clone() for name, mean in state["mean"].items()}
        self._steps = dict(state["steps"])


class Taylor(Fisher):
    """q = sqrt(E[g^2] / mean(w^2)) of each output: of a filter, or of a row of a linear layer.

    A weight of its filter's usual length is worth |g w|, the first-order Taylor term of what its removal does to the
    loss (Molchanov et al. 2017, arXiv 1611.06440, section 2.2); inside a filter magnitude ranks. It is the geometric
    mean of `normalised` and `fisher-layer`, taken for each filter: batch norm makes each as free of scale as its layer.
    (Outputs are the first dimension of the weight; of a transposed convolution those are its inputs.)
    """

    def __init__(self):
        super().__init__(damping=0.01)

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        """See Importance."""
        self._learn({name: _row_mean_square(value) for name, value in detached(gradients).items()})

    def worths(
        self, weights: Mapping[str, Tensor], keep: float, costs: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        """See Fisher. What is damped is (g w)^2, since g alone is not free of scale."""
        q = {}
        for name, square in self._means(weights).items():
            own = _row_mean_square(weights[name])
            own = torch.where(own > TINY, own, own.mean() + TINY)  # zeros have no scale
            product = square * own
            q[name] = product.add_(self.damping * product.mean()).sqrt_().div_(own).clamp_(min=TINY)
        return q


_KINDS = {
    "raw": Raw,
    "normalised": Normalised,
    "lamp": Lamp,
    "fisher": Fisher,
    "fisher-layer": lambda: Fisher(per_layer=True),
    "taylor": Taylor,
}


def make_importance(kind: "str | Importance") -> Importance:
    """The importance of that name (raw, normalised, lamp, fisher, fisher-layer, taylor), or the object itself.

    Raises:
        ValueError: there is none of that name, or it is no such object.
    """
    if not isinstance(kind, str):
        if isinstance(kind, type) or not hasattr(kind, "worths"):
            raise ValueError(f"the name of an importance, or an object of such a class, was expected, not {kind!r}")
        return kind
    if kind not in _KINDS:
        raise ValueError(f"no importance is called {kind!r}; there are {', '.join(_KINDS)}")
    return _KINDS[kind]()


@torch.no_grad()
def scaled_worths(
    importance: Importance,
    weights: Mapping[str, Tensor],
    keep: float,
    costs: Mapping[str, float] | None = None,
    squares: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """q for all layers, scaled by one number so that sum q w^2 = sum w^2.

    With this scale rho means the same for every importance: a penalty of rho/2 times the plain squared length of all
    weights would remove them all. A layer of zeros (heads begin so) says nothing about the size of its weights: it has
    a q of 1, as with plain magnitude.

    Args:
        keep, costs: see Importance.worths.
        squares: name -> sum of w^2, finite, where the caller knows it already; it takes a pass over all weights.

    Raises:
        Diverged: the weights are all zero, or they or their worths are not finite.
    """
    values = detached(weights)
    if squares is None:
        require_finite(values)
        squares = dict(zip(values, to_numbers(_square(value) for value in values.values())))
    q = dict(importance.worths(values, keep, costs))
    plain = sum(squares.values())
    single = [name for name in values if not q[name].dim()]
    weighted = sum(squares[name] * worth for name, worth in zip(single, to_numbers(q[name] for name in single)))
    weighted += sum(
        to_numbers(
            sum((part.float().square() * worth).sum() for part, worth in chunks(value, q[name]))
            for name, value in values.items()
            if q[name].dim()
        )
    )
    if plain == 0:
        raise Diverged("all prunable weights are zero, or their squares are: none is worth more than another")
    if not (plain < math.inf and 0 < weighted < math.inf):
        raise Diverged("the worth of the weights is not a finite number: weights or gradients have become too large")
    scale = plain / weighted
    # One after the other, so that none is there twice; and not in place, for an importance may keep what it has given.
    return {name: torch.ones_like(q.pop(name)) if not squares[name] else q.pop(name) * scale for name in values}


def _square(value: Tensor) -> Tensor:
    """The sum of squares, at least in float32, without a temporary of the value's size."""
    kind = torch.promote_types(value.dtype, torch.float32)
    return reduce(torch.add, (part.to(kind).square().sum() for (part,) in chunks(value)))


def _row_mean_square(value: Tensor) -> Tensor:
    """(n, 1, ...) the mean square of each row of the first dimension."""
    width = value.numel() // len(value)
    dims = tuple(range(1, value.dim()))
    kind = torch.promote_types(value.dtype, torch.float32)
    return torch.linalg.vector_norm(value, dim=dims, keepdim=True, dtype=kind).square_().div_(width)


def _mean_square(value: Tensor) -> Tensor:
    return _square(value) / value.numel()
