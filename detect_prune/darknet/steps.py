"""The layers of a planned network as plain objects: what each reads, how large its output is, the floats it stores.

plan.py makes them from the sections of a cfg, layers.py has a module for each. Sizes and strides are Darknet's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from detect_prune.darknet.section import Section
from detect_prune.structures import HeadSpec

Size = tuple[int, int]  # (width, height) in pixels of a feature map
PICTURE = -1  # what a step's `sources` call the network's input
MAX_MAP_SIDE = 32_768  # four times the largest input
MAX_MAP_FLOATS = 2**30  # of one layer and picture: 4 GiB; P7 at its own 1536 x 1536 has 94 million


@dataclass(frozen=True, kw_only=True)
class Step:
    """One layer. `sources` are the layers whose outputs it reads, in the order its module takes them."""

    section: Section
    index: int
    sources: tuple[int, ...]
    channels: int
    """Of the output."""
    scale: tuple[Fraction, Fraction]
    """(x, y): pixels of the network's input per pixel of the output; 0 after a global pooling, which has none."""

    @property
    def floats(self) -> int:
        """How many floats the section has in a weights file."""
        return 0

    @property
    def title(self) -> str:
        """What to call the section in a message."""
        return f"[{self.section.name}] at line {self.section.line} (layer {self.index})"

    def size(self, sizes: Sequence[Size]) -> Size:
        """Size of the output, given those of the sources. Raises DetectPruneError where there can be none."""
        return sizes[0]


@dataclass(frozen=True, kw_only=True)
class Convolution(Step):
    in_channels: int
    kernel: int
    stride: tuple[int, int]
    """(x, y)"""
    padding: int
    """On each side, dilation included."""
    dilation: int
    groups: int
    batch_normalize: bool
    activation: str
    blur: int
    """Size of the blur that does the striding instead of the convolution (`antialiasing`); 0 for none."""

    @property
    def floats(self):
        return self.channels * (self.in_channels // self.groups * self.kernel**2 + (4 if self.batch_normalize else 1))

    def size(self, sizes):
        reach = self.dilation * (self.kernel - 1) + 1
        stride = (1, 1) if self.blur else self.stride
        size = tuple((n + 2 * self.padding - reach) // s + 1 for n, s in zip(sizes[0], stride))
        return _blurred(self, size) if self.blur else _positive(self, size)


@dataclass(frozen=True, kw_only=True)
class Pool(Step):
    """[maxpool] and [local_avgpool]: windows that start `padding // 2` before the map, on both axes."""

    kernel: int
    stride: tuple[int, int]
    padding: int
    """In total, as Darknet counts it."""
    average: bool
    blur: int

    def size(self, sizes):
        stride = (1, 1) if self.blur else self.stride
        size = tuple((n + self.padding - self.kernel) // s + 1 for n, s in zip(sizes[0], stride))
        return _blurred(self, size) if self.blur else _positive(self, size)


@dataclass(frozen=True, kw_only=True)
class DepthPool(Step):
    """[maxpool] with maxpool_depth=1: output channel g is the maximum of the channels g, g + `channels`, and so on."""


@dataclass(frozen=True, kw_only=True)
class GlobalAverage(Step):
    def size(self, sizes):
        return (1, 1)


@dataclass(frozen=True, kw_only=True)
class Route(Step):
    groups: int
    group: int


@dataclass(frozen=True, kw_only=True)
class Shortcut(Step):
    """A sum; sources[0] is the layer before. Where the channels differ only the common ones are added."""

    activation: str
    weights: int
    """Weights per source: 0 for none, 1 (`per_feature`, `per_layer`) or the channels (`per_channel`)."""
    normalization: str

    @property
    def floats(self):
        return self.weights * len(self.sources)


@dataclass(frozen=True, kw_only=True)
class Upsample(Step):
    factor: int
    gain: float

    def size(self, sizes):
        return tuple(n * self.factor for n in sizes[0])


@dataclass(frozen=True, kw_only=True)
class Dropout(Step):
    probability: float


@dataclass(frozen=True, kw_only=True)
class Product(Step):
    """[sam] and [scale_channels]: the output of `from` times that of the layer before, which is sources[0]."""

    activation: str
    spread: str
    """`none` (same shape), `channel` (the layer before is 1x1) or `place` (it has one channel)."""

    def size(self, sizes):
        before, other = sizes
        expected = (1, 1) if self.spread == "channel" else other
        if before != expected:
            shown = f"{before[0]}x{before[1]}; expected {expected[0]}x{expected[1]}"
            raise self.section.error(f"[{self.section.name}] multiplies by a map of {shown}")
        return other


@dataclass(frozen=True, kw_only=True)
class Reorg(Step):
    factor: int
    scrambled: bool
    """[reorg], which reads its input as if it had another shape, as against [reorg3d]."""

    def size(self, sizes):
        if any(n % self.factor for n in sizes[0]):
            raise self.section.error(
                f"a map of {sizes[0][0]}x{sizes[0][1]} can't be cut by stride={self.factor}", "stride"
            )
        return tuple(n // self.factor for n in sizes[0])


@dataclass(frozen=True, kw_only=True)
class Head(Step):
    spec: HeadSpec


def plan_sizes(steps: Sequence[Step], input_size: Size) -> list[Size]:
    """(width, height) of every layer's output for an input of that size.

    Raises:
        DetectPruneError: with the line of the section whose maps do not fit together, or grow absurdly large.
    """
    sizes: list[Size] = []
    for step in steps:
        given = [input_size if source == PICTURE else sizes[source] for source in step.sources]
        if len(set(given)) > 1 and not isinstance(step, Product):
            raise step.section.error(_mismatch(step, given, input_size, max_stride(steps)))
        size = step.size(given)
        if max(size) > MAX_MAP_SIDE:
            raise step.section.error(f"this makes a map of {size[0]}x{size[1]}; at most {MAX_MAP_SIDE} is supported")
        if step.channels * size[0] * size[1] > MAX_MAP_FLOATS:
            raise step.section.error(
                f"this makes {step.channels} channels of {size[0]}x{size[1]}; at most {MAX_MAP_FLOATS:,} numbers are "
                "supported"
            )
        sizes.append(size)
    return sizes


def _mismatch(step: Step, given: Sequence[Size], input_size: Size, stride: int) -> str:
    shown = ", ".join(f"{width}x{height}" for width, height in given[:8])
    message = f"[{step.section.name}] joins maps of different sizes ({shown})"
    if any(n % stride for n in input_size):
        return f"{message}; an input of {input_size[0]}x{input_size[1]} is no multiple of the largest stride, {stride}"
    return f"{message}; expected one size"


def max_stride(steps: Sequence[Step]) -> int:
    """The largest stride anywhere in the network: input sizes are multiples of it."""
    return max(-(-scale // 1) for step in steps for scale in step.scale)


def _positive(step: Step, size: Size) -> Size:
    if min(size) < 1:
        raise step.section.error(
            f"nothing is left of the picture after this [{step.section.name}] ({size[0]}x{size[1]}); "
            "expected a larger input"
        )
    return size


def _blurred(step: Convolution | Pool, size: Size) -> Size:
    """Darknet blurs with a 3x3 kernel padded by 1, or with a 2x2 kernel without padding."""
    padding = 2 if step.blur == 3 else 0
    return _positive(
        step, tuple((n + padding - step.blur) // s + 1 for n, s in zip(_positive(step, size), step.stride))
    )
