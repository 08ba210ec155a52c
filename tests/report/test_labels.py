"""Lines and records say the same of a picture as the boxes do."""

import numpy as np
import torch
from scenes import make_found

from detect_prune.report.labels import label_lines, records
from detect_prune.structures import Detections

FOUND = Detections(
    torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 200.0, 100.0]]),
    torch.tensor([0.75, 0.5]),
    torch.tensor([16, 0]),
    tuple(f"name {label}" for label in range(20)),
)


def test_a_line_an_object_in_shares_of_the_picture():
    first, second = label_lines(FOUND, (200, 100)).splitlines()
    assert first == "16 0.100000 0.400000 0.100000 0.400000 0.750000"
    assert second == "0 0.500000 0.500000 1.000000 1.000000 0.500000"
    assert label_lines(make_found([], [], []), (200, 100)) == ""


def test_boxes_come_back_from_the_lines():
    rows = np.loadtxt(label_lines(FOUND, (200, 100)).splitlines())
    centre, size = rows[:, 1:3] * (200, 100), rows[:, 3:5] * (200, 100)
    boxes = np.hstack([centre - size / 2, centre + size / 2])
    assert np.abs(boxes - FOUND.boxes.numpy()).max() < 1e-3


def test_records_name_the_class():
    assert records(FOUND)[0] == {"class": 16, "name": "name 16", "score": 0.75, "box": [10.0, 20.0, 30.0, 60.0]}
    assert [record["class"] for record in records(FOUND)] == [16, 0] and records(make_found([], [], [])) == []
