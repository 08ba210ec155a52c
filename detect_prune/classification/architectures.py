"""The networks by name, what they want to see, and their trained weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from detect_prune.classification.lenet import LeNet5
from detect_prune.classification.resnet import ResNetCifar
from detect_prune.errors import DetectPruneError


@dataclass(frozen=True)
class Architecture:
    """A network and the pictures that it is made for."""

    build: Callable[[int], nn.Module]
    """Number of classes -> a fresh network."""
    input_shape: tuple[int, int, int]
    """(channels, height, width)."""
    mean: tuple[float, ...]
    """Per channel, of pictures in 0..1."""
    std: tuple[float, ...]

    def prepare(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> float32, less the mean, over the standard deviation."""
        mean, std = (_per_channel(value, pictures.device) for value in (self.mean, self.std))
        return pictures.float().div_(255).sub_(mean).div_(std)


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Sent to a GPU once: sending waits for all that the GPU has to do before it, and can't be captured.
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what the published ResNet weights were trained with
ARCHITECTURES = {
    "lenet5": Architecture(LeNet5, (1, 28, 28), (0.1307,), (0.3081,)),
    **{
        f"resnet{depth}": Architecture(partial(ResNetCifar, depth), (3, 32, 32), *_IMAGENET)
        for depth in (20, 32, 44, 56)
    },
}


def find_architecture(name: str) -> Architecture:
    """The network of that name.

    Raises:
        DetectPruneError: there is none; the message lists the names.
    """
    if name not in ARCHITECTURES:
        raise DetectPruneError(f"no classification network is called {name!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
