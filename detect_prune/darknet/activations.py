"""Darknet's activation functions (its src/activations.h), by the names that a cfg uses."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _hard_mish(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.where(x > -2, x * x / 2 + x, torch.zeros_like(x)))


def _lhtan(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.001 * x, torch.where(x > 1, 0.001 * (x - 1) + 1, x))


def _plse(x: Tensor) -> Tensor:
    return torch.where(x < -4, 0.01 * (x + 4), torch.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def _stair(x: Tensor) -> Tensor:
    whole = x.floor()
    return torch.where(whole % 2 == 0, torch.zeros_like(x), x - whole) + (x / 2).floor()


# The three below go over the channels of each place: (B, C, H, W). The constant is Darknet's.
_CHANNELS_EPS = 1e-4


def _normalize_channels(x: Tensor) -> Tensor:
    x = F.relu(x)
    return x / (x.sum(1, keepdim=True) + _CHANNELS_EPS)


def _softmax_channels(x: Tensor) -> Tensor:
    x = x.exp()
    return x / (x.sum(1, keepdim=True) + _CHANNELS_EPS)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "revleaky": lambda x: F.leaky_relu(x, 0.1),  # differs in Darknet's backward pass only
    "mish": F.mish,
    "swish": F.silu,
    "logistic": torch.sigmoid,
    "relu": F.relu,
    "relu6": F.relu6,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "hard_mish": _hard_mish,
    "tanh": torch.tanh,
    "loggy": lambda x: 2 * torch.sigmoid(x) - 1,
    "relie": lambda x: F.leaky_relu(x, 0.01),
    "ramp": lambda x: F.relu(x) + 0.1 * x,
    "hardtan": F.hardtanh,
    "lhtan": _lhtan,
    "plse": _plse,
    "stair": _stair,
    "normalize_channels": _normalize_channels,
    "normalize_channels_softmax": _softmax_channels,
    "normalize_channels_softmax_maxval": lambda x: _softmax_channels(x - x.amax(1, keepdim=True)),
}
