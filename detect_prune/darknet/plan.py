"""What the sections of a cfg mean together: who reads whose output, how many channels, which sizes, how many floats.

The plan is made of plain objects and allocates no weights, so that a cfg that makes no sense, or that asks for an
absurd network, is refused with its line before any memory is taken. Behaviour and defaults are those of
AlexeyAB/darknet, src/parser.c and the layer files that it calls.
"""

from fractions import Fraction

from detect_prune.darknet.activations import ACTIVATIONS
from detect_prune.darknet.cfg import Cfg
from detect_prune.darknet.heads import read_head
from detect_prune.darknet.keys import REFUSED_KEYS
from detect_prune.darknet.section import Section
from detect_prune.darknet.steps import (
    MAX_MAP_SIDE,
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
    plan_sizes,
)
from detect_prune.errors import DetectPruneError

MAX_LAYERS = 5_000  # ten times the deepest official network
MAX_CHANNELS = 65_536
MAX_KERNEL = 255
MAX_SOURCES = 256  # of one [route] or [shortcut]
MAX_FLOATS = 500_000_000  # the largest official network, P7, has 290 million


def plan_network(cfg: Cfg) -> tuple[Step, ...]:
    """Works out every layer of `cfg`, and that the sizes fit together for the cfg's own input size.

    Raises:
        DetectPruneError: with file and line, wherever the network can't be built as it is written.
    """
    cfg.net.int("channels", 3, low=3, high=3)
    steps: list[Step] = []
    floats = 0
    for index, section in enumerate(cfg.layers):
        if index == MAX_LAYERS:
            raise section.error(f"the network has {len(cfg.layers):,} layers; at most {MAX_LAYERS:,} are supported")
        step = _READERS[section.name](section, index, steps)
        floats += step.floats
        if floats > MAX_FLOATS:
            raise section.error(
                f"with this section the network has {floats:,} weights; at most {MAX_FLOATS:,} are supported"
            )
        # Without this bound a long row of strides or upsamplings would make fractions of thousands of digits.
        if any(scale and not 1 <= scale * MAX_MAP_SIDE <= MAX_MAP_SIDE**2 for scale in step.scale):
            raise section.error(f"the strides up to this [{section.name}] multiply to more than {MAX_MAP_SIDE}")
        steps.append(step)
    if not any(isinstance(step, Head) for step in steps):
        raise DetectPruneError(
            "the network has no [yolo] section; expected a detector with at least one", file=cfg.path
        )
    counts = {step.spec.classes: step for step in steps if isinstance(step, Head)}
    if len(counts) > 1:
        (a, first), (b, second) = list(counts.items())[:2]
        raise second.section.error(f"classes={b}, but the [yolo] at line {first.section.line} has {a}", "classes")
    plan_sizes(steps, cfg.input_size)
    return tuple(steps)


# --- one reader a section: (section, index, the steps before) -> Step ----------------


def _channels(steps: list[Step], source: int) -> int:
    return 3 if source == PICTURE else steps[source].channels


def _scale(steps: list[Step], source: int) -> tuple[Fraction, Fraction]:
    return (Fraction(1), Fraction(1)) if source == PICTURE else steps[source].scale


def _scaled(scale, by) -> tuple[Fraction, Fraction]:
    return tuple(a * Fraction(b) for a, b in zip(scale, by))


def _before(section: Section, index: int, steps: list[Step]) -> int:
    """The layer before, which a section reads if it does not name others."""
    return _readable(section, index - 1, steps, None)


def _follow(section: Section, index: int, steps: list[Step], channels: int | None = None, by=(1, 1)) -> dict:
    """What every step has, for one that reads the layer before: its channels unless others are made, its scale `by`."""
    source = _before(section, index, steps)
    return {
        "section": section,
        "index": index,
        "sources": (source,),
        "channels": _channels(steps, source) if channels is None else channels,
        "scale": _scaled(_scale(steps, source), by),
    }


def _named(section: Section, key: str, index: int, steps: list[Step], value: int) -> int:
    """The layer that `value` of `key` means: absolute from 0 on, relative if negative."""
    source = value if value >= 0 else index + value
    if not 0 <= source < index:
        what = f"layer {source}" if source >= 0 else f"{-source} before the first layer"
        raise section.error(f"{key}={value} means {what}, but this is layer {index}; expected a layer before it", key)
    return _readable(section, source, steps, key)


def _all_named(section: Section, key: str, index: int, steps: list[Step]) -> tuple[int, ...]:
    values = section.ints(key)
    if len(values) > MAX_SOURCES:
        raise section.error(f"{key} names {len(values)} layers; at most {MAX_SOURCES} are supported", key)
    return tuple(_named(section, key, index, steps, value) for value in values)


