"""Darknet in numpy: reads a cfg and a weights file by itself and runs one picture, in float64.

An oracle: it shares no code with the package, knows no plan, and follows the C sources (parser.c and the layer files)
in the plainest way. A layer is a function (options, inputs, weights) -> output; maps are (channels, height, width).
"""

import math
import re
from collections.abc import Callable, Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Map = np.ndarray


def read_sections(text: str) -> list[tuple[str, dict[str, str]]]:
    """[(name, options)]; all blanks go, the first of two options with one name counts."""
    sections = []
    for line in text.split("\n"):
        line = re.sub(r"\s", "", line.split("#")[0])
        if line.startswith("["):
            sections.append((line[1:-1], {}))
        elif line:
            key, value = line.split("=", 1)
            sections[-1][1].setdefault(key, value)
    return sections


class Floats:
    """The floats of a weights file, one run after the other."""

    def __init__(self, data: bytes):
        major, minor, _ = np.frombuffer(data, "<i4", 3)
        self.values = np.frombuffer(data, "<f4", offset=20 if 10 * major + minor >= 2 else 16)
        self.at = 0

    def take(self, *shape: int) -> np.ndarray:
        count = math.prod(shape)
        piece = self.values[self.at : self.at + count].astype(np.float64).reshape(shape)
        self.at += count
        return piece


def run(text: str, data: bytes, picture: Map) -> list[Map]:
    """The raw tensor, (anchors * (5 + classes), h, w), that goes into each [yolo]; the whole file has to be used."""
    floats, maps, heads = Floats(data), [], []
    for index, (name, options) in enumerate(read_sections(text)[1:]):
        before = maps[-1] if maps else picture
        if name == "yolo":
            heads.append(before)
            maps.append(before)
        else:
            maps.append(LAYERS[name](_Options(options, index), before, maps, floats))
    assert floats.at == len(floats.values), f"{len(floats.values) - floats.at} floats are left"
    return heads


class _Options:
    def __init__(self, options: dict[str, str], index: int):
        self.options, self.index = options, index

    def int(self, key: str, default: int = 0) -> int:
        return int(self.options.get(key, default))

    def str(self, key: str, default: str) -> str:
        return self.options.get(key, default)

    def layers(self, key: str) -> Iterator[int]:
        for value in map(int, self.options[key].split(",")):
            yield value if value >= 0 else self.index + value

    def strides(self) -> tuple[int, int]:
        """(y, x)"""
        return self.int("stride_y", self.int("stride", 1)), self.int("stride_x", self.int("stride", 1))


def convolve(x: Map, weights: np.ndarray, strides: tuple[int, int], padding: int, dilation=1, groups=1) -> Map:
    """weights (out, in / groups, k, k); strides (y, x)."""
    reach = dilation * (weights.shape[-1] - 1) + 1
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, (reach, reach), (1, 2))[:, :: strides[0], :: strides[1], ::dilation, ::dilation]
    parts = zip(np.split(weights, groups), np.split(windows, groups))
    return np.concatenate([np.tensordot(w, part, ((1, 2, 3), (0, 3, 4))) for w, part in parts])


