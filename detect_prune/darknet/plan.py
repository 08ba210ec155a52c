"""What the sections of a cfg mean together: who reads whose output, how many channels, which sizes, how many floats.

The plan is made of plain objects and allocates no weights, so that a cfg that makes no sense, or that asks for an absurd
network, is refused with its line before any memory is taken. Each section becomes a `Step`; layers.py has a module for each.
Behaviour and defaults are those of AlexeyAB/darknet, src/parser.c and the layer files that it calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from detect_prune.darknet.activations import ACTIVATIONS
from detect_prune.darknet.cfg import Cfg, Section
from detect_prune.darknet.heads import read_head
from detect_prune.darknet.keys import REFUSED_KEYS
from detect_prune.errors import DetectPruneError
from detect_prune.structures import HeadSpec

Size = tuple[int, int]  # (width, height) in pixels of a feature map
PICTURE = -1  # what a step's `sources` call the network's input

MAX_CHANNELS = 65_536
MAX_KERNEL = 255
MAX_FLOATS = 500_000_000  # the largest official network, P7, has 290 million


@dataclass(frozen=True, kw_only=True)
class Step:
    """One layer. `sources` are the layers whose outputs it reads, in the order its module takes them."""

    section: Section
    index: int
    sources: tuple[int, ...]
    channels: int
    """Of the output."""
    scale: tuple[Fraction, Fraction]
    """(x, y): pixels of the network's input per pixel of the output; 0 after a global pooling, which has no such figure."""

    @property
    def floats(self) -> int:
        """How many floats the section has in a weights file."""
        return 0

    @property
    def title(self) -> str:
        """What to call the section in a message."""
        return f"[{self.section.name}] at line {self.section.line} (layer {self.index})"

    def size(self, sizes: Sequence[Size]) -> Size:
        """Size of the output, given those of the sources. Raises DetectPruneError where they do not fit together."""
        if any(size != sizes[0] for size in sizes):
            shown = ", ".join(f"{width}x{height}" for width, height in sizes)
            raise self.section.error(f"[{self.section.name}] joins maps of different sizes ({shown}); "
                                     "expected one size: is the input a multiple of the largest stride?")
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
    """[maxpool] with maxpool_depth=1: the maximum over every `channels`-th channel."""


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
            raise self.section.error(f"[{self.section.name}] multiplies by a map of {before[0]}x{before[1]}; expected {expected[0]}x{expected[1]}")
        return other


