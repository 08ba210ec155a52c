"""The detection task: heads that follow the data, keys that follow the cfg, scores that follow the pictures."""

import numpy as np
import pytest
import torch
from tiny import TINY_CFG, write_coco

from detect_prune.darknet import parse_cfg, write_weights
from detect_prune.errors import DetectPruneError
from detect_prune.tasks.build import detection_task
from detect_prune.tasks.detection import augmentation_of, find_all, to_input
from detect_prune.tasks.detector import Detector, load, usual_names


@pytest.fixture
def files(tmp_path):
    cfg = tmp_path / "tiny.cfg"
    cfg.write_text(TINY_CFG)
    write_weights(load(cfg), tmp_path / "tiny.weights")
    return cfg, tmp_path / "tiny.weights", write_coco(tmp_path / "squares")


def test_augmentation_comes_from_the_cfg():
    text = TINY_CFG.replace("hue=.1", "hue=.05\nmosaic=1\nflip=0").replace("saturation=1.5", "saturation=1.25")
    found = augmentation_of(parse_cfg(text))
    assert (found.hue, found.saturation, found.exposure) == (0.05, 1.25, 1.5)
    assert (found.scale, found.mosaic, found.flip) == (0.2, 0.5, False)
    assert augmentation_of(parse_cfg(TINY_CFG)).mosaic == 0


def test_heads_follow_the_data_and_everything_else_keeps_its_weights(files):
    cfg, weights, data = files
    task = detection_task(cfg, weights, data=data, batch=4)
    assert task.model.num_classes == 3 and task.model.names == ("red", "green", "blue")
    assert "from 2 to 3 classes" in task.notes[0] and "start at random" in task.notes[1]
    original = load(cfg, weights)
    assert torch.equal(task.model.layers[1].conv.weight, original.layers[1].conv.weight)
    assert task.model.layers[2].conv.weight.shape[0] == 2 * (5 + 3)
    assert task.steps_per_epoch == 2


def test_with_the_same_classes_nothing_is_adapted(files, tmp_path):
    cfg, weights, _ = files
    task = detection_task(cfg, weights, data=write_coco(tmp_path / "two", classes=2), batch=4)
    original = load(cfg, weights)
    assert task.notes == []
    for name, value in original.state_dict().items():
        assert torch.equal(value, task.model.state_dict()[name])


def test_pictures_become_inputs_between_0_and_1(files):
    model = load(files[0])
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(to_input(pictures, model), pictures.float() / 255)
    last = model.to(memory_format=torch.channels_last)
    assert to_input(pictures, last).is_contiguous(memory_format=torch.channels_last)


def test_one_picture_at_a_time_finds_what_a_batch_finds(files):
    cfg, weights, data = files
    task = detection_task(cfg, weights, data=data, batch=4)
    together = find_all(task.model, task.data.val, batch=8, score_threshold=0.01, iou_threshold=0.5, quiet=True)[1]
    for truth, found in zip(task.data.val, together):
        alone = task.model.predict(truth.path, score_threshold=0.01, iou_threshold=0.5)
        assert len(alone) == len(found)
        assert torch.allclose(alone.scores, found.scores, atol=1e-5)
        assert torch.allclose(alone.boxes.sum(), found.boxes.sum(), rtol=1e-4)


def test_loss_parts_add_up_and_reach_every_weight(files):
    cfg, weights, data = files
    task = detection_task(cfg, weights, data=data, batch=4)
    batch = next(task.batches(0, 0))
    loss, parts = task.loss(task.model, batch)
    assert sum(part.item() for part in parts.values()) == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in task.model.parameters())


def test_an_epoch_can_begin_in_its_middle(files):
    cfg, weights, data = files
    task = detection_task(cfg, weights, data=data, batch=4)
    whole, rest = list(task.batches(3, 0)), list(task.batches(3, 1))
    assert len(whole) == 2 and len(rest) == 1
    assert torch.equal(whole[1].pictures, rest[0].pictures) and torch.equal(whole[1].targets, rest[0].targets)


def test_an_input_that_the_strides_do_not_divide_is_refused(files):
    with pytest.raises(DetectPruneError, match=r"yolov4-tiny\.cfg"):
        detection_task("yolov4-tiny.cfg", data=files[2], imgsz=100)


@pytest.mark.parametrize("picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_no_picture_is_refused(files, picture):
    with pytest.raises(DetectPruneError, match="a picture is"):
        load(files[0]).predict(picture)


def test_names():
    assert usual_names(80)[0] == "person" and usual_names(20)[0] == "aeroplane" and usual_names(3) == ("0", "1", "2")
    with pytest.raises(DetectPruneError, match="2 classes, and 3 names"):
        Detector(parse_cfg(TINY_CFG), ("a", "b", "c"))
