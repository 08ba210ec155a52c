"""The built-in data set: shapes on cluttered backgrounds, drawn on the spot from a seed, in COCO's format.

It exists so that the main job can run, and mean something, on a machine that has no data: a network has to be trained
to find the shapes, and loses them when most of its weights are taken away. It says nothing about photographs.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detect_prune.datasets.cache import cache_folder, cached_folder
from detect_prune.files import write_json

VERSION = 4
"""Part of the folder's name: raise it with every change of what is drawn."""
SEED = 20
TRAIN_PICTURES, VAL_PICTURES = 480, 120

CATEGORIES = {2: "ball", 3: "ring", 5: "star", 8: "cross", 9: "triangle", 13: "heart"}
"""Ids with holes, as in COCO."""

_OVERSAMPLING = 3
_LEAST_VISIBLE = 0.75
_SMALL_SHARE = 0.08


def sample_folder() -> Path:
    """The folder of the built-in set, drawn first if it is not in the cache: {train,val}/*.jpg and {train,val}.json."""
    return cached_folder(cache_folder() / f"sample-v{VERSION}", draw_sample_set)


def draw_sample_set(folder: Path, pictures: tuple[int, int] = (TRAIN_PICTURES, VAL_PICTURES), seed: int = SEED) -> None:
    """Draws the set into `folder`; `pictures` counts those of train and val."""
    for split, (name, count) in enumerate(zip(("train", "val"), pictures)):
        (folder / name).mkdir(parents=True)
        images, annotations = [], []
        for index in range(count):
            picture, things = draw_picture(np.random.default_rng([seed, split, index]))
            file_name, image_id = f"{index:04d}.jpg", split * 100_000 + index
            # Encoded in memory: cv2.imwrite says by a return value that the disk is full, and trips over names that are
            # not ASCII on Windows.
            encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (folder / name / file_name).write_bytes(encoded.tobytes())
            height, width = picture.shape[:2]
            images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
            for thing in things:
                annotations.append(
                    {
                        "id": split * 1_000_000 + len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": thing.category_id,
                        "bbox": thing.bbox,
                        "area": thing.area,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": category_id, "name": name} for category_id, name in CATEGORIES.items()]
        write_json(folder / f"{name}.json", {"images": images, "annotations": annotations, "categories": categories})


@dataclass
class Thing:
    """One object of a picture: the box holds the whole object, the area counts the pixels of it that can be seen."""

    category_id: int
    bbox: list[float]
    """x, y, width, height."""
    area: int


def draw_picture(rng: np.random.Generator) -> tuple[np.ndarray, list[Thing]]:
    """Draws one picture: (H, W, 3) uint8 RGB, and the objects in it."""
    width, height = (int(side) for side in rng.integers((184, 168), (233, 217)))
    canvas = _background(rng, width, height)
    count = 0 if rng.random() < 0.02 else int(rng.integers(2, 6))
    things: list[Thing] = []
    owner = np.full((height, width), -1)  # which thing each pixel shows
    whole: list[int] = []
    for _ in range(count):
        for _attempt in range(20):
            category_id = int(rng.choice(list(CATEGORIES)))
            alpha = _shape(rng, CATEGORIES[category_id], _side(rng))
            size = np.array(alpha.shape[::-1])
            if (size + 4 >= (width, height)).any():
                continue
            x, y = (int(v) for v in rng.integers((1, 1), (width - size[0], height - size[1])))
            region = (slice(y, y + size[1]), slice(x, x + size[0]))
            solid = alpha > 0.5
            below = owner[region][solid]
            hidden = np.bincount(below[below >= 0], minlength=len(things))
            if any(thing.area - lost < _LEAST_VISIBLE * full for thing, lost, full in zip(things, hidden, whole)):
                continue
            owner[region][solid] = len(things)
            for thing, lost in zip(things, hidden):
                thing.area -= int(lost)
            _paint(rng, canvas, region, alpha)
            columns, rows = np.flatnonzero(solid.any(0)), np.flatnonzero(solid.any(1))
            box = [x + columns[0], y + rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            whole.append(int(solid.sum()))
            things.append(Thing(category_id, [float(v) for v in box], whole[-1]))
            break
    noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(1, 6))
    return np.clip(canvas + noise, 0, 255).astype(np.uint8), things


def _side(rng: np.random.Generator) -> float:
    """Length in pixels of an object; with these bounds a fifth of the objects covers less than COCO's small 32 x 32."""
    if rng.random() < _SMALL_SHARE:
        return rng.uniform(29, 36)
    return float(np.exp(rng.uniform(np.log(47), np.log(104))))


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """(3,) RGB in 0..255, drawn in hue, saturation and value."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width, 3) float32: a slanted gradient, soft clouds, and lines, arcs and blobs that are no objects."""
    first, second = _colour(rng, (0.05, 0.55), (0.25, 0.95)), _colour(rng, (0.05, 0.55), (0.25, 0.95))
    angle = float(rng.uniform(0, 2 * np.pi))
    x, y = np.meshgrid(
        np.linspace(-0.7, 0.7, width, dtype=np.float32), np.linspace(-0.7, 0.7, height, dtype=np.float32)
    )
    blend = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
    canvas = first * (1 - blend) + second * blend
    for cells, strength in ((4, 22), (12, 12), (40, 6)):
        clouds = rng.standard_normal((cells, cells, 3), np.float32) * strength
        canvas += cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    canvas = np.clip(canvas, 0, 255)
    clutter = canvas.copy()
    for _ in range(int(rng.integers(4, 14))):
        colour = [float(v) for v in _colour(rng, (0.1, 0.8), (0.2, 1.0))]
        start, end = (tuple(int(v) for v in rng.integers((0, 0), (width, height))) for _ in range(2))
        thickness = int(rng.integers(1, 5))
        kind = rng.integers(3)
        if kind == 0:
            cv2.line(clutter, start, end, colour, thickness, cv2.LINE_AA)
        elif kind == 1:
            axes = tuple(int(v) for v in rng.integers(10, 90, 2))
            turn, sweep = int(rng.integers(360)), int(rng.integers(40, 150))
            cv2.ellipse(clutter, start, axes, turn, 0, sweep, colour, thickness, cv2.LINE_AA)
        else:  # a ragged blob of no particular shape
            corners = int(rng.integers(5, 9))
            around = np.sort(rng.uniform(0, 2 * np.pi, corners))
            radius = rng.uniform(4, 18, corners)
            points = np.stack([np.cos(around) * radius, np.sin(around) * radius], 1) + start
            cv2.fillPoly(clutter, [points.astype(np.int32)], colour, cv2.LINE_AA)
    opacity = float(rng.uniform(0.3, 0.65))
    return canvas * (1 - opacity) + clutter * opacity


def _paint(rng: np.random.Generator, canvas: np.ndarray, region: tuple[slice, slice], alpha: np.ndarray) -> None:
    """Lays a shape on the canvas: a colour that stands out from what is below, shaded, often with a rim and shadow."""
    below = canvas[region].reshape(-1, 3).mean(0)
    for _ in range(30):
        colour = _colour(rng, (0.35, 1.0), (0.35, 1.0))
        if np.abs(colour - below).sum() > 180:
            break
    height, width = alpha.shape
    if rng.random() < 0.5:
        reach = max(2, min(height, width) // 12)
        shadow = cv2.GaussianBlur(np.roll(alpha, (reach, reach), (0, 1)), (0, 0), reach / 2 + 0.5)[..., None]
        canvas[region] *= 1 - 0.45 * shadow
    angle, depth = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0, 0.35))
    x, y = np.meshgrid(np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32))
    shade = (1 + depth * (x * np.cos(angle) + y * np.sin(angle)))[..., None]
    fill = np.clip(colour * shade, 0, 255)
    if rng.random() < 0.6:
        rim = max(1, round(min(height, width) / 18))
        inner = cv2.erode(
            alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1)), borderValue=0
        )[..., None]
        fill = fill * (0.55 + 0.45 * inner)
    canvas[region] = canvas[region] * (1 - alpha[..., None]) + fill * alpha[..., None]


