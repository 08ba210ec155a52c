"""Small networks for the tests of this room."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detect_prune.darknet import Cfg, CfgWarning, Darknet, load_cfg, parse_cfg
from detect_prune.darknet.layers import Shortcut
from detect_prune.resources import packaged_folder

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
    """calibrate(net): random weights and batch norm with statistics of its own, so that the activations stay near 1.

    Batch norm's beta is positive, which keeps most units on the steep side of their activation. A random network is
    then nearly linear and hands rounding errors on as they are; around zero it would be chaotic, and a hundred layers
    would make a thousand times as much of the last bit.
    """

    def run(net: Darknet, seed: int = 0, eps: float = 1e-5, count: int = 8) -> Darknet:
        generator = torch.Generator().manual_seed(seed)
        width, height = net.input_size
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.5, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = eps
                module.momentum = None  # the plain average of what has been seen
                nn.init.uniform_(module.weight, 0.5, 1, generator=generator)
                nn.init.uniform_(module.bias, 0, 1.5, generator=generator)
            elif isinstance(module, Shortcut) and module.weights is not None:
                nn.init.uniform_(module.weights, 0.2, 1, generator=generator)
        with torch.no_grad():
            net.train()(pictures(count, width, height, seed))
        return net.eval()

    return run


@pytest.fixture
def unfilled(monkeypatch):
    """Networks get no first weights: the test overwrites them, and the largest have 280 million."""
    for name in ("kaiming_normal_", "normal_"):
        draw = getattr(nn.init, name)
        # Only the layers' own calls go without a generator.
        monkeypatch.setattr(nn.init, name, lambda t, *a, _draw=draw, **k: _draw(t, *a, **k) if "generator" in k else t)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that goes with the test: pytest would keep gigabytes of weights files of its last three runs."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def official_cfg(request) -> Callable[[str], Cfg]:
    """official_cfg(name): from cfg/ where that has the network, else from the real data."""

    def load(name: str) -> Cfg:
        shipped = packaged_folder("cfg") / name
        folder = shipped.parent if shipped.exists() else request.getfixturevalue("real_data") / "darknet/cfg"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CfgWarning)
            return load_cfg(folder / name)

    return load
