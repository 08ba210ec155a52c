"""From one number to the set that is meant: a share of the weights, of the multiplications or of the bytes."""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from torch import Tensor, nn

from detect_prune.pruning.constraints import Constraint, GlobalBudget, LayerwiseRatio, require_constraint
from detect_prune.pruning.macs import count_macs
from detect_prune.pruning.patterns import BlockBudget, NOfM
from detect_prune.pruning.prunable import matches, prunable_weights
from detect_prune.pruning.ratio import keep_count

BUDGETS = ("ratio", "macs", "bytes")
"""What a removal ratio can be a share of: the number of weights, multiply-accumulates, stored bytes."""
DEFAULT_FLOOR = 0.05
"""No layer keeps less than this share of what an even cut would leave it, unless the caller says otherwise."""


def ratio_budget(weights: Mapping[str, Tensor], ratio: float | str | Decimal, floor: float = 0.0) -> GlobalBudget:
    """The paper's constraint: exactly keep_count(all weights, ratio) stay, over all layers at once.

    Args:
        weights: name -> weight of each prunable layer, as `prunable_weights` gives them.
        ratio: removal ratio, read as a decimal.
        floor: see GlobalBudget.
    """
    return GlobalBudget(
        keep_count(sum(weight.numel() for weight in weights.values()), ratio), floor=floor, layers=weights
    )


def one_constraint(
    weights: Mapping[str, Tensor],
    ratio: float | str | Decimal | None,
    constraint: Constraint | None,
    floor: float | None,
    default_floor: float,
) -> Constraint:
    """The constraint, or the one that a removal ratio over all weights means.

    Args:
        floor: of the ratio's constraint; None for `default_floor`.

    Raises:
        ValueError: a bad ratio, both or neither of ratio and constraint, or a floor beside a constraint.
    """
    if (ratio is None) == (constraint is None):
        raise ValueError("give either a removal ratio or a constraint")
    if constraint is None:
        return ratio_budget(weights, ratio, default_floor if floor is None else floor)
    if floor is not None:
        raise ValueError("a floor goes with a removal ratio; a constraint has its own")
    return require_constraint(constraint)


def macs_budget(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    ratio: float | str | Decimal,
    example_input: Tensor,
    floor: float = 0.0,
) -> GlobalBudget:
    """Multiply-accumulates instead of weights: `ratio` of those of the given layers go.

    Args:
        model, example_input: see `count_macs`.
        weights, ratio, floor: see `ratio_budget`.

    Raises:
        ValueError: the network does not call one of the layers for this input.
    """
    costs = macs_per_weight(model, weights, example_input)
    return GlobalBudget(_what_stays(weights, costs, ratio), costs, floor, weights)