def _shape(rng: np.random.Generator, name: str, side: float) -> np.ndarray:
    """(h, w) float32 in 0..1: the antialiased cover of a turned, slightly squeezed shape about `side` pixels long."""
    turn, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    scale = side / 2 * _OVERSAMPLING
    half = int(np.ceil(side / 2 * 1.3)) + 2  # room for the shadow
    canvas = np.zeros((2 * half * _OVERSAMPLING,) * 2, np.uint8)
    outlines = [(outline * (1, squeeze) @ rotation.T) * scale + half * _OVERSAMPLING for outline in _OUTLINES[name]]
    # Several outlines are filled by the even-odd rule, which makes the ring's hole.
    cv2.fillPoly(canvas, [np.round(outline).astype(np.int32) for outline in outlines], 255)
    return cv2.resize(canvas, (2 * half, 2 * half), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _circle(radius: float) -> np.ndarray:
    around = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return np.stack([np.cos(around), np.sin(around)], 1) * radius


def _star() -> np.ndarray:
    around = np.arange(10) * np.pi / 5
    return np.stack([np.cos(around), np.sin(around)], 1) * np.where(np.arange(10) % 2, 0.48, 1.1)[:, None]


def _cross() -> np.ndarray:
    a, b = 0.32, 1.0
    return np.array(
        [(a, b), (a, a), (b, a), (b, -a), (a, -a), (a, -b), (-a, -b), (-a, -a), (-b, -a), (-b, a), (-a, a), (-a, b)]
    )


def _triangle() -> np.ndarray:
    around = np.arange(3) * 2 * np.pi / 3
    return np.stack([np.cos(around), np.sin(around)], 1) * 1.1


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, y + 2.5], 1) / 15.5


_OUTLINES: dict[str, list[np.ndarray]] = {
    "ball": [_circle(1.0)],
    "ring": [_circle(1.0), _circle(0.55)],
    "star": [_star()],
    "cross": [_cross()],
    "triangle": [_triangle()],
    "heart": [_heart()],
}
