"""Running a network over a set, in the ways that the protocols say."""

import dataclasses
import threading

import cv2
import numpy as np
import pytest
import torch
from tiny import TINY_CFG, write_coco

from detect_prune.darknet import parse_cfg
from detect_prune.datasets import load_data
from detect_prune.datasets.detection_set import DetectionSetBuilder
from detect_prune.errors import DetectPruneError
from detect_prune.tasks import scoring
from detect_prune.tasks.build import detection_task
from detect_prune.tasks.detector import Detector
from detect_prune.tasks.scoring import PROTOCOLS, SHOWN, find_all


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Detector(parse_cfg(TINY_CFG)).eval()


@pytest.fixture
def pictures(tmp_path):
    """Pictures of several shapes, none that of the network's input."""
    builder = DetectionSetBuilder(("a", "b"))
    for number, (width, height) in enumerate([(50, 40), (33, 64), (80, 20), (47, 46)]):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))
        builder.add_picture(path, number, width, height)
    return builder.finish()


def find(model, pictures, protocol, **options):
    return find_all(model, pictures, protocol, batch=options.pop("batch", 3), quiet=True, **options)[1]


def test_one_picture_at_a_time_finds_what_a_batch_finds(model, tmp_path):
    data = load_data(write_coco(tmp_path / "squares", classes=2)).val
    usual = dataclasses.replace(PROTOCOLS["coco"], score_threshold=0.004, iou_threshold=0.5)
    together = find(model, data, usual, batch=8)
    for truth, found in zip(data, together, strict=True):
        alone = model.predict(truth.path, score_threshold=0.004, iou_threshold=0.5)
        assert len(alone) == len(found) > 3
        assert torch.allclose(alone.scores, found.scores, atol=1e-5)
        assert torch.allclose(alone.boxes.sum(), found.boxes.sum(), rtol=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("letterbox", [False, True])
def test_threads_and_batches_do_not_matter(model, pictures, protocol, letterbox):
    expected = find(model, pictures, protocol, letterbox=letterbox)
    assert any(len(found) for found in expected)
    for batch, workers in ((1, 2), (4, 1)):
        for ours, theirs in zip(
            find(model, pictures, protocol, letterbox=letterbox, batch=batch, workers=workers), expected
        ):
            assert torch.equal(ours.labels, theirs.labels)
            torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-3)


def test_only_detector_map_leaves_boxes_outside(model, pictures):
    sizes = [(truth.width, truth.height) for truth in pictures]
    for protocol in PROTOCOLS.values():
        easy = dataclasses.replace(protocol, score_threshold=0.002)
        inside = [
            bool((found.boxes >= 0).all() and (found.boxes <= torch.tensor(size * 2)).all())
            for found, size in zip(find(model, pictures, easy), sizes)
        ]
        assert all(inside) == protocol.clip


def test_detections_are_best_first_unless_darknets_order_is_asked_for(model, pictures):
    for protocol in PROTOCOLS.values():
        easy = dataclasses.replace(protocol, score_threshold=0.002)
        ordered = [bool((found.scores.diff() <= 0).all()) for found in find(model, pictures, easy)]
        assert all(ordered) != protocol.darknet_order


def test_pictures_that_can_not_be_read_are_left_out_and_named(model, pictures):
    pictures.path(1).write_bytes(b"")
    truths, found, skipped = find_all(model, pictures, PROTOCOLS["coco"], batch=2, workers=1, quiet=True)
    assert [truth.image_id for truth in truths] == [0, 2, 3] and len(found) == 3
    assert len(skipped) == 1 and "1.png" in skipped[0]


def test_an_interrupted_run_leaves_no_threads(model, pictures, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "to_input", interrupt)
    with pytest.raises(KeyboardInterrupt) as kept:
        find(model, pictures, PROTOCOLS["coco"], batch=1, workers=2)
    # The traceback still holds the frame that held the batches.
    assert kept.value and not any(thread.name.startswith("batches") for thread in threading.enumerate())


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), RuntimeError("other")],
)
def test_a_batch_that_does_not_fit_into_memory_is_said(model, pictures, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(scoring, "detect_on_pictures", fail)
    with pytest.raises((DetectPruneError, RuntimeError)) as caught:
        find(model, pictures, PROTOCOLS["coco"], batch=2)
    said = "other" if "other" in str(error) else "scoring with batch 2 does not fit into the memory of cpu"
    assert said in str(caught.value)


def test_plain_suppression_removes_more_than_that_of_the_cfg(model, pictures):
    easy = dataclasses.replace(PROTOCOLS["coco"], score_threshold=0.002, iou_threshold=0.3)
    plain, of_the_cfg = (sum(map(len, find(model, pictures, easy, nms=nms))) for nms in ("plain", "cfg"))
    assert 0 < plain < of_the_cfg


@pytest.mark.parametrize("letterbox", [False, True])
def test_the_cfg_says_whether_proportions_are_kept(tmp_path, monkeypatch, letterbox):
    """A black picture that is not square has grey bars then."""
    forward, seen = Detector.forward, []
    monkeypatch.setattr(Detector, "forward", lambda self, inputs: seen.append(inputs) or forward(self, inputs))
    (tmp_path / "a.cfg").write_text(TINY_CFG.replace("[net]", f"[net]\nletter_box={letterbox:d}"))
    task = detection_task(tmp_path / "a.cfg", data=write_coco(tmp_path / "squares", classes=2), batch=4)
    black = np.zeros((40, 48, 3), np.uint8)
    task.model.predict(black)
    for truth in task.data.val:
        cv2.imwrite(str(truth.path), black)
    task.evaluate(task.model)
    assert len(seen) == 3 and all(bool(inputs.any()) is letterbox for inputs in seen)
    assert task.fit.letterbox is letterbox


def test_the_thresholds_are_those_that_are_told():
    assert {name: (one.score_threshold, one.iou_threshold, one.max_candidates) for name, one in PROTOCOLS.items()} == {
        "coco": (0.001, 0.6, 3000),
        "darknet-map": (0.005, 0.45, 20_000),
        "darknet-valid": (0.001, 0.6, 20_000),
    }
    assert (SHOWN.score_threshold, SHOWN.iou_threshold) == (0.25, 0.45)
