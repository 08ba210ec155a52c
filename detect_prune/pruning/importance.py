"""What a weight is worth: the q of the norm sum q_i v_i^2 that both the penalty and the projection use.

A convolution before batch normalisation is scale-free: multiplied by 10 it computes the same function. Raw magnitude
would then rank its weights 100 times higher, so raw is a choice and not the default. The others give the same
ranking after such a scaling.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from detect_prune.pruning.selection import flat


class Importance(Protocol):
    """How q follows from the weights (and from gradients, where `observes` says so)."""

    observes: bool

    def observe(self, name: str, gradient: Tensor) -> None:
        """Sees the loss gradient of one layer at one step, before the penalty is added."""
        ...

    def worth(self, name: str, weight: Tensor) -> Tensor:
        """q > 0 of one layer: 0-dimensional, or of the shape of the weight."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Raw:
    """q = 1: plain magnitude, as in the paper (Lee et al. 2023, doi 10.1007/s44196-023-00202-z)."""

    observes = False

    def observe(self, name: str, gradient: Tensor) -> None:
        raise NotImplementedError("this importance needs no gradients")

    def worth(self, name: str, weight: Tensor) -> Tensor:
        return torch.ones((), device=weight.device)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise ValueError(f"this state belongs to another importance: it holds {', '.join(map(str, state))}")


class Normalised(Raw):
    """q = 1 / mean(w^2) of the layer: magnitude relative to the layer's own."""

    def worth(self, name: str, weight: Tensor) -> Tensor:
        return 1 / weight.square().mean().clamp(min=_TINY)


class Lamp(Raw):
    """q = 1 / sum of the not smaller w^2 of the layer (Lee et al. 2021, "Layer-adaptive sparsity", equation 5, arXiv
    2010.07611).

    Equal weights are told apart by their position, so the largest score of each layer is exactly 1.
    """

    def worth(self, name: str, weight: Tensor) -> Tensor:
        ordered, order = flat(weight.square()).sort(descending=True, stable=True)
        sums = ordered.double().cumsum(0).clamp_(min=_TINY)
        q = torch.empty_like(weight)
        flat(q)[order] = (1 / sums).to(q.dtype)
        return q


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

    def observe(self, name: str, gradient: Tensor) -> None:
        square = gradient.detach().float().square()
        if self.per_layer:
            square = square.mean()
        if name in self._mean:
            self._mean[name].lerp_(square, 1 - self.decay)
        else:
            self._mean[name] = square * (1 - self.decay)
        self._steps[name] = self._steps.get(name, 0) + 1

    def worth(self, name: str, weight: Tensor) -> Tensor:
        """Raises ValueError where no gradient has been seen yet."""
        if name not in self._mean:
            raise ValueError(
                f"the Fisher importance of {name} needs gradients: attach it to an optimizer and train first"
            )
        q = self._mean[name] / (1 - self.decay ** self._steps[name])
        return (q + self.damping * q.mean()).clamp_(min=_TINY)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": dict(self._mean), "steps": dict(self._steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._mean = {name: mean.clone() for name, mean in state["mean"].items()}
        self._steps = dict(state["steps"])


_TINY = 1e-30
_KINDS = {
    "raw": Raw,
    "normalised": Normalised,
    "lamp": Lamp,
    "fisher": Fisher,
    "fisher-layer": lambda: Fisher(per_layer=True),
}


def make_importance(kind: "str | Importance") -> Importance:
    """The importance of that name (raw, normalised, lamp, fisher, fisher-layer), or the object itself.

    Raises:
        ValueError: there is none of that name.
    """
    if not isinstance(kind, str):
        return kind
    if kind not in _KINDS:
        raise ValueError(f"no importance is called {kind!r}; there are {', '.join(_KINDS)}")
    return _KINDS[kind]()


@torch.no_grad()
def worths(importance: Importance, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """q for all layers, scaled by one number so that sum q w^2 = sum w^2.

    With this scale rho means the same for every importance: a penalty of rho/2 times the plain squared length of all
    weights would remove them all.
    """
    q = {name: importance.worth(name, weight.detach()) for name, weight in weights.items()}
    plain = weighted = 0.0
    for name, weight in weights.items():
        square = weight.detach().square()
        plain += float(square.sum())
        weighted += float((square * q[name]).sum())
    if not 0 < weighted < float("inf"):
        raise ValueError("all prunable weights are zero, or some are not finite: their worth can't be told")
    return {name: value.mul_(plain / weighted) for name, value in q.items()}
