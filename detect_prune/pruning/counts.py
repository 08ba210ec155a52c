"""Which weights can be pruned, how many of them stay, and how many multiplications they stand for."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from detect_prune.pruning.selection import is_dense


def matches(name: str, pattern: str) -> bool:
    """Whether a glob pattern means this weight: by its own name (`features.0.weight`) or its layer's (`features.0`)."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def prunable_weights(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """The weights of all convolution and linear layers by parameter name, in the model's order; never a bias, never
    batch norm.

    Args:
        model: any network. A parameter that several layers share counts once, under the first one's name; the pattern
            of any of them means it. One without a number is left out, and so is one that an embedding shares.
        include: glob patterns as `matches` takes them; where given, only layers that match one are taken.
        exclude: glob patterns of layers to leave alone.

    Raises:
        ValueError: nothing is left to prune, a pattern matches no layer or is no list of patterns, or a layer that is
            not excluded computes its weight from other parameters, as weight normalisation does (a zero could not be
            held there), or has one that is lazy, not of floating-point numbers, or not dense in memory; or they lie on
            several devices.
    """
    for patterns in (include, exclude):
        if isinstance(patterns, str):
            raise ValueError(f"a list of patterns was expected, such as [{patterns!r}], not the text {patterns!r}")
    # A weight that is computed is not looked at: doing so computes it anew, and some (spectral normalisation) change
    # with each look.
    found: dict[str, Tensor | None] = {}
    names: dict[str, list[str]] = {}
    first: dict[int, str] = {}
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        name = f"{prefix}.weight" if prefix else "weight"
        weight = None if parametrize.is_parametrized(module, "weight") else module.weight
        if weight is not None and not is_lazy(weight) and weight.numel() == 0:
            continue
        same = first.setdefault(id(module if weight is None else weight), name)
        found.setdefault(same, weight)
        names.setdefault(same, []).append(name)
    if not found:
        raise ValueError("this model has no convolution or linear layer: there is nothing to prune")

    def match(name: str, patterns: Sequence[str]) -> bool:
        return any(matches(each, pattern) for each in names[name] for pattern in patterns)

    for pattern in (*include, *exclude):
        if not any(match(name, [pattern]) for name in found):
            raise ValueError(
                f"the pattern {pattern!r} matches no convolution or linear layer; there are {', '.join(found)}"
            )
    chosen = {
        name: weight
        for name, weight in found.items()
        if (not include or match(name, include)) and not match(name, exclude) and id(weight) not in embedded
    }
    if not chosen:
        raise ValueError("every convolution and linear layer is excluded: there is nothing to prune")
    computed = [name for name, weight in chosen.items() if not isinstance(weight, nn.Parameter)]
    if computed:
        raise ValueError(
            f"{', '.join(computed)} is computed from other parameters (weight normalisation, say) and can't be pruned; "
            "make it a plain parameter (torch.nn.utils has parametrize.remove_parametrizations, remove_weight_norm and "
            "prune.remove), or exclude such layers"
        )
    for name, weight in chosen.items():
        if lack := _unfit(weight):
            raise ValueError(f"{name} can't be pruned: {lack}, or exclude such layers")
    devices = sorted({str(weight.device) for weight in chosen.values()})
    if len(devices) > 1:
        raise ValueError(
            f"the layers lie on {' and '.join(devices)}: all are ranked together, so that one device was expected"
        )
    return chosen


def _unfit(weight: Tensor) -> str:
    """What is wrong with a weight, and what could be done; nothing if it can be ranked, and held at zero."""
    if is_lazy(weight):
        return "it has no shape yet; call the network once before"
    if not weight.is_floating_point() or weight.element_size() < 2:
        return f"its numbers are {weight.dtype}; make them floating-point numbers of 16 bits or more"
    if not is_dense(weight):
        return "it is a view with gaps or overlaps in memory; make it contiguous"
    return ""


def detached(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, outside of any graph."""
    return {name: weight.detach() for name, weight in weights.items()}


def require_trainable(weights: Mapping[str, nn.Parameter]) -> None:
    """ADMM moves the weights that it prunes, so it can't leave a frozen layer as it is.

    Raises:
        ValueError: names the weights that have requires_grad off.
    """
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    if frozen:
        raise ValueError(
            f"{', '.join(frozen)} must not be trained (requires_grad is off), and ADMM moves what it prunes; "
            "exclude such layers from pruning"
        )


def as_ratio(ratio: float | str | Decimal) -> Decimal:
    """A removal ratio as the decimal that was written: 0.29 is 29/100, not the binary fraction next to it.

    Raises:
        ValueError: it is no number strictly between 0 and 1.
    """
    try:
        value = Decimal(str(ratio))
    except InvalidOperation:
        raise ValueError(f"the removal ratio must be a number between 0 and 1, not {ratio!r}") from None
    if not value.is_finite() or not 0 < value < 1:
        raise ValueError(f"the removal ratio must lie strictly between 0 and 1, not {ratio}")
    return value


def keep_count(n: int, ratio: float | str | Decimal) -> int:
    """How many of `n` weights stay at a removal ratio: n - floor(ratio * n), the ratio read as a decimal.

    Raises:
        ValueError: the ratio is no number strictly between 0 and 1.
    """
    return n - math.floor(Fraction(as_ratio(ratio)) * n)


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one layer for one picture."""

    dense: int
    """With every weight."""
    nonzero: int
    """With the non-zero weights only."""


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Gives each module its own mode (training or evaluation) back: a frozen batch norm must stay frozen, which
    `model.train(model.training)` does not see to."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _uncompiled() -> AbstractContextManager:
    """A network that was compiled in place does not call the hooks of its layers, but for this."""
    if "torch._dynamo" not in sys.modules:  # then none was, and to import it takes a second
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def count_macs(model: nn.Module, example_input: Tensor) -> dict[str, Macs]:
    """Multiply-accumulates of every convolution and linear layer that one forward pass uses, per picture.

    A weight works once for every output position (for a transposed convolution: for every input position); padding
    is counted as if it were picture, which is the usual convention. Biases and batch norm are not counted.

    Args:
        model: any network; a layer that is called several times is counted as often.
        example_input: (B, ...) a batch; the figures are divided by B.

    Returns:
        The name of each layer's weight -> its count.

    Raises:
        ValueError: the batch is empty.
    """
    totals: dict[str, Macs] = {}
    names = {module: f"{prefix}.weight" if prefix else "weight" for prefix, module in model.named_modules()}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        # Over a batch of the layer's own, which need not be the network's: that has the regions of each picture, say.
        name, weight, given = names[module], module.weight, inputs[0] if inputs else next(iter(named.values()))
        if weight.numel() == 0:
            return
        if isinstance(module, _ConvTransposeNd):
            positions = given.numel() // module.in_channels
        elif isinstance(module, _ConvNd):
            made = output[0] if isinstance(output, tuple) else output
            positions = made.numel() // module.out_channels
        else:
            positions = given.numel() // module.in_features
        before = totals.get(name, Macs(0, 0))
        kept = int(weight.count_nonzero())
        totals[name] = Macs(before.dense + positions * weight.numel(), before.nonzero + positions * kept)

    pictures = len(example_input)
    if pictures == 0:
        raise ValueError("multiplications are counted over a batch of at least one picture, and this one is empty")
    layers = [module for module in model.modules() if isinstance(module, _ConvNd | nn.Linear)]
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in layers]
    try:
        with modes_kept(model), torch.no_grad(), _uncompiled():
            model.eval()
            model(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: Macs(totals[name].dense // pictures, totals[name].nonzero // pictures)
        for name in names.values()
        if name in totals
    }
