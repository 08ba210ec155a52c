"""Decoding against OpenCV's region layer, which reads a one-convolution Darknet network that the test writes itself."""

import math
import struct

import cv2
import numpy as np
import pytest
import torch

from detect_prune.detection import decode
from detect_prune.structures import HeadSpec

ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0))


def make_head(scale=1.0, new_coords=False, classes=3, mask=(1, 2, 3)) -> HeadSpec:
    anchors = tuple(ANCHORS[m] for m in mask)
    return HeadSpec(1, anchors, mask, ANCHORS, classes, scale_x_y=scale, new_coords=new_coords)


def opencv_rows(head: HeadSpec, weight: np.ndarray, bias: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """What OpenCV makes of [convolutional] + [yolo]: (h * w * A, 5 + C) cxcywh as fractions, objectness, scores."""
    height, width = picture.shape[2:]
    cfg = f"""[net]
width={width}
height={height}
channels=3
[convolutional]
filters={len(bias)}
size=1
stride=1
pad=1
activation={"logistic" if head.new_coords else "linear"}
[yolo]
mask={",".join(map(str, head.mask))}
anchors={",".join(f"{a:g}" for anchor in ANCHORS for a in anchor)}
classes={head.classes}
num={len(ANCHORS)}
scale_x_y={head.scale_x_y}
new_coords={int(head.new_coords)}
thresh=0.000001
"""
    weights = struct.pack("<iiiq", 0, 2, 5, 0) + bias.tobytes() + weight.tobytes()
    net = cv2.dnn.readNetFromDarknet(np.frombuffer(cfg.encode(), np.uint8), np.frombuffer(weights, np.uint8))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setInput(picture)
    return net.forward()


@pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromDarknet"), reason="this OpenCV has no Darknet importer")
@pytest.mark.parametrize("scale", [1.0, 1.05, 2.0])
@pytest.mark.parametrize("new_coords", [False, True])
def test_decode_equals_opencv(scale, new_coords):
    head = make_head(scale, new_coords)
    random = np.random.default_rng(0)
    channels = len(head.anchors) * (5 + head.classes)
    weight = random.normal(0, 1, (channels, 3, 1, 1)).astype(np.float32)
    bias = random.normal(0, 1, channels).astype(np.float32)
    picture = random.random((1, 3, 5, 7)).astype(np.float32)
    rows = opencv_rows(head, weight, bias, picture).reshape(5, 7, len(head.anchors), -1)
    raw = torch.nn.functional.conv2d(torch.from_numpy(picture), torch.from_numpy(weight), torch.from_numpy(bias))
    boxes, objectness, classes = decode(raw.sigmoid() if new_coords else raw, head, (7, 5))
    rows = torch.from_numpy(rows).permute(2, 0, 1, 3).reshape(1, -1, 5 + head.classes)
    expected = torch.cat([rows[..., :2] - rows[..., 2:4] / 2, rows[..., :2] + rows[..., 2:4] / 2], -1)
    torch.testing.assert_close(boxes / torch.tensor([7, 5, 7, 5]), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(objectness, rows[..., 4], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(objectness[..., None] * classes, rows[..., 5:], rtol=1e-4, atol=1e-6)


def test_decode_by_hand():
    """One prediction written out with plain Python arithmetic."""
    head = make_head(1.1, classes=1, mask=(2,))
    raw = torch.zeros(1, 6, 2, 4)
    raw[0, :, 1, 3] = torch.tensor([0.3, -0.2, 0.5, -0.7, 1.0, 2.0])
    boxes, objectness, classes = decode(raw, head, (128, 64))

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    x, y = (3 + sigmoid(0.3) * 1.1 - 0.05) * 32, (1 + sigmoid(-0.2) * 1.1 - 0.05) * 32
    w, h = math.exp(0.5) * 37, math.exp(-0.7) * 58
    assert boxes[0, 7].tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], rel=1e-5)
    assert objectness[0, 7].item() == pytest.approx(sigmoid(1))
    assert classes[0, 7].tolist() == pytest.approx([sigmoid(2)])


def test_shapes_and_types():
    head = make_head(classes=4)
    boxes, objectness, classes = decode(torch.randn(2, 27, 3, 5).bfloat16(), head, (160, 96))
    assert boxes.shape == (2, 45, 4) and objectness.shape == (2, 45) and classes.shape == (2, 45, 4)
    assert boxes.dtype == objectness.dtype == classes.dtype == torch.float32


def test_a_batch_equals_its_pictures():
    head = make_head(1.05)
    raw = torch.randn(3, 24, 4, 4)
    together = decode(raw, head, (64, 64))
    for index in range(3):
        for whole, single in zip(together, decode(raw[index : index + 1], head, (64, 64))):
            assert torch.equal(whole[index : index + 1], single)


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_extreme_logits_stay_finite(value):
    for part in decode(torch.full((1, 24, 2, 2), value), make_head(), (64, 64)):
        assert part.isfinite().all()


def test_a_tensor_of_another_head_is_refused():
    with pytest.raises(ValueError, match="24"):
        decode(torch.zeros(1, 25, 2, 2), make_head(), (64, 64))
