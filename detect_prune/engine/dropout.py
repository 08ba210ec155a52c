"""Dropout as a phase asks for it: a network has its dropout built in, and how much of it helps differs by phase."""

import contextlib
from collections.abc import Iterator

from torch import nn

from detect_prune.engine.recipe import Phase
from detect_prune.errors import DetectPruneError


def find_dropouts(model: nn.Module, phase: Phase) -> list[nn.Dropout]:
    """What `phase.dropout` is for: the nn.Dropout modules of the network; none where the phase leaves them as they are.

    Raises:
        DetectPruneError: the network has no dropout that could be set.
    """
    if phase.dropout is None:
        return []
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    if not found:
        raise DetectPruneError(f"the recipe asks for dropout of {phase.dropout:g}, and this network has no nn.Dropout")
    return found


@contextlib.contextmanager
def dropping_out(model: nn.Module, phase: Phase) -> Iterator[None]:
    """Meanwhile the network has the phase's dropout. Raises as `find_dropouts` does."""
    dropouts = find_dropouts(model, phase)
    built = [module.p for module in dropouts]
    try:
        for module in dropouts:
            module.p = phase.dropout
        yield
    finally:
        for module, p in zip(dropouts, built):
            module.p = p
