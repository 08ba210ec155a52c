"""Small networks for the tests of this room."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detect_prune.darknet import Cfg, Darknet, parse_cfg

TAIL = """
[convolutional]
filters=6
size=1
activation=linear

[yolo]
mask=0
anchors=10,14
num=1
classes=1
"""


@pytest.fixture
def small_cfg() -> Callable[..., Cfg]:
    """small_cfg(layers, width, height): a [net], the layers that are given, and a head of one anchor and one class."""

    def make(layers: str, width: int = 12, height: int = 8) -> Cfg:
        return parse_cfg(f"[net]\nwidth={width}\nheight={height}\nchannels=3\n{layers}{TAIL}", "small.cfg")

    return make


@pytest.fixture
def all_maps() -> Callable[[Darknet, Tensor], list[Tensor]]:
    """all_maps(net, x): the output of every layer."""

    def run(net: Darknet, x: Tensor) -> list[Tensor]:
        maps = []
        hooks = [layer.register_forward_hook(lambda _m, _i, out: maps.append(out)) for layer in net.layers]
        with torch.no_grad():
            net(x)
        for hook in hooks:
            hook.remove()
        return maps

    return run


@pytest.fixture
def pictures() -> Callable[..., Tensor]:
    """pictures(count, width, height, seed): (count, 3, height, width) in 0..1, of large patches.

    On plain noise all places look alike to a network, and dividing by so small a spread, batch norm after batch norm,
    would blow up the last bits of float32.
    """

    def make(count: int, width: int, height: int, seed: int = 0) -> Tensor:
        patches = torch.rand(count, 3, 3, 4, generator=torch.Generator().manual_seed(seed))
        return nn.functional.interpolate(patches, (height, width), mode="bilinear")

    return make


@pytest.fixture
def calibrate(pictures) -> Callable[..., Darknet]:
    """calibrate(net): random weights and batch norm with statistics of its own, so that the activations stay near 1."""

    def run(net: Darknet, seed: int = 0, eps: float = 1e-5, count: int = 8) -> Darknet:
        generator = torch.Generator().manual_seed(seed)
        width, height = net.input_size
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=(2 / fan_in) ** 0.5, generator=generator)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.5, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
                module.momentum = None  # the plain average of what has been seen
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
        with torch.no_grad():
            net.train()(pictures(count, width, height, seed))
        return net.eval()

    return run
