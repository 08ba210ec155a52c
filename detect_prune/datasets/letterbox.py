"""Bringing a picture to the network's size, and boxes there and back."""

from dataclasses import dataclass

import cv2
import numpy as np

_FILL = 127
"""Darknet fills with 0.5 (`letterbox_image_into`, src/image.c), which is 127.5 of 255."""


@dataclass(frozen=True)
class Placement:
    """Where the pixels of a stored picture lie in the network's input: x' = x * scale + offset."""

    width: int
    """Of the stored picture."""
    height: int
    scale_x: float
    scale_y: float
    left: int = 0
    top: int = 0

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


def fit(picture: np.ndarray, size: tuple[int, int], letterbox: bool) -> tuple[np.ndarray, Placement]:
    """Resizes a picture bilinearly to the network's input.

    Args:
        picture: (H, W, 3) uint8.
        size: (width, height) of the network's input.
        letterbox: keep the aspect ratio, to the nearest whole pixel, and fill the rest with grey. Else the picture is
            stretched, Darknet's default. (Darknet's `letterbox_image` truncates instead, which bends the ratio more:
            on 128 COCO pictures yolov4-tiny then scores .003 AP less.)

    Returns:
        The (height, width, 3) uint8 picture, and the placement of the old pixels in it.
    """
    width, height = size
    old_height, old_width = picture.shape[:2]
    if not letterbox:
        return _resize(picture, width, height), Placement(old_width, old_height, width / old_width, height / old_height)
    if width * old_height < height * old_width:
        new_width, new_height = width, max(1, round(old_height * width / old_width))
    else:
        new_width, new_height = max(1, round(old_width * height / old_height)), height
    left, top = (width - new_width) // 2, (height - new_height) // 2
    canvas = np.full((height, width, 3), _FILL, np.uint8)
    canvas[top : top + new_height, left : left + new_width] = _resize(picture, new_width, new_height)
    return canvas, Placement(old_width, old_height, new_width / old_width, new_height / old_height, left, top)


def _resize(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
