"""Batch norm: its statistics are measured again, since after a cut the old ones belong to a network that no longer
exists; and several processes on GPUs have them in common."""

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from detect_prune.pruning import modes_kept

STATISTICS_DRAW = 1_000_003
"""Beside the seed, what decides which training pictures batch-norm statistics come from; no epoch has this number."""


def training_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms that take statistics from the pictures they see; frozen ones, in evaluation mode, do not."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return [norm for norm in norms if norm.training]


def running_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Those of them that keep running statistics."""
    return [norm for norm in training_norms(model) if norm.track_running_stats]


def can_reestimate(model: nn.Module) -> bool:
    """Whether the model has running statistics that `reestimate` would measure anew."""
    with modes_kept(model):
        model.train()
        return bool(running_norms(model))


@torch.no_grad()
def reestimate(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Replaces the running mean and variance of the batch norms by their plain average over `inputs`.

    Of those that train, that is: one that stays in evaluation mode when the model is put into training mode (a frozen
    one, in a model whose train() leaves it out) keeps what it has. Only batch norms are in training mode meanwhile
    (dropout stays off), and the weights are not touched.

    Args:
        model: any module; one without batch norm is left as it is.
        inputs: batches (B, ...) on the model's device, each of at least two values per channel.

    Raises:
        ValueError: there are such batch norms and no inputs to measure with; the model is as it was.
    """
    with modes_kept(model):
        model.train()
        norms = training_norms(model)
        if not norms:
            return
        batches = iter(inputs)
        first = next(batches, None)
        if first is None:
            raise ValueError("batch-norm statistics can't be measured without inputs")
        momenta = [norm.momentum for norm in norms]
        model.eval()
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch then keeps the cumulative average instead of an exponential one
                norm.train()
            for batch in chain([first], batches):
                model(batch)
        finally:
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextlib.contextmanager
def synchronised(model: nn.Module, processes: int) -> Iterator[None]:
    """Meanwhile the batch norms of a model on GPUs normalise by the pictures of all processes.

    The modules that stand in for them share their tensors, so nothing that is saved changes, and the model is its old
    self afterwards. On a processor torch has none such: there each process normalises by its own pictures.
    """
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if processes > 1 and _can_synchronise(child)
    ]
    for parent, name, child in places:
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)


def sharing_in_words(model: nn.Module, processes: int) -> str:
    """What a person should know of how so many processes share each batch; nothing where it is one."""
    if processes == 1:
        return ""
    said = f"{processes} processes share each batch"
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
    if all(_can_synchronise(norm) for norm in norms):
        return said
    return (
        f"{said}; each normalises by its own pictures (batch norm is synchronised on GPUs only, and only torch's own), "
        "and the running statistics are averaged"
    )


def _can_synchronise(module: nn.Module) -> bool:
    # A subclass may do otherwise, stay frozen for example, and torch's stand-in would not.
    return type(module) in _BATCH_NORMS and _on_gpu(module)


def _on_gpu(module: nn.Module) -> bool:
    return any(value.is_cuda for value in module.state_dict().values())
