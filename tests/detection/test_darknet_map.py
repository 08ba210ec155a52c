"""`darknet detector map`'s numbers against its own procedure as loops over detections."""

import json

import numpy as np
import pytest
from scenes import FAR, A, B, make_found, make_truth, overlap

from detect_prune.detection import darknet_map, voc_metrics


def loop_map(truths, lists, classes, iou_threshold, confidence, rule):
    """validate_detector_map: picture by picture for the totals, then all detections from the best down for AP."""
    ranking, totals, truth_count, sum_iou = [], np.zeros((classes, 2), int), 0, 0.0
    numbers = np.zeros(classes, int)
    for truth, found in zip(truths, lists):
        rows = list(zip(truth.boxes.tolist(), truth.labels.tolist(), truth.crowd.tolist(), truth.difficult.tolist()))
        plain = [(box, label) for box, label, crowd, hard in rows if not crowd and (not hard or rule == "keep")]
        hard = [(box, label) for box, label, crowd, hard in rows if not crowd and hard and rule == "ignore"]
        for _, label in plain:
            numbers[label] += 1
        seen = set()
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()):
            best, fit = 0.0, None
            for index, (other, own) in enumerate(plain):
                if own == label and overlap(box, other) > max(best, iou_threshold):
                    best, fit = overlap(box, other), truth_count + index
            if score > confidence:
                hit = fit is not None and fit not in seen
                totals[label, 0 if hit else 1] += 1
                sum_iou += best if hit else 0
            if fit is not None:
                seen.add(fit)
            elif any(own == label and overlap(box, other) > iou_threshold for other, own in hard):
                continue
            ranking.append((score, label, fit))
        truth_count += len(plain)
    taken, precisions = set(), []
    curves = [[] for _ in range(classes)]
    for _, label, fit in sorted(ranking, key=lambda row: -row[0]):
        curves[label].append(fit is not None and fit not in taken)
        taken.add(fit)
    for curve, n in zip(curves, numbers):
        points = [(sum(curve[: i + 1]) / max(n, 1), sum(curve[: i + 1]) / (i + 1)) for i in range(len(curve))]
        area, last = 0.0, 0.0
        for index, (recall, _) in enumerate(points):
            area += (recall - last) * max(p for _, p in points[index:])
            last = recall
        precisions.append(area if n else 0.0)
    return len(ranking), truth_count, totals, sum_iou / max(totals.sum(), 1), precisions


@pytest.fixture
def scene():
    """Thirty pictures with boxes of three classes, and two detections near each object, in no order."""
    random = np.random.default_rng(5)
    truths, lists = [], []
    for _ in range(30):
        low = random.uniform(0, 300, (6, 2))
        boxes = np.concatenate([low, low + random.uniform(20, 150, (6, 2))], 1)
        labels = random.integers(3, size=6)
        difficult, crowd = (random.random((2, 6)) < 0.2).tolist()
        truths.append(make_truth(boxes, labels, difficult, crowd))
        found = np.concatenate([boxes, boxes + random.normal(0, 15, boxes.shape)])
        relabelled = np.where(random.random(12) < 0.2, random.integers(3, size=12), np.tile(labels, 2))
        lists.append(make_found(found.tolist(), relabelled.tolist(), random.random(12).tolist()))
    return truths, lists


@pytest.mark.parametrize("rule", ["drop", "ignore", "keep"])
@pytest.mark.parametrize("iou_threshold", [0.5, 0.75])
def test_equals_the_loop(scene, rule, iou_threshold):
    result = darknet_map(*scene, ["a", "b", "c", "none"], difficult=rule, iou_threshold=iou_threshold, confidence=0.3)
    count, truth_count, totals, average_iou, precisions = loop_map(*scene, 4, iou_threshold, 0.3, rule)
    assert (result.detections, result.truths) == (count, truth_count)
    assert [(row.TP, row.FP) for row in result.classes] == [tuple(row) for row in totals.tolist()]
    assert tuple(totals.sum(0)) == (result.TP, result.FP)
    assert result.average_iou == pytest.approx(average_iou)
    assert [row.AP for row in result.classes] == pytest.approx(precisions)
    assert precisions[3] == 0 < precisions[0] < 0.9 and result.mAP == pytest.approx(sum(precisions) / 4)


