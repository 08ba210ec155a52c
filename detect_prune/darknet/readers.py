"""What each section of a cfg means, one reader a kind: [convolutional] -> Convolution, and so on.

Behaviour and defaults are those of AlexeyAB/darknet, src/parser.c and the layer files that it calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from detect_prune.darknet.activations import ACTIVATIONS
from detect_prune.darknet.heads import read_head
from detect_prune.darknet.keys import REFUSED_KEYS
from detect_prune.darknet.section import Section
from detect_prune.darknet.steps import (
    PICTURE,
    Convolution,
    DepthPool,
    Dropout,
    GlobalAverage,
    Head,
    Pool,
    Product,
    Reorg,
    Route,
    Shortcut,
    Step,
    Upsample,
)

MAX_CHANNELS = 65_536
MAX_KERNEL = 255
MAX_SOURCES = 256  # of one [route] or [shortcut]


def read_step(section: Section, index: int, steps: Sequence[Step]) -> Step:
    """The step that a section stands for.

    Args:
        index: of the section among the layers.
        steps: those before it.

    Raises:
        DetectPruneError: with file and line, where it can't be built as it is written.
    """
    return _READERS[section.name](_Place(section, index, steps))


@dataclass(frozen=True)
class _Place:
    """A section among the others: what it reads, and what of it every step has."""

    section: Section
    index: int
    steps: Sequence[Step]
    """Those before it."""

    def before(self) -> int:
        """The layer before, which a section reads if it does not name others."""
        return self._readable(self.index - 1, None)

    def named(self, key: str, value: int) -> int:
        """The layer that `value` of `key` means: absolute from 0 on, relative if negative."""
        source = value if value >= 0 else self.index + value
        if not 0 <= source < self.index:
            what = f"layer {source}" if source >= 0 else f"{-source} before the first layer"
            raise self.section.error(
                f"{key}={value} means {what}, but this is layer {self.index}; expected a layer before it", key
            )
        return self._readable(source, key)

    def all_named(self, key: str) -> tuple[int, ...]:
        values = self.section.ints(key)
        if len(values) > MAX_SOURCES:
            raise self.section.error(f"{key} names {len(values)} layers; at most {MAX_SOURCES} are supported", key)
        return tuple(self.named(key, value) for value in values)

    def _readable(self, source: int, key: str | None) -> int:
        if source != PICTURE and isinstance(self.steps[source], Head):
            line = self.steps[source].section.line
            raise self.section.error(
                f"[{self.section.name}] reads the output of the [yolo] at line {line}; expected another layer", key
            )
        return source

    def channels(self, source: int) -> int:
        return 3 if source == PICTURE else self.steps[source].channels

    def scale(self, source: int) -> tuple[Fraction, Fraction]:
        return (Fraction(1), Fraction(1)) if source == PICTURE else self.steps[source].scale

    def follow(self, channels: int | None = None, by: tuple[int | Fraction, int | Fraction] = (1, 1)) -> dict[str, Any]:
        """What every step has, for one that reads the layer before: its channels unless others are made, its scale
        `by`."""
        source = self.before()
        x, y = self.scale(source)
        return {
            "section": self.section,
            "index": self.index,
            "sources": (source,),
            "channels": self.channels(source) if channels is None else channels,
            "scale": (x * Fraction(by[0]), y * Fraction(by[1])),
        }


def _activation(section: Section, default: str) -> str:
    return section.str("activation", default, tuple(ACTIVATIONS))


def _stride(section: Section) -> tuple[int, int]:
    both = section.int("stride", 1, low=1, high=MAX_KERNEL)
    # Darknet takes a stride_x below 1 for one that is not given.
    x, y = (section.int(key, both, high=MAX_KERNEL) for key in ("stride_x", "stride_y"))
    return (x if x > 0 else both, y if y > 0 else both)


def _blur(section: Section) -> int:
    return {0: 0, 1: 3, 2: 2}[section.int("antialiasing", 0, low=0, high=2)]


def _convolutional(at: _Place) -> Step:
    section = at.section
    for key in REFUSED_KEYS:
        if key in section and (section.int(key) != 0 or key == "share_index"):
            raise section.error(f"{key}={section.int(key)} in a [convolutional] is not supported", key)
    in_channels = at.channels(at.before())
    filters = section.int("filters", low=1, high=MAX_CHANNELS)
    kernel = section.int("size", 1, low=1, high=MAX_KERNEL)
    groups = section.int("groups", 1, low=1)
    if in_channels % groups or filters % groups:
        raise section.error(
            f"groups={groups} does not divide the {in_channels} channels that come in and filters={filters}", "groups"
        )
    # Darknet ignores the dilation of a 1x1 convolution, and multiplies the padding by it (im2col_cpu_ext).
    dilation = section.int("dilation", 1, low=1, high=MAX_KERNEL) if kernel > 1 else 1
    padding = kernel // 2 if section.int("pad", 0) else section.int("padding", 0, low=0, high=MAX_KERNEL)
    stride = _stride(section)
    return Convolution(
        **at.follow(filters, stride),
        in_channels=in_channels,
        kernel=kernel,
        stride=stride,
        padding=padding * dilation,
        dilation=dilation,
        groups=groups,
        # cbn=1 gathers the statistics of a training over several batches; what is stored and computed is batch norm.
        batch_normalize=section.int("batch_normalize", 0) != 0 or section.int("cbn", 0) != 0,
        activation=_activation(section, "logistic"),
        blur=_blur(section),
    )


def _pool(at: _Place) -> Step:
    section = at.section
    average = section.name == "local_avgpool"
    if not average and section.int("maxpool_depth", 0):
        channels = at.channels(at.before())
        return DepthPool(**at.follow(section.int("out_channels", 1, low=1, high=channels)))
    kernel = section.int("size", section.int("stride", 1), low=1, high=MAX_KERNEL)
    stride = _stride(section)
    return Pool(
        **at.follow(by=stride),
        kernel=kernel,
        stride=stride,
        # Beyond twice the window there would be outputs that see nothing but padding.
        padding=section.int("padding", kernel - 1, low=0, high=2 * (kernel - 1)),
        average=average,
        blur=0 if average else _blur(section),
    )


def _avgpool(at: _Place) -> Step:
    return GlobalAverage(**at.follow(by=(0, 0)))


def _route(at: _Place) -> Step:
    section = at.section
    sources = at.all_named("layers")
    groups = section.int("groups", 1, low=1)
    group = section.int("group_id", 0, low=0, high=groups - 1)
    channels = [at.channels(source) for source in sources]
    odd = next((c for c in channels if c % groups), None)
    if odd is not None:
        raise section.error(f"groups={groups} does not divide {odd} of the channels that come in", "groups")
    if sum(channels) // groups > MAX_CHANNELS:
        raise section.error(f"this joins {sum(channels)} channels; at most {MAX_CHANNELS} are supported", "layers")
    return Route(
        section=section,
        index=at.index,
        sources=sources,
        channels=sum(channels) // groups,
        scale=at.scale(sources[0]),
        groups=groups,
        group=group,
    )


def _shortcut(at: _Place) -> Step:
    section = at.section
    before = at.before()
    others = at.all_named("from")
    channels = at.channels(before)
    kind = section.str("weights_type", "none", ("none", "per_feature", "per_layer", "per_channel"))
    normalization = section.str("weights_normalization", "none", ("none", "relu", "avg_relu", "softmax"))
    return Shortcut(
        section=section,
        index=at.index,
        sources=(before, *others),
        channels=channels,
        scale=at.scale(before),
        activation=_activation(section, "linear"),
        weights={"none": 0, "per_feature": 1, "per_layer": 1, "per_channel": channels}[kind],
        normalization="relu" if normalization == "avg_relu" else normalization,
    )


def _upsample(at: _Place) -> Step:
    section = at.section
    factor = section.int("stride", 2, low=1, high=64)
    return Upsample(
        **at.follow(by=(Fraction(1, factor),) * 2),
        factor=factor,
        gain=section.float("scale", 1.0),
    )


def _dropout(at: _Place) -> Step:
    return Dropout(**at.follow(), probability=at.section.float("probability", 0.2, low=0.0, high=1.0))


def _product(at: _Place) -> Step:
    section = at.section
    before = at.before()
    other = at.named("from", section.int("from"))
    spread = "none" if section.name == "sam" else "place" if section.int("scale_wh", 0) else "channel"
    channels = at.channels(other)
    expected = 1 if spread == "place" else channels
    if at.channels(before) != expected:
        raise section.error(
            f"[{section.name}] multiplies by {at.channels(before)} channels; expected {expected}", "from"
        )
    return Product(
        section=section,
        index=at.index,
        sources=(before, other),
        channels=channels,
        scale=at.scale(other),
        activation=_activation(section, "linear"),
        spread=spread,
    )


def _reorg(at: _Place) -> Step:
    section = at.section
    if section.int("reverse", 0):
        raise section.error(f"reverse=1 in a [{section.name}] is not supported", "reverse")
    channels = at.channels(at.before())
    factor = section.int("stride", 1, low=1, high=64)
    scrambled = section.name == "reorg"
    if scrambled and channels % factor**2:
        raise section.error(f"stride={factor} squared does not divide the {channels} channels that come in", "stride")
    if channels * factor**2 > MAX_CHANNELS:
        raise section.error(
            f"this makes {channels * factor**2} channels; at most {MAX_CHANNELS} are supported", "stride"
        )
    return Reorg(**at.follow(channels * factor**2, (factor, factor)), factor=factor, scrambled=scrambled)


def _yolo(at: _Place) -> Step:
    section = at.section
    source = at.before()
    spec = read_head(section, at.index, at.scale(source))
    channels = at.channels(source)
    expected = len(spec.anchors) * (5 + spec.classes)
    if channels != expected:
        feeder = at.steps[source].section if source != PICTURE and "filters" in at.steps[source].section else section
        raise feeder.error(
            f"{channels} channels go into the [yolo] at line {section.line}; its {len(spec.anchors)} anchors and "
            f"classes={spec.classes} want {len(spec.anchors)} x (5 + {spec.classes}) = {expected}",
            "filters",
        )
    return Head(**at.follow(), spec=spec)


_READERS: dict[str, Callable[[_Place], Step]] = {
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
