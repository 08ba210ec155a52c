"""Augmentation of training pictures.

Every draw comes from (seed, epoch, index), so any picture of any step can be made again. Photometric and geometric
changes are albumentations'; mosaic is ours, since its partners have to come from the same three numbers.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from detect_prune.datasets.letterbox import Fit

_LEAST_SIDE = 2.0
"""Pixels of the network's input: a box thinner than this teaches nothing."""
_LEAST_VISIBLE = 0.2
"""Share of a box that has to stay in the picture for it to stay a target."""
_MOSAIC_MARGIN = 0.2
"""The four tiles of a mosaic meet no nearer to an edge than this share of the side, as in Darknet (src/data.c)."""

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A picture (H, W, 3) uint8 RGB, its boxes (n, 4) float32 xyxy pixels, and their labels (n,) int64."""


@dataclass(frozen=True)
class Augmentation:
    """How far training pictures are changed. The colour keys have the meaning of Darknet's cfg keys."""

    hue: float = 0.1
    """Largest turn of the hue, as a share of the colour circle."""
    saturation: float = 1.5
    """Largest factor (and its inverse) of the saturation."""
    exposure: float = 1.5
    """Largest factor (and its inverse) of the brightness."""
    scale: float = 0.25
    """Zoom between 1 - scale and 1 + scale. A mosaic, whose parts are zoomed and cut already, is not zoomed again."""
    translate: float = 0.1
    """Largest shift, as a share of the picture's sides; not of a mosaic."""
    flip: bool = True
    """Mirror left and right in half of the cases."""
    mosaic: float = 0.5
    """Share of the pictures that are put together from four."""


def augment_sample(
    load: Callable[[int], Sample],
    index: int,
    count: int,
    fit: Fit,
    augmentation: Augmentation,
    key: tuple[int, int],
) -> Sample:
    """Makes training picture `index`, changed, at the network's size.

    Args:
        load: gives the stored picture of an index with its targets.
        count: number of pictures to choose mosaic partners from.
        fit: to the network's input, as bytes; of a mosaic's tiles only whether they keep their proportions.
        key: (seed, epoch); together with `index` it decides everything.

    Returns:
        The picture at the network's size; boxes in its pixels, clipped, without tiny and mostly cut away ones.

    Raises:
        CorruptPicture: from `load`, for the picture itself or a mosaic partner.
    """
    rng = np.random.default_rng([*key, index])
    if rng.random() < augmentation.mosaic and min(fit.size) > 1:
        sample = _mosaic(load, index, count, fit, rng)
        transform = albumentations_transform(augmentation, move=False)
    else:
        picture, boxes, labels = load(index)
        picture, placement = fit(picture)
        sample = picture, placement.forward(boxes), labels
        transform = albumentations_transform(augmentation, move=True)
    # albumentations ignores the seeds of Python, numpy and torch; this is the only one that it hears.
    transform.set_random_seed(int(rng.integers(2**31)))
    return _change(sample, transform)


