import cv2
import numpy as np
import pytest

from detect_prune.datasets.letterbox import Placement, fit

RNG = np.random.default_rng(0)


def picture(width, height):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_stretching_is_opencvs():
    source = picture(70, 50)
    fitted, placement = fit(source, (96, 64), letterbox=False)
    assert (fitted == cv2.resize(source, (96, 64), interpolation=cv2.INTER_LINEAR)).all()
    assert placement == Placement(70, 50, 96 / 70, 64 / 50)


@pytest.mark.parametrize("width, height", [(70, 50), (50, 70), (64, 64), (33, 31), (500, 3), (3, 500), (1, 1)])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (32, 96)])
def test_letterbox_keeps_the_shape_and_centres(width, height, size):
    fitted, placement = fit(picture(width, height), size, letterbox=True)
    assert fitted.shape == (size[1], size[0], 3)
    inside = placement.forward(np.array([[0, 0, width, height]], np.float64))[0]
    left, top, right, bottom = np.round(inside).astype(int)
    # The tight side is filled, the other follows to the nearest pixel.
    scale = min(size[0] / width, size[1] / height)
    assert abs(right - left - width * scale) <= 0.5 or right - left == 1
    assert abs(bottom - top - height * scale) <= 0.5 or bottom - top == 1
    assert right - left == size[0] or bottom - top == size[1]
    assert abs(left - (size[0] - right)) <= 1 and abs(top - (size[1] - bottom)) <= 1
    outside = np.ones(fitted.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert (fitted[outside] == 127).all()


@pytest.mark.parametrize("letterbox", [False, True])
def test_boxes_go_there_and_back(letterbox):
    boxes = RNG.uniform(0, 50, (20, 4)).astype(np.float32)
    _, placement = fit(picture(70, 50), (96, 160), letterbox)
    there = placement.forward(boxes)
    assert there.dtype == np.float32
    assert np.allclose(placement.back(there), boxes, atol=1e-4)
    assert placement.forward(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize("letterbox", [False, True])
def test_boxes_follow_the_pixels(letterbox):
    source = np.zeros((60, 90, 3), np.uint8)
    source[20:40, 30:75] = 255
    fitted, placement = fit(source, (180, 180), letterbox)
    rows, columns = np.nonzero(fitted[..., 0] > 200)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.allclose(placement.forward(np.array([[30.0, 20, 75, 40]]))[0], found, atol=1.5)
