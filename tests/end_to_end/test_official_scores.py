"""The official yolov4-tiny weights, end to end: boxes as OpenCV has them, and the scores of the main job."""

import cv2
import numpy as np
import pytest
import torch

from detect_prune.darknet import Darknet, load_cfg, read_weights
from detect_prune.datasets import Fit, load_data, read_picture
from detect_prune.detection import coco_metrics, decode, detect
from detect_prune.structures import Detections
from detect_prune.tasks.inference import inference_copy, to_input

SIZE = (416, 416)


@pytest.fixture(scope="module")
def net(real_data):
    net = Darknet(load_cfg(real_data / "weights/yolov4-tiny/yolov4-tiny.cfg"))
    read_weights(net, real_data / "weights/yolov4-tiny/yolov4-tiny.weights")
    return net.eval()


@pytest.fixture(scope="module")
def data(real_data):
    return load_data("coco", root=real_data / "coco")


def forward(net, data, letterbox: bool):
    """Raw heads of every 16 pictures of val, from the copy that scores, and the placement of each picture."""
    fit = Fit(SIZE, letterbox)
    fitted = [fit(read_picture(truth.path)) for truth in data.val]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in fitted])).permute(0, 3, 1, 2)
    network = inference_copy(net)
    with torch.inference_mode():
        raws = [network(to_input(part, network)) for part in pictures.split(16)]
    return raws, [placement for _, placement in fitted]


@pytest.fixture(scope="module")
def stretched(net, data):
    return forward(net, data, letterbox=False)


def found_in(net, data, run, **settings) -> list[Detections]:
    """Detections in pixels of the stored pictures, clipped."""
    raws, placements = run
    result = []
    for found, placement in zip(
        (one for part in raws for one in detect(part, net.heads, SIZE, **settings)), placements
    ):
        boxes = placement.back(found.boxes.numpy()).clip(0, [placement.width, placement.height] * 2)
        result.append(Detections(torch.from_numpy(boxes), found.scores, found.labels, data.names))
    return result


def test_plain_suppression(net, data, stretched):
    result = coco_metrics(data.val, found_in(net, data, stretched, nms="plain", iou_threshold=0.45), data.names)
    assert pytest.approx((0.263, 0.491), abs=0.001) == (result.AP, result.AP50)


def test_suppression_of_the_cfg(net, data, stretched):
    result = coco_metrics(data.val, found_in(net, data, stretched), data.names)
    assert pytest.approx((0.2719, 0.4795), abs=0.0002) == (result.AP, result.AP50)


def test_letterbox(net, data):
    run = forward(net, data, letterbox=True)
    result = coco_metrics(data.val, found_in(net, data, run, nms="plain", iou_threshold=0.45), data.names)
    assert pytest.approx((0.272, 0.476), abs=0.003) == (result.AP, result.AP50)


@pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromDarknet"), reason="this OpenCV has no Darknet importer")
def test_decoded_boxes_equal_opencv(net, real_data):
    """OpenCV's importer with batch-norm's eps as it is there, and its threshold of 0.2 taken away."""
    folder = real_data / "weights/yolov4-tiny"
    cfg = (folder / "yolov4-tiny.cfg").read_text().replace("[yolo]", "[yolo]\nthresh=0.000001")
    weights = np.fromfile(folder / "yolov4-tiny.weights", np.uint8)
    oracle = cv2.dnn.readNetFromDarknet(np.frombuffer(cfg.encode(), np.uint8), weights)
    oracle.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    picture, _ = Fit(SIZE)(read_picture(real_data / "darknet/images/dog.jpg"))
    pixels = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255
    oracle.setInput(pixels)
    outputs = oracle.forward(oracle.getUnconnectedOutLayersNames())
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eps = 1e-6
    try:
        with torch.inference_mode():
            raws = net(torch.from_numpy(pixels))
    finally:
        for norm in norms:
            norm.eps = 1e-5
    for raw, head in zip(raws, net.heads):
        boxes, objectness, classes = decode(raw, head, SIZE)
        count = len(head.anchors) * raw.shape[2] * raw.shape[3]
        rows = next(torch.from_numpy(rows) for rows in outputs if rows.shape[0] == count)
        # OpenCV lists cell by cell, we list anchor by anchor.
        rows = rows.view(raw.shape[2], raw.shape[3], len(head.anchors), -1).permute(2, 0, 1, 3).flatten(0, 2)
        expected = torch.cat([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
        torch.testing.assert_close(boxes[0] / 416, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(objectness[0], rows[:, 4], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(objectness[0, :, None] * classes[0], rows[:, 5:], rtol=1e-3, atol=1e-5)
        assert objectness.max() > 0.5