def _mosaic(load: Callable[[int], Sample], index: int, count: int, fit: Fit, rng: np.random.Generator) -> Sample:
    """Four pictures around a random point. Each is cut and zoomed so that it covers its tile; with `letterbox` it keeps
    its proportions."""
    width, height = fit.size
    indices = [index, *rng.integers(count, size=3).tolist()]
    rng.shuffle(indices)  # the picture itself may be any of the four
    # A tile has a pixel at least.
    middle_x, middle_y = (
        min(max(round(side * rng.uniform(_MOSAIC_MARGIN, 1 - _MOSAIC_MARGIN)), 1), side - 1) for side in fit.size
    )
    tiles = [(x, y) for y in ((0, middle_y), (middle_y, height)) for x in ((0, middle_x), (middle_x, width))]
    canvas = np.empty((height, width, 3), np.uint8)
    all_boxes, all_labels = [], []
    for number, ((x1, x2), (y1, y2)) in zip(indices, tiles):
        picture, boxes, labels = load(number)
        wide, high = x2 - x1, y2 - y1
        old_high, old_wide = picture.shape[:2]
        scale_x, scale_y = width / old_wide, height / old_high
        if fit.letterbox:
            scale_x = scale_y = min(scale_x, scale_y)
        # Between just covering the tile and the size at which the picture alone would fill the network's input.
        least = max(wide / (old_wide * scale_x), high / (old_high * scale_y))
        zoom = rng.uniform(least, max(least, 1.0))
        cut_wide = min(max(1, round(wide / (zoom * scale_x))), old_wide)
        cut_high = min(max(1, round(high / (zoom * scale_y))), old_high)
        left, top = (int(rng.integers(room + 1)) for room in (old_wide - cut_wide, old_high - cut_high))
        cut = picture[top : top + cut_high, left : left + cut_wide]
        canvas[y1:y2, x1:x2] = cv2.resize(cut, (wide, high), interpolation=cv2.INTER_LINEAR)
        factor = np.array([wide / cut_wide, high / cut_high] * 2, np.float32)
        shift = np.array([x1, y1] * 2, np.float32) - factor * np.array([left, top] * 2, np.float32)
        boxes, labels = clip_targets(boxes * factor + shift, labels, (x1, y1, x2, y2))
        all_boxes.append(boxes)
        all_labels.append(labels)
    return canvas, np.concatenate(all_boxes), np.concatenate(all_labels)


def clip_targets(
    boxes: np.ndarray, labels: np.ndarray, window: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Clips (n, 4) xyxy boxes to a window (x1, y1, x2, y2); tiny ones and those mostly cut away go."""
    low, high = np.array(window[:2] * 2, np.float32), np.array(window[2:] * 2, np.float32)
    clipped = np.clip(boxes, low, high)
    before, after = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    kept = (after >= _LEAST_SIDE).all(1) & (after.prod(1) >= _LEAST_VISIBLE * before.prod(1))
    return clipped[kept], labels[kept]


def _change(sample: Sample, transform: Callable) -> Sample:
    picture, boxes, labels = sample
    height, width = picture.shape[:2]
    # albumentations raises on boxes that reach out of the picture or have no area.
    boxes, labels = clip_targets(boxes, labels, (0, 0, width, height))
    changed = transform(image=picture, bboxes=boxes, labels=labels)
    boxes = np.asarray(changed["bboxes"], np.float32).reshape(-1, 4)
    labels = np.asarray(changed["labels"], np.int64).reshape(-1)
    boxes, labels = clip_targets(boxes, labels, (0, 0, width, height))
    return changed["image"], boxes, labels


@lru_cache(maxsize=4)
def albumentations_transform(augmentation: Augmentation, move: bool):
    """The `albumentations.Compose` of an `Augmentation`, with or without zoom and shift.

    The package is imported here and nowhere else, since that takes seconds.
    """
    # Importing it asks the network for a newer version, which costs 9 s where there is no network.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A

    steps = [
        A.HorizontalFlip(p=0.5 if augmentation.flip else 0.0),
        A.Affine(
            scale=(1 - augmentation.scale, 1 + augmentation.scale),
            translate_percent=(-augmentation.translate, augmentation.translate),
            border_mode=cv2.BORDER_CONSTANT,
            fill=127,
            p=1.0 if move else 0.0,
        ),
        A.ColorJitter(
            brightness=(1 / augmentation.exposure, augmentation.exposure),
            contrast=(1.0, 1.0),
            saturation=(1 / augmentation.saturation, augmentation.saturation),
            hue=(-augmentation.hue, augmentation.hue),
            p=1.0,
        ),
    ]
    boxes = A.BboxParams(format="pascal_voc", label_fields=["labels"], min_visibility=_LEAST_VISIBLE, clip=True)
    return A.Compose(steps, bbox_params=boxes)
