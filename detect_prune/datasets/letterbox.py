"""Bringing a picture to the network's size, and boxes there and back.

There are two ways of resizing, and scores differ by up to a point between them. `opencv` is cv2.resize, bilinear with
half-pixel centres, on bytes. `darknet` is Darknet's own `resize_image` (src/image.c): floats in 0..1, never rounded;
pixel i of the output lies at i * (in - 1) / (out - 1), so that the corners fall on each other; columns first, then
rows. All of that in float32, which shows in one place: the lowest row takes no share of the row after its own, so where
float32 puts it a hair above the last one it comes out black.
"""

from dataclasses import dataclass

import cv2
import numpy as np

RESIZES = ("opencv", "darknet")

_FILL = 127
"""Darknet fills with 0.5 (`letterbox_image_into`, src/image.c), which is 127.5 of 255."""
_UNIT = (np.arange(256) / 255).astype(np.float32)


@dataclass(frozen=True)
class Placement:
    """Where the pixels of a stored picture lie in the network's input: x' = x * scale + offset."""

    width: int
    """Of the stored picture."""
    height: int
    scale_x: float
    scale_y: float
    left: float = 0
    top: float = 0

    def forward(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) xyxy in pixels of the stored picture -> xyxy in pixels of the network's input."""
        return boxes * self._scale(boxes) + self._offset(boxes)

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) xyxy in pixels of the network's input -> xyxy in pixels of the stored picture, not clipped."""
        return (boxes - self._offset(boxes)) / self._scale(boxes)

    def _scale(self, boxes: np.ndarray) -> np.ndarray:
        return np.array([self.scale_x, self.scale_y] * 2, boxes.dtype)

    def _offset(self, boxes: np.ndarray) -> np.ndarray:
        return np.array([self.left, self.top] * 2, boxes.dtype)


@dataclass(frozen=True)
class Fit:
    """Resizes pictures bilinearly to the network's input.

    Raises:
        ValueError: no such way of resizing.
    """

    size: tuple[int, int]
    """(width, height) of the network's input."""
    letterbox: bool = False
    """Keep the aspect ratio and fill the rest with grey. Else the picture is stretched, Darknet's default."""
    resize: str = "opencv"
    """`opencv` or `darknet`."""
    truncate: bool = False
    """A letterboxed picture's shorter side is cut to whole pixels, as in Darknet's `letterbox_image`, and boxes are put
    back from the exact middle, as in its `correct_yolo_boxes`, where pixels may lie half a pixel beside it. Else the
    side is rounded, which bends the ratio less: on 128 COCO pictures yolov4-tiny then scores .003 AP more."""

    def __post_init__(self):
        if self.resize not in RESIZES:
            raise ValueError(f"a way of resizing is {' or '.join(RESIZES)}, not {self.resize!r}")

    def __call__(self, picture: np.ndarray) -> tuple[np.ndarray, Placement]:
        """(H, W, 3) uint8 -> the (height, width, 3) picture, and the placement of the old pixels in it. The picture is
        uint8 with `opencv` and float32 in 0..1 with `darknet`."""
        stretch = _resize_opencv if self.resize == "opencv" else resize_darknet
        width, height = self.size
        old_height, old_width = picture.shape[:2]
        if not self.letterbox:
            scales = width / old_width, height / old_height
            return stretch(picture, width, height), Placement(old_width, old_height, *scales)
        if width * old_height < height * old_width:
            new_width, new_height = width, self._side(old_height * width, old_width)
        else:
            new_width, new_height = self._side(old_width * height, old_height), height
        left, top = (width - new_width) // 2, (height - new_height) // 2
        resized = stretch(picture, new_width, new_height)
        canvas = np.full((height, width, 3), _FILL if resized.dtype == np.uint8 else 0.5, resized.dtype)
        canvas[top : top + new_height, left : left + new_width] = resized
        offset = ((width - new_width) / 2, (height - new_height) / 2) if self.truncate else (left, top)
        return canvas, Placement(old_width, old_height, new_width / old_width, new_height / old_height, *offset)

    def _side(self, numerator: int, denominator: int) -> int:
        return max(1, numerator // denominator if self.truncate else round(numerator / denominator))


def _resize_opencv(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_darknet(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Darknet's own bilinear resizing: (H, W, 3) uint8 -> (height, width, 3) float32 in 0..1."""
    old_height, old_width = picture.shape[:2]
    pixels = _UNIT[picture]
    if (old_width, old_height) == (width, height):
        return pixels
    # The last column is copied; the last row, in Darknet's code, only loses what the next row would have given it.
    first, share = _aligned(old_width, width)
    first[-1], share[-1] = old_width - 1, 0
    columns = _mixed(pixels, first, share, share, axis=1)
    first, share = _aligned(old_height, height)
    of_next = share.copy()
    of_next[-1] = 0
    return _mixed(columns, first, share, of_next, axis=0)


def _aligned(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `new` pixels: the pixel of `old` at or before it, and how far it lies towards the next one."""
    scale = np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.float32(0)
    position = np.arange(new, dtype=np.float32) * scale
    first = position.astype(np.intp)
    return first, position - first.astype(np.float32)


def _mixed(pixels: np.ndarray, first: np.ndarray, share: np.ndarray, of_next: np.ndarray, axis: int) -> np.ndarray:
    """(1 - share) of the first pixel and `of_next` of the one after it, along an axis."""
    after = np.minimum(first + 1, pixels.shape[axis] - 1)
    weights = [part[:, None] if axis == 1 else part[:, None, None] for part in (1 - share, of_next)]
    return pixels.take(first, axis) * weights[0] + pixels.take(after, axis) * weights[1]
