"""Weight decay beside ADMM."""

from typing import Any

from torch import nn

from detect_prune.pruning.admm import GlobalADMM


def parameter_groups(model: nn.Module, weight_decay: float, admm: GlobalADMM | None = None) -> list[dict[str, Any]]:
    """Groups for an optimizer: weight decay where a parameter has two or more dimensions, so for no bias or batch norm.

    Args:
        admm: where given, the weights that it holds get no decay either: decay pulls the weights that stay away from Z
            while the penalty pulls them back.

    Returns:
        Three groups: weights with decay, weights that ADMM holds, all one-dimensional parameters.
    """
    held = {id(weight) for weight in admm.weights.values()} if admm is not None else set()
    decayed, free, vectors = [], [], []
    for parameter in model.parameters():
        (free if id(parameter) in held else decayed if parameter.dim() > 1 else vectors).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
        {"params": vectors, "weight_decay": 0.0},
    ]