def convolutional(options: _Options, x: Map, _maps, floats: Floats) -> Map:
    filters, size, groups = options.int("filters", 1), options.int("size", 1), options.int("groups", 1)
    if options.int("batch_normalize") or options.int("cbn"):
        beta, gamma, mean, variance = floats.take(4, filters, 1, 1)
    else:
        beta, gamma, mean, variance = floats.take(filters, 1, 1), 1, 0, 1 - 1e-5
    weights = floats.take(filters, len(x) // groups, size, size)
    dilation = 1 if size == 1 else options.int("dilation", 1)
    padding = size // 2 if options.int("pad") else options.int("padding")
    blurred = options.int("antialiasing")
    x = convolve(x, weights, (1, 1) if blurred else options.strides(), padding * dilation, dilation, groups)
    x = activate((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, options.str("activation", "logistic"))
    return blur(x, blurred, options.strides()) if blurred else x


def blur(x: Map, antialiasing: int, strides: tuple[int, int]) -> Map:
    row = np.array([1, 1]) / 2 if antialiasing == 2 else np.array([1, 2, 1]) / 4
    weights = np.broadcast_to(np.outer(row, row), (len(x), 1, len(row), len(row)))
    return convolve(x, weights, strides, 0 if antialiasing == 2 else 1, groups=len(x))


def pool(options: _Options, x: Map, function: Callable) -> Map:
    size = options.int("size", options.int("stride", 1))
    padding = options.int("padding", size - 1)
    blurred = options.int("antialiasing")
    strides = (1, 1) if blurred else options.strides()
    low = padding // 2
    rows, columns = ((n + padding - size) // s + 1 for n, s in zip(x.shape[1:], strides))
    # NaN stands for what is outside: functions that skip it see the map only.
    x = np.pad(x, ((0, 0), (low, size + padding), (low, size + padding)), constant_values=np.nan)
    windows = sliding_window_view(x, (size, size), (1, 2))[:, :: strides[0], :: strides[1]]
    x = function(windows[:, :rows, :columns], axis=(3, 4))
    return blur(x, blurred, options.strides()) if blurred else x


def maxpool(options: _Options, x: Map, _maps, _floats) -> Map:
    if options.int("maxpool_depth"):
        out = options.int("out_channels", 1)
        return np.stack([x[first::out].max(0) for first in range(out)])
    return pool(options, x, np.nanmax)


def route(options: _Options, _x, maps: list[Map], _floats) -> Map:
    groups = options.int("groups", 1)
    return np.concatenate(
        [np.split(maps[index], groups)[options.int("group_id")] for index in options.layers("layers")]
    )


def shortcut(options: _Options, x: Map, maps: list[Map], floats: Floats) -> Map:
    inputs = [x, *(maps[index] for index in options.layers("from"))]
    kind, normalization = options.str("weights_type", "none"), options.str("weights_normalization", "none")
    if kind == "none":
        weights = np.ones((len(inputs), len(x)))
    else:
        weights = floats.take(len(inputs), len(x) if kind == "per_channel" else 1)
        if normalization == "softmax":
            weights = np.exp(weights - weights.max(0))
        elif normalization != "none":
            weights = np.maximum(weights, 1e-3)
        if normalization != "none":
            weights = weights / (weights.sum(0) + 1e-4)
        weights = np.broadcast_to(weights, (len(inputs), len(x)))
    total = np.zeros_like(x)
    for row, other in zip(weights, inputs):
        common = min(len(x), len(other))
        total[:common] += row[:common, None, None] * other[:common]
    return activate(total, options.str("activation", "linear"))


def product(options: _Options, x: Map, maps: list[Map], _floats) -> Map:
    (index,) = options.layers("from")
    return activate(x * maps[index], options.str("activation", "linear"))


def upsample(options: _Options, x: Map, _maps, _floats) -> Map:
    factor = options.int("stride", 2)
    return x.repeat(factor, 1).repeat(factor, 2) * float(options.str("scale", "1"))


def reorg3d(options: _Options, x: Map, _maps, _floats) -> Map:
    s = options.int("stride", 1)
    return np.concatenate([x[:, dy::s, dx::s] for dy in range(s) for dx in range(s)])


LAYERS = {
    "convolutional": convolutional,
    "maxpool": maxpool,
    "local_avgpool": lambda options, x, _m, _f: pool(options, x, np.nanmean),
    "avgpool": lambda _o, x, _m, _f: x.mean((1, 2), keepdims=True),
    "route": route,
    "shortcut": shortcut,
    "sam": product,
    "scale_channels": product,
    "upsample": upsample,
    "reorg3d": reorg3d,
    "dropout": lambda _o, x, _m, _f: x,
}


def _logistic(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "swish": lambda x: x * _logistic(x),
    "logistic": _logistic,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_mish": lambda x: np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0)),
    "normalize_channels": lambda x: np.maximum(x, 0) / (np.maximum(x, 0).sum(0) + 1e-4),
    "normalize_channels_softmax": lambda x: np.exp(x) / (np.exp(x).sum(0) + 1e-4),
}


def activate(x: Map, name: str) -> Map:
    return ACTIVATIONS[name](x)
