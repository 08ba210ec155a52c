"""The networks by name, what they want to see, and their trained weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from detect_prune.classification.lenet import LeNet5
from detect_prune.classification.resnet import ResNetCifar
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_tensors


@dataclass(frozen=True)
class Architecture:
    """A network and the pictures that it is made for."""

    name: str
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
    "lenet5": Architecture("lenet5", LeNet5, (1, 28, 28), (0.1307,), (0.3081,)),
    **{
        f"resnet{depth}": Architecture(f"resnet{depth}", partial(ResNetCifar, depth), (3, 32, 32), *_IMAGENET)
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


def load_pretrained(model: nn.Module, path: str | Path) -> None:
    """Loads a checkpoint of plain tensors: a state_dict, or a dict with one under `state_dict` or `model`.

    Names may carry the `module.` that DataParallel puts before them, as in akamaster's .th files.

    Raises:
        DetectPruneError: the file is missing, is no such checkpoint, or belongs to another network.
    """
    path = Path(path)
    state = read_tensors(path, "checkpoint of plain tensors (.pt or .th)")
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DetectPruneError("holds no state_dict of tensors", file=path)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    own = model.state_dict()
    # Older checkpoints lack batch norm's count of batches, which plays no part in what the network computes.
    state = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")} | state
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    wrong += [name for name in state if name not in own]
    if wrong:
        raise DetectPruneError(
            f"these weights belong to another network: {wrong[0]} differs or is on one side only ({len(wrong)} such)",
            file=path,
        )
    model.load_state_dict(state)
