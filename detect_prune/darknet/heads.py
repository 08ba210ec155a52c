"""[yolo] sections: reading one, and fitting a network's heads to another number of classes."""

import warnings
from dataclasses import fields, replace
from fractions import Fraction

from detect_prune.darknet.cfg import Cfg, CfgWarning
from detect_prune.darknet.section import Section, shown
from detect_prune.errors import DetectPruneError
from detect_prune.structures import IOU_LOSSES, NMS_KINDS, HeadSpec

MAX_CLASSES = 10_000

_DEFAULTS = {field.name: field.default for field in fields(HeadSpec)}
_NUMBERS = (
    *("scale_x_y", "beta_nms", "iou_normalizer", "obj_normalizer", "delta_normalizer"),
    *("iou_thresh", "ignore_thresh", "truth_thresh", "label_smooth_eps"),
)
_SWITCHES = ("new_coords", "objectness_smooth", "focal_loss")


def read_head(section: Section, index: int, scale: tuple[Fraction, Fraction]) -> HeadSpec:
    """Reads a [yolo] section (Darknet's src/parser.c, parse_yolo, with its defaults).

    Args:
        index: of the section among the layers.
        scale: (x, y) pixels of the network's input per cell of the head's grid.

    Raises:
        DetectPruneError: with the line of the option that makes no sense.
    """
    if any(s < 1 or s.denominator != 1 for s in scale):
        raise section.error(
            f"the grid of this [yolo] has {' x '.join(map(str, scale))} pixels a cell; expected whole numbers"
        )
    every = section.pairs("anchors")
    if any(side <= 0 for pair in every for side in pair):
        raise section.error("anchors are widths and heights in pixels; expected positive numbers", "anchors")
    total = section.int("num", 1, low=1)
    if len(every) < total:
        raise section.error(f"anchors lists {len(every)} pairs; expected num={total}", "anchors")
    mask = section.ints("mask", tuple(range(total)))
    if any(not 0 <= m < len(every) for m in mask):
        raise section.error(
            f"mask={shown(','.join(map(str, mask)))} is out of range; there are anchors 0 to {len(every) - 1}", "mask"
        )
    if max(mask) < total:
        every = every[:total]
    else:
        # Official cspx-p7-mish.cfg says num=16, lists 20 anchors and uses them all; Darknet reads past its array there.
        warnings.warn(
            f"{section.file}:{section.line_of('num')}: num={total}, but mask uses more; all {len(every)} are read",
            CfgWarning,
            stacklevel=2,
        )
    return HeadSpec(
        layer=index,
        anchors=tuple(every[m] for m in mask),
        mask=mask,
        all_anchors=every,
        classes=section.int("classes", 20, low=1, high=MAX_CLASSES),
        nms_kind=section.str("nms_kind", _DEFAULTS["nms_kind"], NMS_KINDS),
        iou_loss=section.str("iou_loss", _DEFAULTS["iou_loss"], IOU_LOSSES),
        max_delta=section.float("max_delta", _DEFAULTS["max_delta"], low=0.0),
        **{name: section.float(name, _DEFAULTS[name]) for name in _NUMBERS},
        **{name: section.int(name, int(_DEFAULTS[name])) != 0 for name in _SWITCHES},
    )


def adapt_classes(cfg: Cfg, classes: int) -> Cfg:
    """A copy of `cfg` for `classes` classes: `classes` of every [yolo], and `filters` of the convolution before it.

    Raises:
        DetectPruneError: a [yolo] does not follow a convolution, or `classes` is not 1 to 10,000.
    """
    if not 1 <= classes <= MAX_CLASSES:
        raise DetectPruneError(f"{classes} classes; expected 1 to {MAX_CLASSES}", file=cfg.path)
    layers = list(cfg.layers)
    for index, section in enumerate(layers):
        if section.name != "yolo":
            continue
        if index == 0 or layers[index - 1].name != "convolutional":
            raise section.error("there is no [convolutional] before this [yolo] whose filters could follow the classes")
        anchors = len(
            section.ints("mask", tuple(range(section.int("num", 1, low=1, high=len(section.pairs("anchors"))))))
        )
        layers[index - 1] = layers[index - 1].with_option("filters", anchors * (5 + classes))
        # One counter a class: those of other classes say nothing about these.
        layers[index] = section.with_option("classes", classes).without_option("counters_per_class")
    return replace(cfg, layers=tuple(layers))
