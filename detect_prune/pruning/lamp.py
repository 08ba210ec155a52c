"""Where LAMP cuts each layer, without sorting any large one (Lee et al. 2021, arXiv 2010.07611, equation 5)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from detect_prune.pruning.chunks import chunks, flat, to_numbers
from detect_prune.pruning.selection import Items, select

TINY = 1e-30
"""Squares and worths are at least so large: zeros would make ties, and divide by nothing."""
_ROUNDING = 1e-12
_SORTED = 1 << 14
"""Layers of as many weights are sorted outright; of a larger one so many are the sample."""
_WIDTH = 4.0
"""Standard deviations that the cut of a layer may be from where the sample says."""


def lamp_worths(weights: Mapping[str, Tensor], keep: float, costs: Mapping[str, float]) -> dict[str, Tensor]:
    """Name -> q of the layer, 0-dimensional, such that q v^2 / c ranks as LAMP does at the cut.

    Args:
        weights: name -> weight, any shape.
        keep: share of all weights, each counted by what it costs, that is going to stay.
        costs: name -> what a weight of the layer costs; 1 where it is not named.
    """
    prices = [costs.get(name, 1.0) for name in weights]
    sizes = [weight.numel() for weight in weights.values()]
    # `keep` was a quotient: the last weight that the budget just pays for must not be lost to its rounding.
    budget = keep * sum(price * size for price, size in zip(prices, sizes)) * (1 + _ROUNDING)
    # A sample says where about each large layer is cut: sorting all of it would take longer than the rest of an
    # update. Then only the weights near the cut are sorted; of the larger ones number and sum are enough.
    steps = [_sampling_step(size) for size in sizes]
    samples = [flat(weight)[::step].float().square() for weight, step in zip(weights.values(), steps)]
    # All layers as one matrix, whose rows are sorted side by side; squares come before the zeros that fill a row.
    rows = nn.utils.rnn.pad_sequence(samples, batch_first=True).sort(descending=True).values
    # Zeros are worth nothing, wherever they come from.
    samples = [row[: max(1, count)] for row, count in zip(rows, rows.count_nonzero(1).tolist())]
    stretches = [_Stretch(sample.double().clamp_(min=TINY)) for sample in samples]
    guesses, share = _lamp_cut(stretches, [step * price for step, price in zip(steps, prices)], budget)
    counts, width = guesses, _WIDTH
    large = {number: weight for number, weight in enumerate(weights.values()) if steps[number] > 1}
    unsure = list(large)
    while unsure:
        for number in unsure:
            stretches[number] = _Stretch.around(large[number], samples[number], guesses[number], width)
        counts, share = _lamp_cut(stretches, prices, budget)
        # What one layer turns out to keep, the others lose: all are looked at again.
        unsure = [number for number in large if stretches[number].misses(counts[number])]
        width *= 8
    q = {}
    for name, price, stretch, count in zip(weights, prices, stretches, counts):
        squares = stretch.squares
        inner = squares[max(count - 1, 0)]
        outer = squares[count] if count < len(squares) else torch.zeros_like(inner)
        # Anything between the last that stays and the first that goes cuts here. What LAMP's own threshold comes to
        # does not jump when two layers change places at it. Near the first that goes, though, q would say how far
        # the penalty has already come with the layer, and not what its weights are worth.
        threshold = share * price * (stretch.sum_above + squares[:count].sum())
        q[name] = (price / threshold.clamp(outer.clamp(min=0.5 * inner), inner)).float()
    return q


@dataclass(frozen=True)
class _Stretch:
    """The weights of a layer among which it may be cut, and what has to be known of the others."""

    squares: Tensor
    """(n,) float64, falling, above zero; n > 0."""
    above: int = 0
    """How many weights are larger."""
    sum_above: float = 0.0
    """The sum of their squares."""
    ends: bool = True
    """Whether no weight is smaller, zeros left aside."""

    @classmethod
    def around(cls, weight: Tensor, sample: Tensor, guess: int, width: float) -> "_Stretch":
        """Looks through the whole layer.

        Args:
            sample: squares of some of its weights, falling.
            guess: so many of the sample are thought to stay.
            width: how far the cut may be away from there, in standard deviations.
        """
        margin = math.ceil(width * math.sqrt(guess + 1))
        upper = float(sample[guess - margin]) if guess >= margin else math.inf
        lower = float(sample[guess + margin]) if guess + margin < len(sample) else 0.0
        above, sum_above, found = 0, 0.0, []
        least = max(lower, torch.finfo(torch.float32).smallest_normal)  # zeros need no order, however many they are
        buffers = room = None
        for (part,) in chunks(weight):
            # New ones for each part would take longer than what is done in them, and leave holes in memory.
            if buffers is None:
                buffers = part.new_empty(2, len(part), dtype=torch.float32)
                room = part.new_empty(len(part), dtype=torch.bool)
            squares, larger = buffers[:, : len(part)]
            squares.copy_(part).square_()
            torch.gt(squares, upper, out=larger)  # as floats, which takes a quarter of the time of a bool's
            above += int(larger.sum())
            sum_above += float(larger.mul_(squares).sum())
            found.append(_at_least(squares.sub_(larger), least, room[: len(part)]))
        squares = torch.cat(found)
        if not len(squares):
            squares = squares.new_zeros(1)
        squares = squares.sort(descending=True).values.double().clamp_(min=TINY)
        return cls(squares, above, sum_above, ends=lower == 0)

    def misses(self, count: int) -> bool:
        """Whether the cut may be elsewhere, if the first `count` seem to stay."""
        return (count == 0 and self.above > 0) or (count == len(self.squares) and not self.ends)


def _at_least(values: Tensor, least: float, room: Tensor) -> Tensor:
    """(n,) the float32 values that are not smaller; `room` is a bool buffer of the values' shape."""
    if values.device.type != "cpu":
        return values[torch.ge(values, least, out=room)]
    # numpy takes a quarter of torch's time for it.
    array = values.numpy()
    return torch.from_numpy(array[np.greater_equal(array, least, out=room.numpy())])


def _lamp_cut(stretches: Sequence[_Stretch], prices: Sequence[float], budget: float) -> tuple[list[int], float]:
    """How many weights of each stretch stay, taken by LAMP's score over price; and the score where it ends."""
    scores = [
        stretch.squares / (stretch.squares.cumsum(0) + stretch.sum_above) / price
        for stretch, price in zip(stretches, prices)
    ]
    # Items are ranked by worth over cost: equal ones leave just the value.
    layers = [Items(each, each.new_tensor(price), price) for each, price in zip(scores, prices)]
    left = budget - sum(price * stretch.above for stretch, price in zip(stretches, prices))
    # The scores fall with the squares, so a mask is a run of ones.
    counts = to_numbers(mask.count_nonzero() for mask in select(layers, max(left, 0.0)).masks)
    last = min(to_numbers(each[count - 1] for each, count in zip(scores, counts) if count), default=0.0)
    first = max(to_numbers(each[count] for each, count in zip(scores, counts) if count < len(each)), default=last)
    return counts, math.sqrt(last * max(first, 0.5 * last))


def _sampling_step(count: int) -> int:
    """At least so large that _SORTED weights are looked at, and without a common factor with their number, or some
    columns of a matrix, or one corner of all kernels, would stand for the rest."""
    step = -(-count // _SORTED)
    while math.gcd(step, count) > 1:
        step += 1
    return step
