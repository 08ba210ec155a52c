"""The same network, made for use instead of training."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from detect_prune.darknet import Darknet
from detect_prune.darknet.layers import Convolution

# Darknet's activations that oneDNN applies while it writes a convolution's result, and how it calls them.
_ONE_DNN: dict[str, tuple[str, list[float]]] = {
    "linear": ("none", []),
    "leaky": ("leaky_relu", [0.1]),
    "relu": ("relu", []),
    "swish": ("swish", []),
    "logistic": ("sigmoid", []),
}


def inference_copy(model: Darknet) -> Darknet:
    """A copy that gives the same numbers, up to float32's noise, in less time, and can't be trained.

    Batch norms are folded into their convolutions, in float64, as Darknet does before it scores (src/network.c,
    fuse_conv_batchnorm), and the weights lie in channels-last order. On a processor, activations that oneDNN knows are
    part of their convolutions. yolov4-tiny at 416 takes 93 ms of processor time a picture with the first two, 79 ms
    with all three, and 140 ms as it is.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    fuse = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    for index, layer in enumerate(network.layers):
        if isinstance(layer, Convolution):
            if layer.norm is not None:
                _fold(layer)
            if fuse and layer.conv.weight.device.type == "cpu" and layer.activation in _ONE_DNN:
                network.layers[index] = _Fused(layer)
    return network.to(memory_format=torch.channels_last)


def _fold(layer: Convolution) -> None:
    norm, weight = layer.norm, layer.conv.weight
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * factor
    layer.conv.weight = nn.Parameter((weight.double() * factor[:, None, None, None]).to(weight.dtype), False)
    layer.conv.bias = nn.Parameter(bias.to(weight.dtype), False)
    layer.norm = None


class _Fused(nn.Module):
    """Convolution, bias and activation in one call of oneDNN, which writes the map once instead of twice.

    The operator is the one that torch.compile puts here; it has no public name.
    """

    def __init__(self, layer: Convolution):
        super().__init__()
        self.conv, self.blur = layer.conv, layer.blur
        name, numbers = _ONE_DNN[layer.activation]
        self.rest: tuple[Any, ...] = (name, numbers, "")

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        where = (conv.padding, conv.stride, conv.dilation, conv.groups)
        y = torch.ops.mkldnn._convolution_pointwise(x, conv.weight, conv.bias, *where, *self.rest)
        return y if self.blur is None else self.blur(y)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Meanwhile float32 is float32: on a GPU cuDNN's convolutions by default round to TF32's 10 bits of fraction.

    That would move scores in their third digit, and a detection across a threshold. The settings are the process's: of
    several threads the first to come changes them, and the last to go puts them back. (A value that came from
    torch.backends.fp32_precision is then the setting's own, for torch does not say where it came from.)
    """
    global _inside
    with _LOCK:
        if _inside == 0:
            _BEFORE[:] = [_found(read) for read, _, _ in _SETTINGS]
            for _, write, full in _SETTINGS:
                write(full)
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                for (_, write, _), value in zip(_SETTINGS, _BEFORE):
                    if value is not None:
                        write(value)


def _found(read: Callable[[], Any]) -> Any:
    """None where torch can't say, because the setting's newer name was used: that is put back, then."""
    try:
        return read()
    except RuntimeError:
        return None


def _settings() -> Iterator[tuple[Callable[[], Any], Callable[[Any], None], Any]]:
    """What reads a setting, what writes it, and its value for full float32. torch has two names for each, and refuses
    to read the older one where the newer one was set to something else: the older ones come first."""

    def member(place: Any, name: str, full: Any) -> tuple[Callable[[], Any], Callable[[Any], None], Any]:
        return lambda: getattr(place, name), lambda value: setattr(place, name, value), full

    yield member(torch.backends.cudnn, "allow_tf32", False)
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        cudnn, cuda, mkldnn = torch.backends.cudnn, torch.backends.cuda, torch.backends.mkldnn
        for place in (cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul):
            yield member(place, "fp32_precision", "ieee")


_SETTINGS = tuple(_settings())
_LOCK = threading.Lock()
_BEFORE: list[Any] = []
_inside = 0


def to_input(pictures: Tensor, model: nn.Module) -> Tensor:
    """(B, 3, H, W) uint8, or float32 in 0..1 -> in 0..1, on the model's device, in its numbers and memory format."""
    # The two formats of a 1x1 kernel are the same in memory; it takes a larger one to tell.
    telling = next((weight for weight in model.parameters() if weight.dim() == 4 and weight.shape[-1] > 1), None)
    last = telling is not None and telling.is_contiguous(memory_format=torch.channels_last)
    first = next(model.parameters())
    inputs = pictures.to(first.device, non_blocking=True)
    # Bytes are put in order before they become floats of four times the size.
    inputs = inputs.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    return (inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs).to(first.dtype)
