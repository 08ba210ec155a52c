"""Resizing against OpenCV and against a loop over pixels in float32; boxes there and back."""

import cv2
import numpy as np
import pytest

from detect_prune.datasets.letterbox import Fit, Placement, resize_darknet

RNG = np.random.default_rng(0)


def picture(width, height):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_stretching_is_opencvs():
    source = picture(70, 50)
    fitted, placement = Fit((96, 64))(source)
    assert (fitted == cv2.resize(source, (96, 64), interpolation=cv2.INTER_LINEAR)).all()
    assert placement == Placement(70, 50, 96 / 70, 64 / 50)


@pytest.mark.parametrize("width, height", [(70, 50), (50, 70), (64, 64), (33, 31), (500, 3), (3, 500), (1, 1)])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (32, 96)])
def test_letterbox_keeps_the_shape_and_centres(width, height, size):
    fitted, placement = Fit(size, letterbox=True)(picture(width, height))
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


def loop_resize(source, width, height):
    """Darknet's resize_image, pixel by pixel, every number a float32."""
    f = np.float32
    old_height, old_width = source.shape[:2]
    pixels = source.astype(np.float32) / f(255)
    part = np.zeros((old_height, width, 3), np.float32)
    for column in range(width):
        if column == width - 1 or old_width == 1:
            part[:, column] = pixels[:, old_width - 1]
        else:
            x = f(column) * (f(old_width - 1) / f(width - 1))
            part[:, column] = (1 - (x - f(int(x)))) * pixels[:, int(x)] + (x - f(int(x))) * pixels[:, int(x) + 1]
    out = np.zeros((height, width, 3), np.float32)
    for row in range(height):
        y = f(row) * (f(old_height - 1) / f(height - 1))
        out[row] = (1 - (y - f(int(y)))) * part[int(y)]
        if row < height - 1 and old_height > 1:
            out[row] += (y - f(int(y))) * part[int(y) + 1]
    return out


@pytest.mark.parametrize("size", [(70, 50), (50, 70), (33, 31), (9, 3), (3, 9), (1, 1), (96, 64), (1, 20), (20, 1)])
def test_darknets_resizing_equals_the_loop(size):
    source = picture(*size)
    fitted, placement = Fit((96, 64), resize="darknet")(source)
    if size == (96, 64):
        assert np.allclose(fitted, source / 255, atol=1e-7)
    else:
        assert np.allclose(fitted, loop_resize(source, 96, 64), atol=1e-6)
    assert fitted.dtype == np.float32
    assert placement == Placement(*size, 96 / size[0], 64 / size[1])


def test_corners_fall_on_each_other_in_darknets_resizing():
    source = picture(70, 50)
    fitted = resize_darknet(source, 96, 64)
    assert np.allclose(fitted[[0, 0], [0, -1]], source[[0, 0], [0, -1]] / 255, atol=1e-6)


def test_the_lowest_row_is_black_where_float32_falls_short():
    """Of the heights up to 600, some stretched to 416 rows have their last row a hair above the picture's."""
    short = [n for n in range(2, 600) if int(np.float32(415) * (np.float32(n - 1) / np.float32(415))) == n - 2]
    assert 5 < len(short) < 200
    source = np.full((short[-1], 4, 3), 200, np.uint8)
    assert resize_darknet(source, 4, 416)[-1].max() < 0.01 and resize_darknet(source, 4, 416)[-2].min() > 0.7


@pytest.mark.parametrize("resize", ["opencv", "darknet"])
def test_darknets_letterbox_truncates(resize):
    """55 x 33 on 64 x 64: 38.4 rows become 38, which is 13 above; on 64 x 63 the middle is half a pixel off."""
    source = np.full((33, 55, 3), 255, np.uint8)
    fitted, placement = Fit((64, 64), True, resize, truncate=True)(source)
    white = 255 if resize == "opencv" else 1
    assert (
        (fitted[13:51] >= 0.99 * white).all()
        and (fitted[:13] < 0.6 * white).all()
        and (fitted[51:] < 0.6 * white).all()
    )
    assert placement == Placement(55, 33, 64 / 55, 38 / 33, 0, 13)
    assert Fit((64, 63), True, resize, truncate=True)(source)[1].top == 12.5
    assert Fit((64, 64), True, resize)(np.full((34, 55, 3), 255, np.uint8))[1].scale_y == 40 / 34  # 39.56, rounded


def test_an_unknown_way_of_resizing_is_refused():
    with pytest.raises(ValueError, match="opencv or darknet, not 'pillow'"):
        Fit((64, 64), False, "pillow")


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
def test_boxes_go_there_and_back(letterbox, truncate):
    boxes = RNG.uniform(0, 50, (20, 4)).astype(np.float32)
    _, placement = Fit((96, 161), letterbox, truncate=truncate)(picture(70, 50))
    there = placement.forward(boxes)
    assert there.dtype == np.float32
    assert np.allclose(placement.back(there), boxes, atol=1e-4)
    assert placement.forward(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("resize", ["opencv", "darknet"])
def test_boxes_follow_the_pixels(letterbox, resize):
    source = np.zeros((60, 90, 3), np.uint8)
    source[20:40, 30:75] = 255
    fitted, placement = Fit((180, 180), letterbox, resize)(source)
    rows, columns = np.nonzero(fitted[..., 0] > (200 if resize == "opencv" else 0.78))
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.allclose(placement.forward(np.array([[30.0, 20, 75, 40]]))[0], found, atol=1.5)
