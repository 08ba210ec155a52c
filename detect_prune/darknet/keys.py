"""The words of a Darknet cfg: section names, the keys of each section, and what kind of value a key takes.

A key that is not listed here is kept and written back, and the parser warns of it: nothing in this package acts on it.
Some are listed and yet without effect, see WITHOUT_EFFECT.
"""

from enum import Enum


class Kind(Enum):
    """What the value of a key has to be."""

    INT = "a whole number"
    FLOAT = "a number"
    WORD = "a word"
    INTS = "whole numbers with commas between them"
    FLOATS = "numbers with commas between them"
    PAIRS = "pairs of numbers with commas between them"


def _keys(**names: str) -> dict[str, Kind]:
    """_keys(INT="a b", WORD="c") -> {"a": Kind.INT, "b": Kind.INT, "c": Kind.WORD}."""
    return {name: Kind[kind] for kind, listed in names.items() for name in listed.split()}


_HINTS = _keys(INT="stopbackward onlyforward")
_POOL = _HINTS | _keys(INT="size stride stride_x stride_y padding")

KEYS: dict[str, dict[str, Kind]] = {
    "net": _keys(
        INT="width height channels batch subdivisions burn_in max_batches mosaic letter_box flip",
        FLOAT="learning_rate momentum decay angle saturation exposure hue power ema_alpha",
        WORD="policy",
        INTS="steps",
        FLOATS="scales",
    ),
    "convolutional": _HINTS
    | _keys(
        INT="filters size stride stride_x stride_y pad padding groups dilation batch_normalize cbn antialiasing"
        " xnor binary flipped share_index sway rotate stretch stretch_sway coordconv dontload dontloadscales",
        WORD="activation",
    ),
    "maxpool": _POOL | _keys(INT="maxpool_depth out_channels antialiasing"),
    "local_avgpool": _POOL,
    "avgpool": {},
    "route": _HINTS | _keys(INTS="layers", INT="groups group_id"),
    "shortcut": _keys(INTS="from", WORD="activation weights_type weights_normalization"),
    "upsample": _keys(INT="stride", FLOAT="scale"),
    "dropout": _keys(FLOAT="probability"),
    "sam": _keys(INT="from", WORD="activation"),
    "scale_channels": _keys(INT="from scale_wh", WORD="activation"),
    "reorg": _keys(INT="stride reverse"),
    "reorg3d": _keys(INT="stride reverse"),
    "yolo": _keys(
        INT="classes num new_coords objectness_smooth focal_loss",
        FLOAT="scale_x_y beta_nms iou_normalizer obj_normalizer cls_normalizer delta_normalizer iou_thresh"
        " ignore_thresh truth_thresh label_smooth_eps max_delta jitter resize random",
        WORD="nms_kind iou_loss",
        INTS="mask",
        PAIRS="anchors",
    ),
}

# Of [net] what the recipe says instead (tasks/recipes.py), and `angle`, which Darknet uses for classifiers only; of
# [yolo] what changes the input size while Darknet trains; of any section its hints about where a training that starts
# from a converted backbone may cut its backward pass short. (`cls_normalizer`, which nothing reads either, for Darknet
# does so beside `counters_per_class` only, stays out of it: cfgs that differ in it are told apart as ever.)
WITHOUT_EFFECT = frozenset(
    (
        *("batch", "subdivisions", "max_batches", "burn_in", "learning_rate", "policy", "steps", "scales", "power"),
        *("momentum", "decay", "ema_alpha", "angle"),
        *("random", "resize"),
        *_HINTS,
    )
)

# A key of these that stands twice in a layer with different values shows that a section header has been lost. Of other
# keys the first counts, as in Darknet; official files do that in [net] (a batch for testing, one for training).
STRUCTURE = frozenset(
    ("filters", "size", "stride", "groups", "activation", "layers", "from", "mask", "anchors", "num", "classes")
)

# Darknet's second names for the same section (src/parser.c, string_to_layer_type).
ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool", "local_avg": "local_avgpool", "avg": "avgpool"}

# Sections that Darknet has and this package does not build.
NOT_SUPPORTED = frozenset(
    (
        *("Gaussian_yolo", "region", "detection", "contrastive", "cost", "softmax", "soft"),
        *("crnn", "rnn", "lstm", "gru", "conv_lstm", "history"),
        *("connected", "conn", "local", "implicit", "activation", "batchnorm", "normalization", "lrn"),
        *("crop", "empty", "silence"),
    )
)

# Keys of a convolution that change what it computes, or what a weights file holds, in ways that are not built here.
REFUSED_KEYS = (
    "xnor",
    "binary",
    "flipped",
    "share_index",
    "sway",
    "rotate",
    "stretch",
    "stretch_sway",
    "coordconv",
    "dontload",
    "dontloadscales",
)