@dataclass(frozen=True, kw_only=True)
class Reorg(Step):
    factor: int
    scrambled: bool
    """[reorg], which reads its input as if it had another shape, as against [reorg3d]."""

    def size(self, sizes):
        if any(n % self.factor for n in sizes[0]):
            raise self.section.error(f"a map of {sizes[0][0]}x{sizes[0][1]} can't be cut by stride={self.factor}", "stride")
        return tuple(n // self.factor for n in sizes[0])


@dataclass(frozen=True, kw_only=True)
class Head(Step):
    spec: HeadSpec


def plan_network(cfg: Cfg) -> tuple[Step, ...]:
    """Works out every layer of `cfg`, and that the sizes fit together for the cfg's own input size.

    Raises:
        DetectPruneError: with file and line, wherever the network can't be built as it is written.
    """
    cfg.net.int("channels", 3, low=3, high=3)
    steps: list[Step] = []
    floats = 0
    for index, section in enumerate(cfg.layers):
        step = _READERS[section.name](section, index, steps)
        floats += step.floats
        if floats > MAX_FLOATS:
            raise section.error(f"with this section the network has {floats:,} weights; at most {MAX_FLOATS:,} are supported")
        steps.append(step)
    if not any(isinstance(step, Head) for step in steps):
        raise DetectPruneError("the network has no [yolo] section; expected a detector with at least one", file=cfg.path)
    counts = {step.spec.classes: step for step in steps if isinstance(step, Head)}
    if len(counts) > 1:
        (a, first), (b, second) = list(counts.items())[:2]
        raise second.section.error(f"classes={b}, but the [yolo] at line {first.section.line} has {a}", "classes")
    plan_sizes(steps, cfg.input_size)
    return tuple(steps)


def plan_sizes(steps: Sequence[Step], input_size: Size) -> list[Size]:
    """(width, height) of every layer's output for an input of that size. Raises DetectPruneError where they do not fit."""
    sizes: list[Size] = []
    for step in steps:
        sizes.append(step.size([input_size if source == PICTURE else sizes[source] for source in step.sources]))
    return sizes


def max_stride(steps: Sequence[Step]) -> int:
    """The largest stride anywhere in the network: input sizes are multiples of it."""
    return max(-(-scale // 1) for step in steps for scale in step.scale)


def _positive(step: Step, size: Size) -> Size:
    if min(size) < 1:
        raise step.section.error(f"nothing is left of the picture after this [{step.section.name}] ({size[0]}x{size[1]}); "
                                 "expected a larger input")
    return size


def _blurred(step: Convolution | Pool, size: Size) -> Size:
    """Darknet blurs with a 3x3 kernel padded by 1, or with a 2x2 kernel without padding."""
    padding = 2 if step.blur == 3 else 0
    return _positive(step, tuple((n + padding - step.blur) // s + 1 for n, s in zip(_positive(step, size), step.stride)))


# --- one reader a section: (section, index, the steps before) -> Step ---------------------------------------------------


def _channels(steps: list[Step], source: int) -> int:
    return 3 if source == PICTURE else steps[source].channels


def _scale(steps: list[Step], source: int) -> tuple[Fraction, Fraction]:
    return (Fraction(1), Fraction(1)) if source == PICTURE else steps[source].scale


def _scaled(scale, by) -> tuple[Fraction, Fraction]:
    return tuple(a * Fraction(b) for a, b in zip(scale, by))


def _before(section: Section, index: int, steps: list[Step]) -> int:
    """The layer before, which a section reads if it does not name others."""
    return _readable(section, index - 1, steps, None)


def _named(section: Section, key: str, index: int, steps: list[Step], value: int) -> int:
    """The layer that `value` of `key` means: absolute from 0 on, relative if negative."""
    source = value if value >= 0 else index + value
    if not 0 <= source < index:
        what = f"layer {source}" if source >= 0 else f"{-source} before the first layer"
        raise section.error(f"{key}={value} means {what}, but this is layer {index}; expected a layer before it", key)
    return _readable(section, source, steps, key)


def _readable(section: Section, source: int, steps: list[Step], key: str | None) -> int:
    if source != PICTURE and isinstance(steps[source], Head):
        line = steps[source].section.line
        raise section.error(f"[{section.name}] reads the output of the [yolo] at line {line}; expected another layer", key)
    return source


def _activation(section: Section, default: str) -> str:
    return section.str("activation", default, tuple(ACTIVATIONS))


def _stride(section: Section) -> tuple[int, int]:
    both = section.int("stride", 1, low=1, high=MAX_KERNEL)
    # Darknet takes a stride_x below 1 for one that is not given.
    x, y = (section.int(key, both, high=MAX_KERNEL) for key in ("stride_x", "stride_y"))
    return (x if x > 0 else both, y if y > 0 else both)


def _blur(section: Section) -> int:
    return {0: 0, 1: 3, 2: 2}[section.int("antialiasing", 0, low=0, high=2)]


def _convolutional(section, index, steps):
    for key in REFUSED_KEYS:
        if key in section and (section.int(key) != 0 or key == "share_index"):
            raise section.error(f"{key}={section.int(key)} in a [convolutional] is not supported", key)
    source = _before(section, index, steps)
    in_channels = _channels(steps, source)
    filters = section.int("filters", low=1, high=MAX_CHANNELS)
    kernel = section.int("size", 1, low=1, high=MAX_KERNEL)
    groups = section.int("groups", 1, low=1)
    if in_channels % groups or filters % groups:
        raise section.error(f"groups={groups} does not divide the {in_channels} channels that come in and filters={filters}", "groups")
    # Darknet ignores the dilation of a 1x1 convolution, and multiplies the padding by it (im2col_cpu_ext).
    dilation = section.int("dilation", 1, low=1, high=MAX_KERNEL) if kernel > 1 else 1
    padding = kernel // 2 if section.int("pad", 0) else section.int("padding", 0, low=0, high=MAX_KERNEL)
    stride = _stride(section)
    return Convolution(
        section=section, index=index, sources=(source,), channels=filters, scale=_scaled(_scale(steps, source), stride),
        in_channels=in_channels, kernel=kernel, stride=stride, padding=padding * dilation, dilation=dilation, groups=groups,
        batch_normalize=section.int("batch_normalize", 0) != 0, activation=_activation(section, "logistic"), blur=_blur(section),
    )


def _pool(section, index, steps):
    source = _before(section, index, steps)
    average = section.name == "local_avgpool"
    if not average and section.int("maxpool_depth", 0):
        channels, out = _channels(steps, source), section.int("out_channels", 1, low=1)
        if channels % out:
            raise section.error(f"out_channels={out} does not divide the {channels} channels that come in", "out_channels")
        return DepthPool(section=section, index=index, sources=(source,), channels=out, scale=_scale(steps, source))
    kernel = section.int("size", section.int("stride", 1), low=1, high=MAX_KERNEL)
    stride = _stride(section)
    return Pool(
        section=section, index=index, sources=(source,), channels=_channels(steps, source),
        scale=_scaled(_scale(steps, source), stride), kernel=kernel, stride=stride,
        # Beyond twice the window there would be outputs that see nothing but padding.
        padding=section.int("padding", kernel - 1, low=0, high=2 * (kernel - 1)), average=average, blur=0 if average else _blur(section),
    )


def _avgpool(section, index, steps):
    source = _before(section, index, steps)
    return GlobalAverage(section=section, index=index, sources=(source,), channels=_channels(steps, source), scale=(Fraction(0), Fraction(0)))


def _route(section, index, steps):
    sources = tuple(_named(section, "layers", index, steps, value) for value in section.ints("layers"))
    groups = section.int("groups", 1, low=1)
    group = section.int("group_id", 0, low=0, high=groups - 1)
    channels = [_channels(steps, source) for source in sources]
    if any(c % groups for c in channels):
        raise section.error(f"groups={groups} does not divide the {'+'.join(map(str, channels))} channels that come in", "groups")
    if sum(channels) // groups > MAX_CHANNELS:
        raise section.error(f"this joins {sum(channels)} channels; at most {MAX_CHANNELS} are supported", "layers")
    return Route(
        section=section, index=index, sources=sources, channels=sum(channels) // groups, scale=_scale(steps, sources[0]),
        groups=groups, group=group,
    )


def _shortcut(section, index, steps):
    before = _before(section, index, steps)
    others = tuple(_named(section, "from", index, steps, value) for value in section.ints("from"))
    channels = _channels(steps, before)
    kind = section.str("weights_type", "none", ("none", "per_feature", "per_layer", "per_channel"))
    normalization = section.str("weights_normalization", "none", ("none", "relu", "avg_relu", "softmax"))
    return Shortcut(
        section=section, index=index, sources=(before, *others), channels=channels, scale=_scale(steps, before),
        activation=_activation(section, "linear"),
        weights={"none": 0, "per_feature": 1, "per_layer": 1, "per_channel": channels}[kind],
        normalization="relu" if normalization == "avg_relu" else normalization,
    )


def _upsample(section, index, steps):
    source = _before(section, index, steps)
    factor = section.int("stride", 2, low=1, high=64)
    return Upsample(
        section=section, index=index, sources=(source,), channels=_channels(steps, source),
        scale=_scaled(_scale(steps, source), (Fraction(1, factor),) * 2), factor=factor, gain=section.float("scale", 1.0),
    )


def _dropout(section, index, steps):
    source = _before(section, index, steps)
    return Dropout(
        section=section, index=index, sources=(source,), channels=_channels(steps, source), scale=_scale(steps, source),
        probability=section.float("probability", 0.2, low=0.0, high=1.0),
    )


def _product(section, index, steps):
    before = _before(section, index, steps)
    other = _named(section, "from", index, steps, section.int("from"))
    spread = "none" if section.name == "sam" else "place" if section.int("scale_wh", 0) else "channel"
    channels = _channels(steps, other)
    expected = 1 if spread == "place" else channels
    if _channels(steps, before) != expected:
        raise section.error(f"[{section.name}] multiplies by {_channels(steps, before)} channels; expected {expected}", "from")
    return Product(
        section=section, index=index, sources=(before, other), channels=channels, scale=_scale(steps, other),
        activation=_activation(section, "linear"), spread=spread,
    )


def _reorg(section, index, steps):
    if section.int("reverse", 0):
        raise section.error(f"reverse=1 in a [{section.name}] is not supported", "reverse")
    source = _before(section, index, steps)
    channels = _channels(steps, source)
    factor = section.int("stride", 1, low=1, high=64)
    scrambled = section.name == "reorg"
    if scrambled and channels % factor**2:
        raise section.error(f"stride={factor} squared does not divide the {channels} channels that come in", "stride")
    if channels * factor**2 > MAX_CHANNELS:
        raise section.error(f"this makes {channels * factor**2} channels; at most {MAX_CHANNELS} are supported", "stride")
    return Reorg(
        section=section, index=index, sources=(source,), channels=channels * factor**2,
        scale=_scaled(_scale(steps, source), (factor, factor)), factor=factor, scrambled=scrambled,
    )


def _yolo(section, index, steps):
    source = _before(section, index, steps)
    spec = read_head(section, index, _scale(steps, source))
    channels = _channels(steps, source)
    expected = len(spec.anchors) * (5 + spec.classes)
    if channels != expected:
        feeder = steps[source].section if source != PICTURE and "filters" in steps[source].section else section
        raise feeder.error(
            f"{channels} channels go into the [yolo] at line {section.line}; its {len(spec.anchors)} anchors and "
            f"classes={spec.classes} want {len(spec.anchors)} x (5 + {spec.classes}) = {expected}",
            "filters",
        )
    return Head(section=section, index=index, sources=(source,), channels=channels, scale=_scale(steps, source), spec=spec)


_READERS = {
    "convolutional": _convolutional,
    "maxpool": _pool,
    "local_avgpool": _pool,
    "avgpool": _avgpool,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "dropout": _dropout,
    "sam": _product,
    "scale_channels": _product,
    "reorg": _reorg,
    "reorg3d": _reorg,
    "yolo": _yolo,
}
