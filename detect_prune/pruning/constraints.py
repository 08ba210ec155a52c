"""The sets that the weights are projected onto. A set is one small class with one projection: which weights stay?

All of them answer for the norm sum q v^2 of the penalty, so the worth q is handed in with the values. What `select`
chooses among are items: here single weights, in patterns.py blocks of them, each with a value (the length of its
weights) and a cost. A set of whole channels would have coupled channels for items and be no different otherwise.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol

from torch import Tensor

from detect_prune.pruning.ratio import as_ratio, keep_count
from detect_prune.pruning.selection import Items, Selection, select


class Constraint(Protocol):
    """A set S of networks, such that the nearest point of S keeps some weights as they are and zeroes the others.

    Public attributes say how it was set, and stay as they are; a saved state is refused where they differ.
    """

    costs: Mapping[str, float]
    """Name -> what a weight of that layer costs; 1 for every layer that is not named."""

    def keep_share(self, sizes: Mapping[str, int], progress: float = 1.0) -> float:
        """About which share of all weights, each counted by what it costs, stays, 0..1.

        Args:
            sizes: name -> number of weights.
            progress: see `project`.
        """
        ...

    def project(self, values: Mapping[str, Tensor], worth: Mapping[str, Tensor], progress: float = 1.0) -> Selection:
        """Chooses the support of the nearest point of S.

        Args:
            values: name -> v, any shape; the same names in the same order at every call.
            worth: name -> q, 0-dimensional, (n, 1, ...) for each row of v, or of the shape of v.
            progress: the part of the removal that is asked for already, 0..1; with less than 1 the set is larger.

        Returns:
            A mask for each name, in order. The projection is v where the mask is true and 0 elsewhere.

        Raises:
            Diverged: a value is not a number.
            ValueError: the set does not fit the layers.
        """
        ...


def require_constraint(constraint: Constraint) -> Constraint:
    """The constraint itself. Raises ValueError if it is no such object: a ratio, say."""
    if isinstance(constraint, type) or not hasattr(constraint, "project"):
        raise ValueError(f"a constraint was expected, such as make_constraint(model, ratio) gives, not {constraint!r}")
    return constraint


class GlobalBudget:
    """All weights together may cost at most `budget`: sum over kept weights of c_i <= B.

    Args:
        budget: B.
        costs: name -> c of each weight of that layer; 1 for every layer that is not named.
        floor: no layer keeps less than this share of what an even cut would leave it (and never less than one
            weight): keeps layers alive that the ranking would empty. 0 leaves just the one weight.
        layers: names of the layers that the budget is meant for, where it was reckoned from these: it is refused for
            others, which would have to live on it too.

    Raises:
        ValueError: the budget is not finite, a cost is not positive, or the floor is no share.
    """

    def __init__(
        self,
        budget: float,
        costs: Mapping[str, float] | None = None,
        floor: float = 0.0,
        layers: Iterable[str] | None = None,
    ):
        floor = float(floor)
        if not math.isfinite(budget):
            raise ValueError(f"the budget is a finite number, not {budget}")
        if not 0 <= floor <= 1:
            raise ValueError(f"the floor is a share of the even cut, between 0 and 1, not {floor}")
        for name, cost in (costs or {}).items():
            if not 0 < cost < math.inf:
                raise ValueError(f"a weight costs more than nothing, not {cost} as in {name}")
        self.budget = budget
        self.costs = dict(costs or {})
        self.floor = floor
        self._layers = None if layers is None else frozenset(layers)
        # Sums of whole numbers are exact, those of tenths are not: 500 weights at 0.2 would cost more than 100.
        self._unit = _common_unit(self.costs.values())
        self._budget = budget if self._unit == 1 else math.floor(budget * self._unit * (1 + _ROUNDING))

    def _price(self, name: str) -> float:
        """The cost in the unit in which all are whole numbers, as far as there is one."""
        cost = self.costs.get(name, 1.0)
        return cost if self._unit == 1 else round(cost * self._unit)

    def _dense(self, sizes: Mapping[str, int]) -> float:
        return sum(size * self._price(name) for name, size in sizes.items())

    def _allowed(self, sizes: Mapping[str, int], progress: float) -> float:
        """The budget, or as much more as there is while not the whole removal is asked for."""
        return self._budget + (1 - progress) * max(self._dense(sizes) - self._budget, 0.0)

    def keep_share(self, sizes: Mapping[str, int], progress: float = 1.0) -> float:
        """See Constraint: the share of the dense cost that the budget pays for."""
        return min(1.0, self._allowed(sizes, progress) / self._dense(sizes))

    def floors(self, sizes: Mapping[str, int]) -> list[int]:
        """How many weights each layer keeps at least.

        Raises:
            ValueError: the budget does not pay for them: there are more layers than weights that may stay, say. Or
                there are costs of a layer that is not there. Or the budget was made for other layers.
        """
        if self._layers is not None and self._layers != sizes.keys():
            raise ValueError(
                f"this budget was made for {', '.join(sorted(self._layers))}, and not for "
                f"{', '.join(sizes)}: include and exclude have to be the same for both (and of a network that is "
                "wrapped hand over the inside)"
            )
        strangers = self.costs.keys() - sizes.keys()
        if strangers:
            raise ValueError(f"there are costs for {', '.join(sorted(strangers))}, and no such layer is pruned")
        share = self._budget / self._dense(sizes)
        floors = [max(1, math.floor(self.floor * share * size)) for size in sizes.values()]
        needed = sum(floor * self._price(name) for name, floor in zip(sizes, floors))
        if needed > self._budget:
            raise ValueError(
                f"each of the {len(floors)} layers keeps at least one weight, and with the floor of {self.floor:g} all "
                f"together cost {needed / self._unit:g}; the ratio leaves {self.budget:g}, so a smaller one is needed"
            )
        return floors

    def project(self, values: Mapping[str, Tensor], worth: Mapping[str, Tensor], progress: float = 1.0) -> Selection:
        """See Constraint. Raises ValueError as `floors` does, too."""
        layers = [Items(value, worth[name], self._price(name)) for name, value in values.items()]
        sizes = {name: value.numel() for name, value in values.items()}
        return select(layers, self._allowed(sizes, progress), self.floors(sizes))


_ROUNDING = 1e-12
_FINEST = 10**6


def _common_unit(costs: Iterable[float]) -> int:
    """How many of a unit in which all costs are whole numbers make one; 1 where there is none of a sensible size."""
    fractions = [(cost, Fraction(cost).limit_denominator(_FINEST)) for cost in costs]
    unit = math.lcm(*(fraction.denominator for _, fraction in fractions))
    exact = all(abs(float(fraction) - cost) <= _ROUNDING * cost for cost, fraction in fractions)
    return unit if exact and unit <= _FINEST else 1


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
        self.costs: dict[str, float] = {}

    def _keep(self, name: str, size: int, progress: float) -> int:
        ratio = self.ratios[name] if isinstance(self.ratios, dict) else self.ratios
        return size - math.floor(progress * (size - keep_count(size, ratio)))

    def keep_share(self, sizes: Mapping[str, int], progress: float = 1.0) -> float:
        """See Constraint."""
        self._check(sizes)
        return sum(self._keep(name, size, progress) for name, size in sizes.items()) / sum(sizes.values())

    def _check(self, layers: Mapping[str, Any]) -> None:
        if isinstance(self.ratios, dict) and self.ratios.keys() != layers.keys():
            strangers, lacking = self.ratios.keys() - layers.keys(), layers.keys() - self.ratios.keys()
            found = [f"there is no pruned layer {', '.join(sorted(strangers))}"] if strangers else []
            found += [f"{', '.join(sorted(lacking))} is missing"] if lacking else []
            raise ValueError(f"layer-wise ratios must name every pruned layer and no other: {'; '.join(found)}")

    def project(self, values: Mapping[str, Tensor], worth: Mapping[str, Tensor], progress: float = 1.0) -> Selection:
        """See Constraint.

        Raises:
            ValueError: the dictionary of ratios does not name just the layers there are.
        """
        self._check(values)
        masks = []
        for name, value in values.items():
            masks += select([Items(value, worth[name])], self._keep(name, value.numel(), progress)).masks
        return Selection(masks, [])
