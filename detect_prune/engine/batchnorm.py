"""Batch-norm statistics, measured again: after a cut the old ones belong to a network that no longer exists."""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

STATISTICS_DRAW = 1_000_003
"""Beside the seed, what decides which training pictures batch-norm statistics come from; no epoch has this number."""


@torch.no_grad()
def reestimate(model: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Replaces the running mean and variance of every batch norm by their plain average over `inputs`.

    Only the batch norms are in training mode meanwhile (dropout stays off), and the weights are not touched.

    Args:
        model: any module; one without batch norm is left as it is.
        inputs: batches (B, ...) on the model's device, each of at least two values per channel.

    Returns:
        How many batches were used.

    Raises:
        ValueError: there are batch norms and no inputs to measure with; the model is as it was.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return 0
    batches = iter(inputs)
    first = next(batches, None)
    if first is None:
        raise ValueError("batch-norm statistics can't be measured without inputs")
    was_training = model.training
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then keeps the cumulative average instead of an exponential one
        norm.train()
    count = 0
    for batch in chain([first], batches):
        model(batch)
        count += 1
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.train(was_training)
    return count
