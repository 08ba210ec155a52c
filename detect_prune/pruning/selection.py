"""Exact selection of the best items over many layers, without sorting them and without a copy of them.

The score of a weight is |v| * sqrt(q / c): the same order as q v^2 / c, but without the square, which would
underflow for small weights and make ties of them. Scores are computed chunk by chunk wherever they are needed and
never stored.

(The product is rounded to the weights' own precision: two weights a last bit apart may change places by it.)

The threshold is found as in Floyd and Rivest's SELECT (1975): a small sample brackets it, one pass over everything
counts what lies above either end of the bracket, and only the few scores inside are gathered and sorted. The counts
are exact, so the result is; an unlucky sample costs another pass and nothing else.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detect_prune.pruning.chunks import Diverged, chunks, flat, laid_out_as, magnitude, to_numbers

_SORTABLE = 1 << 19
"""So many scores are sorted outright."""
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Items:
    """A layer's worth of items to select from: its weights, or blocks of them, each by the length of its weights."""

    values: Tensor
    """v, any shape, dense in memory."""
    worth: Tensor
    """q >= 0: 0-dimensional for the whole layer, (n, 1, ...) for each row of `values`, or of the shape of `values`."""
    cost: float = 1.0
    """c > 0 of each item."""

    def __post_init__(self) -> None:
        if self.worth.dim():
            rows = (*self.values.shape[:1], *(1 for _ in self.values.shape[1:]))
            if self.worth.shape not in (self.values.shape, rows):
                raise ValueError(
                    f"a worth of the shape {tuple(self.worth.shape)} for values of {tuple(self.values.shape)}: one for "
                    f"all, {rows} for each row, or one for each was expected"
                )
            object.__setattr__(self, "worth", laid_out_as(self.worth, self.values))

    def scores(self) -> Iterator[Tensor]:
        """|v| sqrt(q / c), (n,) for a stretch of `chunks` at a time, in the order of the memory of `values`."""
        if self.worth.dim() == 0:
            scale = math.sqrt(float(self.worth) / self.cost)
            yield from (magnitude(chunk).mul_(scale) for (chunk,) in chunks(self.values))
        else:
            worths = chunks(self.values, self.worth)
            yield from (magnitude(chunk).mul_((worth / self.cost).sqrt_()) for chunk, worth in worths)

    def thinned(self, step: int) -> "Items":
        """Every `step`-th item."""
        worth = self.worth
        if worth.dim() and worth.shape != self.values.shape:
            places = torch.arange(0, len(self), step, device=worth.device)
            worth = worth.flatten()[places // (len(self) // len(worth))]
        elif worth.dim():
            worth = flat(worth)[::step].contiguous()
        return Items(flat(self.values)[::step].contiguous(), worth, self.cost)

    def __len__(self) -> int:
        return self.values.numel()


@dataclass(frozen=True)
class Selection:
    """Which items were taken."""

    masks: list[Tensor]
    """A bool tensor for each layer, of its shape and memory order."""
    bound: list[int]
    """Indices of the layers that were held at their floor."""

    def named(self, layers: Iterable[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """For layers of these names, in order: name -> mask, and the names of those that were held at their floor."""
        names = list(layers)
        return dict(zip(names, self.masks, strict=True)), tuple(names[i] for i in self.bound)


@torch.no_grad()
def select(layers: Sequence[Items], budget: float, floors: Sequence[int] = ()) -> Selection:
    """Takes the items of highest score, over all layers at once, until the budget is spent.

    With equal costs this is the exact maximum of the sum of q v^2 over all sets of floor(budget / cost) items that
    respect the floors. With unequal costs it is the greedy knapsack, which is within one item of the relaxed
    optimum. Among equal scores the earlier layer, then the earlier position in memory wins, so the number taken is
    exact, ties included.

    Args:
        layers: the layers; all scores must be finite.
        budget: what the taken items may cost together.
        floors: for each layer the number of its own best items that is taken whatever they are worth.

    Raises:
        Diverged: a score is NaN or infinite. Where a sample brackets the threshold, a few may go unnoticed: callers
            make sure of their weights first.
        ValueError: the floors alone cost more than the budget.
    """
    doubles = [layer.values.dtype == torch.float64 for layer in layers]
    if any(doubles) and not all(doubles):  # one threshold for all: it must not be rounded for some
        layers = [Items(layer.values.double(), layer.worth, layer.cost) for layer in layers]
    layers = _with_worths_at_hand(layers)
    floors = list(floors) or [0] * len(layers)
    floors = [min(floor, len(layer)) for floor, layer in zip(floors, layers)]
    needed = sum(floor * layer.cost for floor, layer in zip(floors, layers))
    if needed > budget:
        raise ValueError(f"the floors of the layers alone cost {needed:g}, more than the budget of {budget:g}")
    masks: dict[int, Tensor] = {}
    bound: list[int] = []
    free = list(range(len(layers)))
    # A layer that falls below its floor gets its own best items and leaves the contest. The rest then shares less,
    # so a layer that was below stays below: each round only adds layers, and the last one is the optimum.
    while free:
        taken = _take([layers[i] for i in free], budget)
        held = [(i, mask) for i, mask in zip(free, taken) if floors[i]]
        counts = to_numbers(mask.count_nonzero() for _, mask in held)
        short = [i for (i, _), count in zip(held, counts) if count < floors[i]]
        if not short:
            masks.update(zip(free, taken))
            break
        for i in short:
            whole = Items(layers[i].values, layers[i].worth)
            masks[i] = _take([whole], floors[i])[0]
            budget -= floors[i] * layers[i].cost
            bound.append(i)
        free = [i for i in free if i not in short]
    return Selection([masks[i] for i in range(len(layers))], sorted(bound))


def _with_worths_at_hand(layers: Sequence[Items]) -> list[Items]:
    """The same with the worths of whole layers on the processor, where every pass over the scores asks for them."""
    single = [i for i, layer in enumerate(layers) if layer.worth.dim() == 0]
    worths = dict(zip(single, torch.stack([layers[i].worth for i in single]).cpu() if single else ()))
    return [replace(layer, worth=worths.get(i, layer.worth)) for i, layer in enumerate(layers)]


def _take(layers: Sequence[Items], budget: float) -> list[Tensor]:
    """The masks of the greedy choice, without floors."""
    masks = [torch.empty_like(layer.values, dtype=torch.bool) for layer in layers]
    if sum(len(layer) * layer.cost for layer in layers) <= budget:
        return [mask.fill_(True) for mask in masks]
    threshold, left = _threshold(layers, budget)
    for layer, mask in zip(layers, masks):
        for scores, (part,) in zip(layer.scores(), chunks(mask)):
            torch.gt(scores, threshold, out=part)
            if left >= layer.cost:
                ties = (scores == threshold).nonzero().flatten()[: int(left // layer.cost)]
                part[ties] = True
                left -= len(ties) * layer.cost
    return masks


def _threshold(layers: Sequence[Items], budget: float) -> tuple[float, float]:
    """The score at which the budget runs out, and what is left of it for the items of just this score."""
    # The threshold is at least `low` and below `high`: all from `low` on costs too much, all from `high` on does not.
    low, high = 0.0, math.inf
    n_low, n_high, cost_high = sum(len(layer) for layer in layers), 0, 0.0
    cost_low = sum(len(layer) * layer.cost for layer in layers)
    found = None
    while found is None and n_low - n_high > _SORTABLE:
        share = (budget - cost_high) / (cost_low - cost_high)
        pivots = _bracket(layers, low, high, n_low - n_high, share)
        if not pivots:
            break
        lower, upper = pivots
        counted = _scan(layers, lower, upper)
        if counted.cost_lower <= budget:
            high, n_high, cost_high = lower, counted.n_lower, counted.cost_lower
        elif counted.cost_upper > budget:
            low, n_low, cost_low = upper, counted.n_upper, counted.cost_upper
        else:
            low, n_low, cost_low = lower, counted.n_lower, counted.cost_lower
            high, n_high, cost_high = upper, counted.n_upper, counted.cost_upper
            found = counted.between
        if high <= _next(low, layers):  # only ties are left, however many
            return low, budget - cost_high
    scores, costs = found or _gather(layers, low, high)
    scores, order = scores.sort(descending=True)
    costs = costs[order]
    # All of them fit where the budget differs from their cost by no more than rounding.
    first = min(int((cost_high + costs.cumsum(0) <= budget).count_nonzero()), len(scores) - 1)
    if len(scores) < n_low - n_high:
        raise Diverged("a score is not a number: there are weights or worths that are NaN or infinite")
    threshold = float(scores[first])
    return threshold, budget - cost_high - float(costs[scores > threshold].sum())


def _next(score: float, layers: Sequence[Items]) -> float:
    """The next larger number that a score can be."""
    kind = torch.promote_types(layers[0].values.dtype, torch.float32)
    value = torch.tensor(score, dtype=kind, device="cpu")
    larger = float(value.nextafter(torch.full_like(value, math.inf)))
    # Above zero come the denormal numbers, unless the processor was told to take them for zero.
    return larger if larger > score else torch.finfo(value.dtype).tiny


def _bracket(layers: Sequence[Items], low: float, high: float, inside: int, share: float) -> tuple[float, float] | None:
    """Two scores, above `low` and below `high`, that enclose the wanted one unless the sample is unlucky.

    Args:
        inside: number of scores from `low` to below `high`.
        share: the part of their cost that lies above the wanted score.
    """
    # An odd step, since sizes of kernels and channels are mostly even: the sample must not see one column only.
    step = max(1, inside // _SAMPLE) | 1
    scores, costs = _gather([layer.thinned(step) for layer in layers], low, high)
    if not len(scores):
        return None
    scores, order = scores.sort(descending=True)
    spent = costs[order].cumsum(0)
    middle = int((spent < share * spent[-1]).count_nonzero())
    margin = 2 * math.isqrt(len(scores)) + 1  # four standard deviations of a sample's median
    upper, lower = (float(scores[i]) for i in (max(middle - margin, 0), min(middle + margin, len(scores) - 1)))
    # Never `low` itself, or a mass of ties there would be met again and again; and something must lie between the two.
    lower = max(lower, _next(low, layers))
    return lower, max(upper, _next(lower, layers))


def _gather(layers: Sequence[Items], low: float, high: float) -> tuple[Tensor, Tensor]:
    """(n,) scores from `low` to below `high`, and (n,) float64 what each item costs."""
    scores, costs = [], []
    for layer in layers:
        for chunk in layer.scores():
            found = chunk[(chunk >= low) & (chunk < high)]
            scores.append(found)
            costs.append(torch.full_like(found, layer.cost, dtype=torch.float64))
    return torch.cat(scores), torch.cat(costs)


@dataclass(frozen=True)
class _Counted:
    """What one pass found: number and cost of the items from a lower and from an upper score on."""

    n_lower: int
    cost_lower: float
    n_upper: int
    cost_upper: float
    between: tuple[Tensor, Tensor] | None
    """Scores and costs from lower to below upper, as _gather gives them; None if there are too many to keep."""


def _scan(layers: Sequence[Items], lower: float, upper: float) -> _Counted:
    """Counts both ends of a bracket and gathers what lies between, in one pass."""
    n_lower = n_upper = 0
    cost_lower = cost_upper = 0.0
    scores, costs = [], []
    room = 8 * _SORTABLE
    for layer in layers:
        n_above = torch.zeros((), dtype=torch.int64, device=layer.values.device)
        n_between = 0
        for chunk in layer.scores():
            # Comparisons whose result is a float take a quarter of the time of those that give a bool.
            above = torch.ge(chunk, upper, out=torch.empty_like(chunk))
            n_above += above.sum(dtype=torch.float32).long()
            chunk = torch.addcmul(chunk, chunk, above, value=-1, out=above)  # 0 where it was above
            inside = chunk >= lower
            if room >= 0:
                found = chunk[inside]
                n_between += len(found)
                room -= len(found)
                scores.append(found)
                costs.append(torch.full_like(found, layer.cost, dtype=torch.float64))
            else:
                n_between += int(inside.count_nonzero())
                scores.clear()
                costs.clear()
        n_above = int(n_above)
        n_upper += n_above
        n_lower += n_above + n_between
        cost_upper += n_above * layer.cost
        cost_lower += (n_above + n_between) * layer.cost
    between = (torch.cat(scores), torch.cat(costs)) if room >= 0 else None
    return _Counted(n_lower, cost_lower, n_upper, cost_upper, between)
