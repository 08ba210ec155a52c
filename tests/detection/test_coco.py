"""COCO's numbers against pycocotools itself, fed with the raw file, and against cases that are plain."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import make_found

from detect_prune.detection import coco_metrics
from detect_prune.structures import Truth


def make_truth(boxes, labels, areas=None, crowd=None, difficult=None, index=0) -> Truth:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    return Truth(
        Path(f"{index}.jpg"),
        index,
        640,
        480,
        boxes,
        np.array(labels, np.int64),
        (boxes[:, 2:] - boxes[:, :2]).prod(1) if areas is None else np.array(areas, np.float32),
        np.array(crowd if crowd is not None else [False] * n, bool),
        np.array(difficult if difficult is not None else [False] * n, bool),
    )


def test_equals_pycocotools_on_the_real_file(real_data, capsys):
    """Real truths, crowd and areas included; detections are noisy copies of them and false alarms."""
    file = real_data / "coco/annotations/instances_val2017.json"
    raw = json.loads(file.read_text())
    ids = sorted(category["id"] for category in raw["categories"])
    names = [next(c["name"] for c in raw["categories"] if c["id"] == i) for i in ids]
    random = np.random.default_rng(0)
    truths, detections, results = [], [], []
    for image in raw["images"]:
        rows = [row for row in raw["annotations"] if row["image_id"] == image["id"]]
        boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [ids.index(row["category_id"]) for row in rows]
        areas, crowd = [row["area"] for row in rows], [row["iscrowd"] for row in rows]
        truths.append(make_truth(boxes, labels, areas, crowd, index=image["id"]))
        found = boxes.repeat(2, 0) + random.normal(0, 8, (2 * len(boxes), 4)).astype(np.float32)
        false = random.uniform(0, 200, (5, 2)).astype(np.float32)
        found = np.concatenate([found, np.concatenate([false, false + 60], 1)])
        found_labels = [*np.repeat(labels, 2).astype(int).tolist(), *random.integers(80, size=5).tolist()]
        order = np.argsort(-(scores := random.random(len(found)).astype(np.float32)))
        scores, found, found_labels = scores[order], found[order], [found_labels[i] for i in order]
        detections.append(make_found(found.tolist(), found_labels, scores.tolist()))
        for box, label, score in zip(found.astype(float).tolist(), found_labels, scores.tolist()):
            box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": image["id"], "category_id": ids[label], "bbox": box, "score": score})
    result = coco_metrics(truths, detections, names)
    assert capsys.readouterr().out == ""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert [result.as_dict()[name] for name in numbers] == pytest.approx(evaluation.stats.tolist(), abs=1e-6)
    assert 0.1 < result.AP < 0.9
    for index, row in enumerate(result.classes):
        precision = evaluation.eval["precision"][:, :, index, 0, 2]
        assert (row.AP is None) == (precision.max() < 0)
        if row.AP is not None:
            assert pytest.approx((precision.mean(), precision[0].mean())) == (row.AP, row.AP50)
    assert sum(row.truths for row in result.classes) == sum(not row["iscrowd"] for row in raw["annotations"])


def test_perfect_detections_score_one():
    truths = [make_truth([[10, 10, 60, 70], [100, 100, 300, 300]], [0, 1], index=i) for i in range(3)]
    found = [make_found(truth.boxes.tolist(), [0, 1], [0.9, 0.8]) for truth in truths]
    result = coco_metrics(truths, found, ["cat", "dog"])
    assert result.AP == result.AP50 == result.APm == result.APl == result.AR100 == pytest.approx(1)
    assert result.APs is None
    assert [(row.name, row.truths) for row in result.classes] == [("cat", 3), ("dog", 3)]


def test_nothing_found_is_zero_and_nothing_to_find_is_none():
    truth, empty = make_truth([[10, 10, 60, 70]], [1]), make_truth([], [])
    result = coco_metrics([truth, empty], [make_found([], [], [])] * 2, ["cat", "dog"])
    assert result.AP == result.AR100 == 0 and result.classes[0].AP is None and result.classes[1].AP == 0
    result = coco_metrics([empty], [make_found([[0, 0, 9, 9]], [0], [0.5])], ["cat"])
    assert result.AP is None and result.classes[0].AP50 is None
    assert coco_metrics([], [], ["cat"]).AP is None
    assert json.loads(json.dumps(result.as_dict()))["classes"][0] == {
        "name": "cat",
        "truths": 0,
        "AP": None,
        "AP50": None,
    }


def test_a_detection_in_a_crowd_is_ignored_and_elsewhere_it_is_not():
    truth = make_truth([[0, 0, 400, 400], [500, 10, 600, 90]], [0, 0], crowd=[True, False])
    boxes, labels = [[500, 10, 600, 90], [10, 10, 60, 60], [100, 100, 150, 150]], [0, 0, 0]
    inside = coco_metrics([truth], [make_found(boxes, labels, [0.5, 0.9, 0.8])], ["cat"])
    assert pytest.approx(1) == inside.AP and inside.classes[0].truths == 1
    truth.crowd[0], truth.boxes[0] = False, [300, 300, 310, 310]
    assert coco_metrics([truth], [make_found(boxes, labels, [0.5, 0.9, 0.8])], ["cat"]).AP < 0.3


def test_difficult_objects_are_neither_missed_nor_false():
    truth = make_truth([[0, 0, 100, 100], [200, 200, 300, 300]], [0, 0], difficult=[True, False])
    easy, hard = [200.0, 200, 300, 300], [0.0, 0, 100, 100]
    result = coco_metrics([truth], [make_found([easy], [0], [0.5])], ["cat"])
    assert pytest.approx(1) == result.AP and result.classes[0].truths == 1
    assert pytest.approx(1) == coco_metrics([truth], [make_found([hard, easy], [0, 0], [0.9, 0.5])], ["cat"]).AP
    truth.difficult[:] = False
    assert pytest.approx(51 / 101) == coco_metrics([truth], [make_found([easy], [0], [0.5])], ["cat"]).AP50


def test_size_goes_by_the_area_of_the_truth_not_by_its_box():
    truth = make_truth([[0, 0, 100, 100]], [0], areas=[500])
    result = coco_metrics([truth], [make_found([[0, 0, 100, 100]], [0], [0.5])], ["cat"])
    assert result.APs == pytest.approx(1) and result.APl is None


def test_table_shows_classes_and_numbers():
    truth = make_truth([[0, 0, 100, 100]], [1])
    text = str(coco_metrics([truth], [make_found([[0, 0, 100, 100]], [1], [0.5])], ["cat", "giraffe"]))
    assert "giraffe       1  1.000  1.000" in text and "cat           0      -      -" in text
    assert "AP 1.000" in text and text.endswith("on 1 picture")


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="1 truths and 0 detections"):
        coco_metrics([make_truth([], [])], [], ["cat"])