@pytest.mark.parametrize("ap", ["area", "11-point", "101-point"])
@pytest.mark.parametrize("rule", ["drop", "keep"])
def test_its_ap_is_vocs_and_a_class_without_truth_counts_0(scene, ap, rule):
    names = ["a", "b", "c", "none"]
    voc = voc_metrics(*scene, names, ap=ap, difficult=rule)
    result = darknet_map(*scene, names, ap=ap, difficult=rule)
    assert [row.AP for row in result.classes] == pytest.approx([row.AP or 0 for row in voc.classes])
    assert result.mAP == pytest.approx(voc.mAP_all) and result.mAP < voc.mAP


def test_a_truth_is_taken_by_the_first_of_the_list_however_low_its_score():
    """The order of the list decides about TP and FP, that of the scores about AP."""
    truth, far = make_truth([A, B], [0, 0]), [[0, 0, 0.1, 0.1]] * 2
    for first, second, expected in ((0.9, 0.1, (1, 0)), (0.1, 0.9, (0, 1)), (0.8, 0.9, (1, 1))):
        found = make_found([A, A], [0, 0], [first, second])
        result = darknet_map([truth], [found], ["cat"])
        assert (*expected, 2 - expected[0]) == (result.TP, result.FP, result.FN)
        assert result.mAP == pytest.approx(0.5)
    assert darknet_map([truth], [make_found(far, [0, 0], [0.9, 0.8])], ["cat"]).mAP == 0


def test_average_iou_is_over_the_wrong_ones_too():
    close = [0, 0, 100, 80]
    result = darknet_map([make_truth([A], [0])], [make_found([close, FAR], [0, 0], [0.9, 0.8])], ["cat"])
    assert result.average_iou == pytest.approx(0.8 / 2)
    assert (result.precision, result.recall, result.F1) == (0.5, 1, pytest.approx(2 / 3))


def test_nothing_found_and_nothing_to_find():
    empty = make_found([], [], [])
    assert darknet_map([make_truth([A], [0])], [empty], ["cat"]).mAP == 0
    result = darknet_map([make_truth([], [])], [make_found([A], [0], [0.9])], ["cat"])
    assert (result.mAP, result.TP, result.FP, result.FN, result.F1) == (0, 0, 1, 0, 0)
    assert json.loads(json.dumps(darknet_map([], [], ["cat"]).as_dict()))["mAP"] == 0


def test_what_is_written_has_the_usual_names_too():
    result = darknet_map([make_truth([A, B], [0, 1])], [make_found([A, FAR], [0, 0], [0.9, 0.8])], ["cat", "dog"])
    values = result.as_dict()
    assert values["AP50"] == values["mAP"] == 0.5
    assert [(row["TP"], row["FP"], row["FN"]) for row in values["classes"]] == [(1, 1, 0), (0, 0, 1)]
    assert sum(row["FN"] for row in values["classes"]) == values["FN"]
    assert "AP50" not in darknet_map([], [], ["cat"], iou_threshold=0.75).as_dict()


def test_it_prints_what_darknet_prints():
    truths = [make_truth([A, B], [0, 1])]
    found = [make_found([A, FAR, B], [0, 0, 1], [0.9, 0.8, 0.2])]
    assert str(darknet_map(truths, found, ["cat", "dog"])).split("\n") == [
        " detections_count = 3, unique_truth_count = 2",
        "class_id = 0, name = cat, ap = 100.00%   \t (TP = 1, FP = 1)",
        "class_id = 1, name = dog, ap = 100.00%   \t (TP = 0, FP = 0)",
        "",
        " for conf_thresh = 0.25, precision = 0.50, recall = 0.50, F1-score = 0.50",
        " for conf_thresh = 0.25, TP = 1, FP = 1, FN = 1, average IoU = 50.00 %",
        "",
        " IoU threshold = 50 %, used Area-Under-Curve for each unique Recall",
        " mean average precision (mAP@0.50) = 1.000000, or 100.00 %",
    ]
    assert "used 11 Recall-points" in str(darknet_map(truths, found, ["cat", "dog"], ap="11-point"))


def test_bad_arguments_are_refused():
    for options in ({"ap": "7-point"}, {"difficult": "hide"}):
        with pytest.raises(ValueError, match=r"7-point|hide"):
            darknet_map([], [], ["cat"], **options)
    with pytest.raises(ValueError, match="1 truths and 0 detections"):
        darknet_map([make_truth([], [])], [], ["cat"])
