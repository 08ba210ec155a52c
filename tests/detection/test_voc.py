"""VOC's numbers against cases computed by hand and against a loop over detections."""

import json

import numpy as np
import pytest
from scenes import FAR, A, B, C, make_found, make_truth, overlap

from detect_prune.detection import darknet_map, voc_metrics


def test_by_hand():
    """Right, wrong, right, the same again: precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3."""
    found = make_found([A, FAR, B, B], [0] * 4, [0.9, 0.8, 0.7, 0.2])
    result = voc_metrics([make_truth([A, B, C], [0, 0, 0])], [found], ["cat"])
    assert result.mAP == pytest.approx(1 / 3 + 2 / 3 / 3)
    row = result.classes[0]
    assert (row.truths, row.TP, row.FP, row.FN) == (3, 2, 1, 1)
    assert result.precision == pytest.approx(2 / 3) and result.recall == pytest.approx(2 / 3)
    points = voc_metrics([make_truth([A, B, C], [0, 0, 0])], [found], ["cat"], ap="11-point")
    # Recalls 0 to .3 see precision 1, .4 to .6 see 2/3, .7 to 1 see none.
    assert points.mAP == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_three_rules_for_difficult_objects():
    truth = make_truth([A, B], [0, 0], difficult=[True, False])
    found = make_found([A, A, B], [0] * 3, [0.9, 0.8, 0.7])
    by_rule = {rule: voc_metrics([truth], [found], ["cat"], difficult=rule) for rule in ("ignore", "drop", "keep")}
    assert by_rule["ignore"].mAP == pytest.approx(1)  # any number of detections on it count neither way
    assert by_rule["drop"].mAP == pytest.approx(1 / 3)
    assert by_rule["keep"].mAP == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert [(r.TP, r.FP, r.FN) for r in by_rule.values()] == [(1, 0, 0), (1, 2, 0), (2, 1, 0)]


def test_means_with_and_without_the_classes_that_have_no_truth():
    result = voc_metrics([make_truth([A], [0])], [make_found([A, B], [0, 1], [0.9, 0.9])], ["cat", "dog"])
    assert result.mAP == pytest.approx(1) and result.mAP_all == pytest.approx(0.5)
    assert result.classes[1].AP is None and result.classes[1].FP == 1


def test_nothing_found_is_zero_and_nothing_to_find_is_none():
    assert voc_metrics([make_truth([A], [0])], [make_found([], [], [])], ["cat"]).mAP == 0
    result = voc_metrics([make_truth([], [])], [make_found([], [], [])], ["cat"])
    assert result.mAP is None and (result.TP, result.FP, result.FN) == (0, 0, 0)
    assert voc_metrics([], [], ["cat"]).mAP is None
    assert json.loads(json.dumps(result.as_dict()))["mAP"] is None


def test_crowd_regions_are_no_truths():
    result = voc_metrics([make_truth([A, B], [0, 0], crowd=[True, False])], [make_found([B], [0], [0.9])], ["cat"])
    assert result.mAP == pytest.approx(1) and result.FN == 0


def test_overlap_must_exceed_the_threshold_and_boxes_are_continuous():
    half = [0, 0, 100, 50]
    assert voc_metrics([make_truth([A], [0])], [make_found([half], [0], [0.9])], ["cat"]).mAP == 0
    more = [0, 0, 100, 51]
    assert voc_metrics([make_truth([A], [0])], [make_found([more], [0], [0.9])], ["cat"]).mAP == 1


def test_detections_of_other_pictures_and_classes_do_not_match():
    truths = [make_truth([A], [0]), make_truth([B], [1])]
    found = [make_found([A, B], [1, 0], [0.9, 0.8]), make_found([A], [0], [0.7])]
    result = voc_metrics(truths, found, ["cat", "dog"])
    assert result.mAP == 0 and (result.TP, result.FP, result.FN) == (0, 3, 2)


def loop_ap(truths, detections, label, ap, rule) -> float | None:
    """VOCevaldet.m as a loop, without its extra pixel."""
    rows, objects = [], []
    for image, (truth, found) in enumerate(zip(truths, detections)):
        for box, own, hard in zip(truth.boxes.tolist(), truth.labels.tolist(), truth.difficult.tolist()):
            if own == label and not (hard and rule == "drop"):
                objects.append({"image": image, "box": box, "hard": hard and rule == "ignore", "taken": False})
        for box, own, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()):
            if own == label:
                rows.append((score, image, box))
    n = sum(not thing["hard"] for thing in objects)
    if n == 0:
        return None
    tp = fp = 0
    curve = []
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        mine = [thing for thing in objects if thing["image"] == image]
        best = max(mine, key=lambda thing: overlap(box, thing["box"]), default=None)
        if best is not None and overlap(box, best["box"]) > 0.5:
            if not best["hard"]:
                tp, fp = tp + (not best["taken"]), fp + best["taken"]
                best["taken"] = True
        else:
            fp += 1
        curve.append((tp / n, tp / max(tp + fp, 1)))
    if ap != "area":
        n = int(ap.split("-")[0])
        return sum(max((p for r, p in curve if r >= t / (n - 1)), default=0) for t in range(n)) / n
    area, last = 0.0, 0.0
    for index, (recall, _) in enumerate(curve):
        area += (recall - last) * max(p for _, p in curve[index:])
        last = recall
    return area


@pytest.mark.parametrize("ap", ["area", "11-point", "101-point"])
@pytest.mark.parametrize("rule", ["ignore", "drop", "keep"])
def test_equals_the_loop(ap, rule):
    random = np.random.default_rng(5)
    truths, detections = [], []
    for _ in range(30):
        low = random.uniform(0, 300, (6, 2))
        boxes = np.concatenate([low, low + random.uniform(20, 150, (6, 2))], 1)
        labels = random.integers(3, size=6)
        truths.append(make_truth(boxes, labels, difficult=(random.random(6) < 0.2).tolist()))
        found = np.concatenate([boxes, boxes + random.normal(0, 15, boxes.shape)])
        relabelled = np.where(random.random(12) < 0.2, random.integers(3, size=12), np.tile(labels, 2))
        detections.append(make_found(found.tolist(), relabelled.tolist(), random.random(12).tolist()))
    result = voc_metrics(truths, detections, ["a", "b", "c", "none"], ap, rule)
    expected = [loop_ap(truths, detections, label, ap, rule) for label in range(4)]
    assert expected[3] is None and 0.2 < expected[0] < 0.9
    for row, value in zip(result.classes, expected):
        assert (value if value is None else pytest.approx(value)) == row.AP
        assert row.truths == row.TP + row.FN


def test_table_shows_classes_and_numbers():
    text = str(voc_metrics([make_truth([A], [1])], [make_found([A], [1], [0.9])], ["cat", "giraffe"]))
    assert "giraffe       1  1.000     1     0     0" in text and "cat           0      -" in text
    assert "1.000 over the classes that have truths, 0.500 over all" in text


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="1 truths and 0 detections"):
        voc_metrics([make_truth([], [])], [], ["cat"])
    with pytest.raises(ValueError, match="hide"):
        voc_metrics([], [], ["cat"], difficult="hide")
    with pytest.raises(ValueError, match="12-point"):
        voc_metrics([], [], ["cat"], ap="12-point")


@pytest.mark.parametrize("metrics", [voc_metrics, darknet_map])
def test_what_scores_just_the_threshold_does_not_count(metrics):
    result = metrics([make_truth([A, B], [0, 0])], [make_found([A, B], [0, 0], [0.5, 0.25])], ["cat"], confidence=0.25)
    assert (result.TP, result.FN) == (1, 1)
