"""The sets that the weights are projected onto. A set is one small class with one method: which weights does the
projection keep?

All of them answer for the norm sum q v^2 of the penalty, so the worth q is handed in with the values.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

from torch import Tensor

from detect_prune.pruning.counts import as_ratio, keep_count
from detect_prune.pruning.selection import Items, Selection, select


class Constraint(Protocol):
    """A set S of networks, such that the nearest point of S keeps some weights as they are and zeroes the others."""

    def keep_share(self, sizes: Mapping[str, int]) -> float:
        """About which share of all weights stays, 0..1.

        Args:
            sizes: name -> number of weights.
        """
        ...

    def project(self, values: Mapping[str, Tensor], worth: Mapping[str, Tensor]) -> Selection:
        """Chooses the support of the nearest point of S.

        Args:
            values: name -> v, any shape; the same names in the same order at every call.
            worth: name -> q, 0-dimensional or of the shape of v.

        Returns:
            A mask for each name, in order. The projection is v where the mask is true and 0 elsewhere.
        """
        ...


class GlobalBudget:
    """All weights together may cost at most `budget`: sum over kept weights of c_i <= B.

    Args:
        budget: B.
        costs: name -> c of each weight of that layer; 1 for every layer that is not named.
        floor: no layer keeps less than this share of what an even cut would leave it (and never less than one
            weight): keeps layers alive that the ranking would empty. 0 leaves just the one weight.
    """

    def __init__(self, budget: float, costs: Mapping[str, float] | None = None, floor: float = 0.0):
        if not 0 <= floor <= 1:
            raise ValueError(f"the floor is a share of the even cut, between 0 and 1, not {floor}")
        self.budget = budget
        self.costs = dict(costs or {})
        self.floor = floor

    def keep_share(self, sizes: Mapping[str, int]) -> float:
        """See Constraint: the share of the dense cost that the budget pays for."""
        return min(1.0, self.budget / sum(size * self.costs.get(name, 1.0) for name, size in sizes.items()))

    def floors(self, sizes: Mapping[str, int]) -> list[int]:
        """How many weights each layer keeps at least.

        Raises:
            ValueError: the budget does not pay for them: there are more layers than weights that may stay, say.
        """
        costs = [self.costs.get(name, 1.0) for name in sizes]
        share = self.budget / sum(size * cost for size, cost in zip(sizes.values(), costs))
        floors = [max(1, math.floor(self.floor * share * size)) for size in sizes.values()]
        needed = sum(floor * cost for floor, cost in zip(floors, costs))
        if needed > self.budget:
            raise ValueError(
                f"each of the {len(floors)} layers keeps at least one weight, and with the floor of {self.floor:g} all "
                f"together {needed:g}; the ratio leaves {self.budget:g}, so a smaller one is needed"
            )
        return floors

    def project(self, values: Mapping[str, Tensor], worth: Mapping[str, Tensor]) -> Selection:
        """See Constraint. Raises ValueError as `floors` does."""
        layers = [Items(value, worth[name], self.costs.get(name, 1.0)) for name, value in values.items()]
        return select(layers, self.budget, self.floors({name: value.numel() for name, value in values.items()}))


class LayerwiseRatio:
    """Every layer loses its own share of weights, whatever the others do: the baseline that a global budget has to
    beat.

    Args:
        ratio: one removal ratio for all layers, or name -> ratio.
    """

    def __init__(self, ratio: float | str | Decimal | Mapping[str, float | str | Decimal]):
        self.ratios = (
            {name: as_ratio(r) for name, r in ratio.items()} if isinstance(ratio, Mapping) else as_ratio(ratio)
        )

    def keep_share(self, sizes: Mapping[str, int]) -> float:
        """See Constraint."""
        self._check(sizes)
        kept = sum(keep_count(size, self._ratio(name)) for name, size in sizes.items())
        return kept / sum(sizes.values())

    def _check(self, layers: Mapping[str, Any]) -> None:
        if isinstance(self.ratios, dict) and self.ratios.keys() != layers.keys():
            wrong = sorted(self.ratios.keys() ^ layers.keys())
            raise ValueError(f"layer-wise ratios must name every pruned layer and no other; see {', '.join(wrong)}")

    def _ratio(self, name: str) -> Decimal:
        return self.ratios[name] if isinstance(self.ratios, dict) else self.ratios

    def project(self, values: Mapping[str, Tensor], worth: Mapping[str, Tensor]) -> Selection:
        """See Constraint.

        Raises:
            ValueError: the dictionary of ratios does not name just the layers there are.
        """
        self._check(values)
        masks = []
        for name, value in values.items():
            masks += select([Items(value, worth[name])], keep_count(value.numel(), self._ratio(name))).masks
        return Selection(masks, [])


def global_ratio(sizes: Sequence[int], ratio: float | str | Decimal, floor: float) -> GlobalBudget:
    """The paper's constraint: exactly keep_count(sum(sizes), ratio) weights stay, over all layers at once."""
    return GlobalBudget(keep_count(sum(sizes), ratio), floor=floor)