def _readable(section: Section, source: int, steps: list[Step], key: str | None) -> int:
    if source != PICTURE and isinstance(steps[source], Head):
        line = steps[source].section.line
        raise section.error(
            f"[{section.name}] reads the output of the [yolo] at line {line}; expected another layer", key
        )
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
    in_channels = _channels(steps, _before(section, index, steps))
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
        **_follow(section, index, steps, filters, stride),
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


def _pool(section, index, steps):
    average = section.name == "local_avgpool"
    if not average and section.int("maxpool_depth", 0):
        channels = _channels(steps, _before(section, index, steps))
        return DepthPool(**_follow(section, index, steps, section.int("out_channels", 1, low=1, high=channels)))
    kernel = section.int("size", section.int("stride", 1), low=1, high=MAX_KERNEL)
    stride = _stride(section)
    return Pool(
        **_follow(section, index, steps, by=stride),
        kernel=kernel,
        stride=stride,
        # Beyond twice the window there would be outputs that see nothing but padding.
        padding=section.int("padding", kernel - 1, low=0, high=2 * (kernel - 1)),
        average=average,
        blur=0 if average else _blur(section),
    )


def _avgpool(section, index, steps):
    return GlobalAverage(**_follow(section, index, steps, by=(0, 0)))


def _route(section, index, steps):
    sources = _all_named(section, "layers", index, steps)
    groups = section.int("groups", 1, low=1)
    group = section.int("group_id", 0, low=0, high=groups - 1)
    channels = [_channels(steps, source) for source in sources]
    odd = next((c for c in channels if c % groups), None)
    if odd is not None:
        raise section.error(f"groups={groups} does not divide {odd} of the channels that come in", "groups")
    if sum(channels) // groups > MAX_CHANNELS:
        raise section.error(f"this joins {sum(channels)} channels; at most {MAX_CHANNELS} are supported", "layers")
    return Route(
        section=section,
        index=index,
        sources=sources,
        channels=sum(channels) // groups,
        scale=_scale(steps, sources[0]),
        groups=groups,
        group=group,
    )


def _shortcut(section, index, steps):
    before = _before(section, index, steps)
    others = _all_named(section, "from", index, steps)
    channels = _channels(steps, before)
    kind = section.str("weights_type", "none", ("none", "per_feature", "per_layer", "per_channel"))
    normalization = section.str("weights_normalization", "none", ("none", "relu", "avg_relu", "softmax"))
    return Shortcut(
        section=section,
        index=index,
        sources=(before, *others),
        channels=channels,
        scale=_scale(steps, before),
        activation=_activation(section, "linear"),
        weights={"none": 0, "per_feature": 1, "per_layer": 1, "per_channel": channels}[kind],
        normalization="relu" if normalization == "avg_relu" else normalization,
    )


def _upsample(section, index, steps):
    factor = section.int("stride", 2, low=1, high=64)
    return Upsample(
        **_follow(section, index, steps, by=(Fraction(1, factor),) * 2),
        factor=factor,
        gain=section.float("scale", 1.0),
    )


def _dropout(section, index, steps):
    return Dropout(**_follow(section, index, steps), probability=section.float("probability", 0.2, low=0.0, high=1.0))


def _product(section, index, steps):
    before = _before(section, index, steps)
    other = _named(section, "from", index, steps, section.int("from"))
    spread = "none" if section.name == "sam" else "place" if section.int("scale_wh", 0) else "channel"
    channels = _channels(steps, other)
    expected = 1 if spread == "place" else channels
    if _channels(steps, before) != expected:
        raise section.error(
            f"[{section.name}] multiplies by {_channels(steps, before)} channels; expected {expected}", "from"
        )
    return Product(
        section=section,
        index=index,
        sources=(before, other),
        channels=channels,
        scale=_scale(steps, other),
        activation=_activation(section, "linear"),
        spread=spread,
    )


def _reorg(section, index, steps):
    if section.int("reverse", 0):
        raise section.error(f"reverse=1 in a [{section.name}] is not supported", "reverse")
    channels = _channels(steps, _before(section, index, steps))
    factor = section.int("stride", 1, low=1, high=64)
    scrambled = section.name == "reorg"
    if scrambled and channels % factor**2:
        raise section.error(f"stride={factor} squared does not divide the {channels} channels that come in", "stride")
    if channels * factor**2 > MAX_CHANNELS:
        raise section.error(
            f"this makes {channels * factor**2} channels; at most {MAX_CHANNELS} are supported", "stride"
        )
    return Reorg(
        **_follow(section, index, steps, channels * factor**2, (factor, factor)), factor=factor, scrambled=scrambled
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
    return Head(**_follow(section, index, steps), spec=spec)


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
