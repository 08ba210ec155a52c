"""How far W and Z are apart: what says whether ADMM has done its work when the cut comes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_GOOD = 0.05
"""Where each layer's primal residual is below this, the cut takes little away that W had not given up already."""
_NAMED = 5
"""Layers that a warning names."""


@dataclass(frozen=True)
class Residuals:
    """How far W and Z are apart after an update, relative to the length of W: per layer and for the whole network.

    Lengths are those of the penalty's norm, sum q v^2, where a layer has more than one q: an output with small weights
    counts for what it is worth, and not for nothing beside one with large weights.
    """

    primal: dict[str, float]
    """||W - Z|| / ||W||."""
    dual: dict[str, float]
    """||Z - previous Z|| / ||W||: the dual residual rho q (Z - previous Z), on the scale of the weights."""
    overall: tuple[float, float]
    """(primal, dual) over all layers together."""
    rho: float
    update: int
    """Number of this update, from 1."""
    kept: dict[str, float]
    """Share of each layer's weights that Z keeps."""
    bound: tuple[str, ...]
    """Layers that the floor kept from losing more."""

    def scalars(self) -> dict[str, float]:
        """What a log should show of the whole network, by name."""
        primal, dual = self.overall
        return {
            "rho": self.rho,
            "primal residual": primal,
            "worst primal residual": self.worst,
            "dual residual": dual,
        }

    def headline(self) -> dict[str, float]:
        """The one figure to watch."""
        return {"residual": self.overall[0]}

    def per_layer(self) -> dict[str, dict[str, float]]:
        """What a log should show of each layer: name of the figure -> layer -> value."""
        return {"kept": self.kept, "primal residual": self.primal, "dual residual": self.dual}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which it can be made again."""
        return asdict(self)

    @property
    def worst(self) -> float:
        """The primal residual of the layer where it is largest."""
        return max(self.primal.values())

    def __str__(self) -> str:
        name = max(self.primal, key=self.primal.__getitem__)
        primal, dual = self.overall
        floor = f", floor binds in {', '.join(self.bound)}" if self.bound else ""
        return (
            f"update {self.update}: rho {self.rho:.3g}, primal {primal:.2%} "
            f"(worst {self.worst:.2%} in {name}), dual {dual:.2%}{floor}"
        )


def residuals_of(
    moves: Mapping[str, Sequence[float]],
    rho: float,
    update: int,
    kept: dict[str, float],
    bound: tuple[str, ...],
) -> Residuals:
    """From squares of lengths: of W - Z, of the way of Z, and of W."""

    def relative(part: float, whole: float) -> float:
        return math.sqrt(part / whole) if whole > 0 else 0.0

    apart, way, length = (sum(move[i] for move in moves.values()) for i in range(3))
    return Residuals(
        primal={name: relative(move[0], move[2]) for name, move in moves.items()},
        dual={name: relative(move[1], move[2]) for name, move in moves.items()},
        overall=(relative(apart, length), relative(way, length)),
        rho=rho,
        update=update,
        kept=kept,
        bound=bound,
    )


def too_early(primal: Mapping[str, float]) -> str:
    """A sentence on the layers where W has not met Z when the cut comes, the worst first; empty where there are none.

    Args:
        primal: by layer, of the last update before the cut.
    """
    apart = sorted((name for name, value in primal.items() if value > _GOOD), key=primal.__getitem__, reverse=True)
    if not apart:
        return ""
    worst = ", ".join(f"{name} ({primal[name]:.2%})" for name in apart[:_NAMED])
    more = f" and {len(apart) - _NAMED} more" if len(apart) > _NAMED else ""
    return (
        f"ADMM had not come to its end at the cut: a residual below {_GOOD:.0%} in each layer makes a good one, and it "
        f"was larger in {worst}{more}. It needs more epochs of ADMM: dozens of steps for each of at least 30 updates."
    )
