"""How many multiplications the weights of a network stand for."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


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
