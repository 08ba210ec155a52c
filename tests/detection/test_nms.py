"""Suppression against a loop over boxes and against torchvision; detection against a loop over decoded predictions."""

import dataclasses

import pytest
import torch
import torchvision
from heads import make_heads

from detect_prune.boxes import cxcywh_to_xyxy
from detect_prune.detection import decode, detect
from detect_prune.detection import nms as nms_module
from detect_prune.detection.nms import suppress


def crowd(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes in a few heaps, so that chains of overlaps arise, and their scores."""
    draw = torch.Generator().manual_seed(seed)
    heaps = torch.rand(6, 4, generator=draw) * torch.tensor([0.8, 0.8, 0.3, 0.3]) + 0.1
    boxes = heaps[torch.randint(6, (n,), generator=draw)] * (0.85 + 0.3 * torch.rand(n, 4, generator=draw))
    return cxcywh_to_xyxy(boxes), torch.rand(n, generator=draw)


def overlap(a: list[float], b: list[float], exponent: float | None) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    iou = common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
    if exponent is None:
        return iou
    d = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    c = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    return iou - (d / c) ** exponent


def loop_nms(boxes, scores, groups, threshold, exponent) -> list[int]:
    kept = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        rivals = (k for k in kept if groups[k] == groups[index])
        if all(overlap(boxes[k], boxes[index], exponent) <= threshold for k in rivals):
            kept.append(index)
    return kept


@pytest.mark.parametrize(("kind", "exponent"), [("default", None), ("greedynms", 0.6), ("diounms", 0.8)])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loop(kind, exponent, seed, monkeypatch):
    monkeypatch.setattr(nms_module, "_PAIRS_AT_ONCE", 1000)  # so that several chunks are needed
    boxes, scores = crowd(200, seed)
    groups = torch.randint(3, (200,), generator=torch.Generator().manual_seed(seed))
    kept = suppress(boxes, scores, groups, 0.4, kind, beta=0.8)
    assert kept.tolist() == loop_nms(boxes.tolist(), scores.tolist(), groups.tolist(), 0.4, exponent)
    assert 3 < len(kept) < 150


def test_equals_torchvision():
    boxes, scores = crowd(500, 9)
    groups = torch.arange(500) % 5
    expected = torchvision.ops.batched_nms(boxes, scores, groups, 0.5)
    assert suppress(boxes, scores, groups, 0.5).tolist() == expected.tolist()


def test_a_suppressed_box_suppresses_nothing():
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])
    assert suppress(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64), 0.5).tolist() == [0, 2]


def test_equal_boxes_with_equal_scores_leave_the_first():
    boxes = torch.tensor([[0.0, 0, 1, 1]]).repeat(5, 1)
    for kind in ("default", "greedynms", "diounms"):
        assert suppress(boxes, torch.full((5,), 0.5), torch.zeros(5, dtype=torch.int64), 0.5, kind).tolist() == [0]


def test_nothing_in_nothing_out():
    assert suppress(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []
    found = detect([torch.full((2, 16, 2, 2), -50.0), torch.full((2, 16, 4, 4), -50.0)], make_heads(), (64, 64))
    assert [len(picture) for picture in found] == [0, 0]


@pytest.mark.parametrize("kind", ["default", "greedynms", "diounms"])
@pytest.mark.parametrize("mode", ["cfg", "plain"])
def test_detect_equals_a_loop_over_decoded_predictions(kind, mode):
    torch.manual_seed(1)
    heads = make_heads(nms_kind=kind, scale_x_y=1.1, beta_nms=0.7)
    raws = [torch.randn(2, 16, 2, 3) - 1, torch.randn(2, 16, 4, 6) - 1]
    found = detect(raws, heads, (96, 64), score_threshold=0.05, iou_threshold=0.3, nms=mode)
    decoded = [torch.cat(part, 1) for part in zip(*(decode(raw, head, (96, 64)) for raw, head in zip(raws, heads)))]
    exponent = None if mode == "plain" else {"default": None, "greedynms": 0.6, "diounms": 0.7}[kind]
    for index, picture in enumerate(found):
        boxes, objectness, classes = (part[index] for part in decoded)
        box, label = (objectness[:, None] * classes > 0.05).nonzero(as_tuple=True)
        scores = objectness[box] * classes[box, label]
        fractions = boxes / torch.tensor([96, 64, 96, 64])
        kept = loop_nms(fractions[box].tolist(), scores.tolist(), label.tolist(), 0.3, exponent)
        assert picture.labels.tolist() == label[kept].tolist()
        torch.testing.assert_close(picture.scores, scores[kept])
        torch.testing.assert_close(picture.boxes, boxes[box[kept]], rtol=1e-4, atol=1e-3)
        assert 5 < len(kept) < len(box)


def test_a_batch_equals_its_pictures_best_first():
    torch.manual_seed(2)
    heads = make_heads(nms_kind="greedynms")
    raws = [torch.randn(3, 16, 2, 2), torch.randn(3, 16, 4, 4)]
    together = detect(raws, heads, (64, 64), 0.1, 0.5)
    for index, picture in enumerate(together):
        (single,) = detect([raw[index : index + 1] for raw in raws], heads, (64, 64), 0.1, 0.5)
        assert torch.equal(picture.boxes, single.boxes) and torch.equal(picture.labels, single.labels)
        assert picture.scores.tolist() == sorted(picture.scores.tolist(), reverse=True)


def test_only_the_best_candidates_of_each_picture_enter():
    torch.manual_seed(3)
    raws = [torch.randn(2, 16, 2, 2), torch.randn(2, 16, 4, 4)]
    # Nothing suppresses anything at an IoU of 1, so that all that enters comes out.
    everything = detect(raws, make_heads(), (64, 64), 0.001, 1.0)
    best = detect(raws, make_heads(), (64, 64), 0.001, 1.0, max_candidates=20)
    for whole, part in zip(everything, best):
        assert len(part) == 20 and torch.equal(part.scores, whole.scores[:20])


def test_the_last_head_decides_where_heads_disagree():
    torch.manual_seed(4)
    raws = [torch.randn(1, 16, 2, 2), torch.randn(1, 16, 4, 4)]
    greedy, plain = make_heads(nms_kind="greedynms"), make_heads()
    counts = [
        len(detect(raws, heads, (64, 64), 0.05, 0.2)[0])
        for heads in (greedy, plain, [greedy[0], plain[1]], [plain[0], greedy[1]])
    ]
    assert counts[0] == counts[3] > counts[1] == counts[2]


def test_bfloat16_raws_give_float32_detections():
    raws = [torch.randn(1, 16, 2, 2).bfloat16(), torch.randn(1, 16, 4, 4).bfloat16()]
    (found,) = detect(raws, make_heads(), (64, 64), 0.1)
    assert found.boxes.dtype == found.scores.dtype == torch.float32


def test_unknown_kinds_are_refused():
    raws = [torch.randn(1, 16, 2, 2), torch.randn(1, 16, 4, 4)]
    with pytest.raises(ValueError, match="soft"):
        detect(raws, make_heads(), (64, 64), nms="soft")
    heads = [dataclasses.replace(head, nms_kind="cornersnms") for head in make_heads()]
    with pytest.raises(ValueError, match="cornersnms"):
        detect(raws, heads, (64, 64))


def darknet_rows(raws, heads, size, index, threshold):
    """Darknet's list of a picture: head by head, cell by cell, anchor by anchor: box cxcywh in fractions, scores."""
    rows = []
    for raw, head in zip(raws, heads):
        boxes, objectness, classes = (part[index] for part in decode(raw, head, size))
        height, width = raw.shape[2:]
        for cell in range(height * width):
            for anchor in range(len(head.anchors)):
                number = anchor * height * width + cell
                if objectness[number] > threshold:
                    scores = (objectness[number] * classes[number]).tolist()
                    fractions = boxes[number] / torch.tensor([*size, *size])
                    rows.append((fractions.tolist(), [score if score > threshold else 0.0 for score in scores]))
    return rows


def darknet_sort(rows, threshold, exponent, scale=(1, 1)):
    """diounms_sort: sorts by each class in turn, suppresses within it, and goes on with the list as it then stands."""
    rows = [([side * factor for side, factor in zip(box, (*scale, *scale))], list(scores)) for box, scores in rows]
    for label in range(3):
        rows.sort(key=lambda row: -row[1][label])
        for position, (box, scores) in enumerate(rows):
            if scores[label]:
                for other, others in rows[position + 1 :]:
                    if overlap(box, other, exponent) > threshold:
                        others[label] = 0.0
    return [
        ([side / factor for side, factor in zip(box, (*scale, *scale))], score, label)
        for box, scores in rows
        for label, score in enumerate(scores)
        if score
    ]


@pytest.mark.parametrize(("kind", "exponent"), [("default", None), ("greedynms", 0.6), ("diounms", 0.7)])
def test_darknets_order_is_that_of_its_sorts(kind, exponent):
    torch.manual_seed(5)
    heads = make_heads(nms_kind=kind, beta_nms=0.7)
    raws = [torch.randn(2, 16, 2, 3) - 1, torch.randn(2, 16, 4, 6) - 1]
    raws[0][1, :, 0, 0] = raws[0][1, :, 1, 1]  # equal scores in two cells, so that the grid decides
    found = detect(raws, heads, (96, 64), 0.03, 0.3, darknet_order=True)
    for index, picture in enumerate(found):
        expected = darknet_sort(darknet_rows(raws, heads, (96, 64), index, 0.03), 0.3, exponent)
        assert picture.labels.tolist() == [label for _, _, label in expected]
        assert picture.scores.tolist() == pytest.approx([score for _, score, _ in expected])
        boxes = torch.tensor([box for box, _, _ in expected]) * torch.tensor([96, 64, 96, 64])
        torch.testing.assert_close(picture.boxes, boxes, rtol=1e-4, atol=1e-3)
        assert len(picture) > 20 and (picture.scores.diff() > 0).any()


def test_distances_are_measured_in_the_unit_that_is_asked_for():
    torch.manual_seed(6)
    heads = make_heads(nms_kind="greedynms")
    raws = [torch.randn(2, 16, 2, 3), torch.randn(2, 16, 4, 6)]
    frames = torch.tensor([[500.0, 40.0], [30.0, 300.0]])
    found = detect(raws, heads, (96, 64), 0.05, 0.2, frames=frames)
    in_fractions = detect(raws, heads, (96, 64), 0.05, 0.2)
    for index, picture in enumerate(found):
        expected = darknet_sort(darknet_rows(raws, heads, (96, 64), index, 0.05), 0.2, 0.6, frames[index].tolist())
        assert sorted(picture.scores.tolist()) == pytest.approx(sorted(score for _, score, _ in expected))
        assert len(picture) != len(in_fractions[index])
    same = detect(raws, heads, (96, 64), 0.05, 0.2, frames=torch.tensor([[7.0, 7.0]] * 2))
    assert [part.scores.tolist() for part in same] == [part.scores.tolist() for part in in_fractions]


def test_the_beta_is_that_of_the_last_head():
    torch.manual_seed(4)
    raws = [torch.randn(1, 16, 2, 2), torch.randn(1, 16, 4, 4)]
    one, other = (make_heads(nms_kind="diounms", beta_nms=beta) for beta in (0.2, 2.0))
    counts = [
        len(detect(raws, heads, (64, 64), 0.05, 0.2)[0])
        for heads in (one, other, [one[0], other[1]], [other[0], one[1]])
    ]
    assert counts[0] == counts[3] > counts[1] == counts[2]


def test_boxes_that_do_not_touch_stay_at_a_threshold_of_zero():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    assert suppress(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64), 0.0).tolist() == [0, 1]