def macs_per_weight(model: nn.Module, weights: Mapping[str, Tensor], example_input: Tensor) -> dict[str, int]:
    """Name -> how often each weight of the layer is used for one picture: its number of output positions.

    A weight that several layers share works in all of them.

    Raises:
        ValueError: the network does not call one of the layers for this input.
    """
    counts = count_macs(model, example_input)
    used = dict.fromkeys(weights, 0)
    for name, weight in model.named_parameters(remove_duplicate=False):
        for known, other in weights.items():
            if weight is other and name in counts:
                # What is used once for a whole batch is not free for one picture.
                used[known] += max(1, counts[name].dense // weight.numel())
    idle = [name for name, times in used.items() if times == 0]
    if idle:
        raise ValueError(
            f"no call of the layer of {', '.join(idle)} was seen, so that its multiplications are not known (attention "
            "and torch.nn.functional use weights without calling a layer); exclude such layers from pruning"
        )
    return used


def bytes_budget(
    weights: Mapping[str, Tensor],
    ratio: float | str | Decimal,
    bits: Mapping[str, float] | None = None,
    floor: float = 0.0,
) -> GlobalBudget:
    """Stored bytes instead of weights: `ratio` of what the weights take goes. What says where they lie is not counted.

    For an absolute number of bytes: `GlobalBudget(number, bytes_per_weight(weights, bits))`.

    Args:
        weights, ratio, floor: see `ratio_budget`.
        bits: see `bytes_per_weight`.
    """
    costs = bytes_per_weight(weights, bits)
    return GlobalBudget(_what_stays(weights, costs, ratio), costs, floor, weights)


def _what_stays(weights: Mapping[str, Tensor], costs: Mapping[str, float], ratio: float | str | Decimal) -> float:
    """What is left of the weights' costs at a removal ratio, rounded as `keep_count` rounds, in the largest unit in
    which all costs are whole: where a weight costs the same everywhere, as many stay as by their number (if that cost
    has six decimals at most; else perhaps one less)."""
    exact = {name: Fraction(str(cost)) for name, cost in costs.items()}
    whole = math.lcm(*(cost.denominator for cost in exact.values()))
    unit = Fraction(math.gcd(*(int(cost * whole) for cost in exact.values())), whole)
    dense = sum(int(exact[name] / unit) * weight.numel() for name, weight in weights.items())
    left = keep_count(dense, ratio) * unit
    return int(left) if left.denominator == 1 else float(left)


def bytes_per_weight(weights: Mapping[str, Tensor], bits: Mapping[str, float] | None = None) -> dict[str, float]:
    """Name -> bytes that each weight of the layer is stored in.

    Args:
        bits: glob pattern of layers, by the names in `weights` -> bits a weight; the first that matches counts, and
            a layer that none matches is stored as it is in memory.

    Raises:
        ValueError: a pattern matches no layer, or bits are not positive.
    """
    bits = {pattern: float(number) for pattern, number in (bits or {}).items()}
    for pattern, number in bits.items():
        if not any(matches(name, pattern) for name in weights):
            raise ValueError(f"the pattern {pattern!r} matches no layer that is pruned; there are {', '.join(weights)}")
        if not 0 < number < math.inf:
            raise ValueError(f"a weight is stored in more than 0 bits, not {number} as for {pattern!r}")
    costs = {}
    for name, weight in weights.items():
        found = (number for pattern, number in bits.items() if matches(name, pattern))
        costs[name] = next(found, 8 * weight.element_size()) / 8
    return costs


def make_constraint(
    model: nn.Module,
    ratio: float | str | Decimal | Mapping[str, float | str | Decimal] | None,
    *,
    budget: str = "ratio",
    pattern: str | None = None,
    layerwise: bool = False,
    floor: float | None = None,
    bits: Mapping[str, float] | None = None,
    example_input: Tensor | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Constraint:
    """The set that plain values describe: what a command line says, and what a checkpoint can hold.

    Args:
        model: any network.
        ratio: the share to remove; with `layerwise` also name -> ratio; None for a pattern that removes its own share.
        budget: of what `ratio` is a share: `ratio` (number of weights), `macs`, `bytes`.
        pattern: None for single weights, `N:M`, or `1xN` (blocks of outputs).
        layerwise: the same ratio in every layer instead of one budget for all.
        floor: of a global budget, see GlobalBudget; None for DEFAULT_FLOOR where there is such a budget.
        bits: for `bytes`, see `bytes_per_weight`.
        example_input: for `macs`, see `count_macs`.
        include, exclude: see `prunable_weights`.

    Raises:
        ValueError: these values do not go together, or not with this network.
    """
    weights = prunable_weights(model, include, exclude)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    block, kept = _parse_pattern(pattern)
    if budget not in BUDGETS:
        raise ValueError(f"there is no budget of {budget!r}; there are {', '.join(BUDGETS)}")
    if bits and budget != "bytes":
        raise ValueError(f"bits a weight matter for the budget of bytes, not for that of {budget}")
    if (kept is not None or layerwise) and budget != "ratio":
        raise ValueError(f"a budget of {budget} is shared by all layers; it can't go with a rule for each of them")
    if (kept is not None or layerwise) and floor is not None:
        raise ValueError("a floor is for a budget that all layers share; with a rule for each of them it has no use")
    if kept is not None:
        if ratio is not None or layerwise:
            raise ValueError(f"{pattern} says itself which share of each layer goes: no ratio can be given with it")
        return NOfM(*kept)
    if ratio is None:
        raise ValueError("the removal ratio is missing")
    if layerwise:
        if block != 1:
            raise ValueError("ratios layer by layer are for single weights, not for blocks")
        by_layer = LayerwiseRatio(ratio)
        by_layer.keep_share(sizes)
        return by_layer
    if isinstance(ratio, Mapping):
        raise ValueError("a removal ratio for each layer is for the layer-wise method; a global one takes one number")
    floor = DEFAULT_FLOOR if floor is None else floor
    if budget == "macs":
        if example_input is None:
            raise ValueError("multiplications are counted with an example input, which is missing")
        found = macs_budget(model, weights, ratio, example_input, floor)
    elif budget == "bytes":
        found = bytes_budget(weights, ratio, bits, floor)
    else:
        found = ratio_budget(weights, ratio, floor)
    found.floors(sizes)
    if block == 1:
        return found
    blocks = BlockBudget(found.budget, block, costs=found.costs, floor=floor, layers=weights)
    blocks.block_floors({name: weight.shape for name, weight in weights.items()})
    return blocks


def _parse_pattern(pattern: str | None) -> tuple[int, tuple[int, int] | None]:
    """The length of a block (1 for single weights), and N and M where that is the pattern."""
    if pattern is None:
        return 1, None
    pattern = str(pattern)
    if found := re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern):
        return 1, (int(found[1]), int(found[2]))
    if (found := re.fullmatch(r"1x(\d{1,4})", pattern)) and int(found[1]) > 0:
        return int(found[1]), None
    raise ValueError(f"{pattern!r} is no pattern of zeros; N:M such as 2:4, or 1xN such as 1x4 was expected")
