"""The detection task: heads that follow the data, keys that follow the cfg, scores that follow the pictures."""

import json

import numpy as np
import pytest
import torch
from tiny import TINY_CFG, write_coco

from detect_prune.darknet import WeightsHeader, parse_cfg, save_cfg, write_weights
from detect_prune.darknet.cfg import CfgWarning
from detect_prune.datasets import Fit, val_batches
from detect_prune.datasets import batches as batches_module
from detect_prune.datasets.descriptor import read_names, write_names
from detect_prune.engine.checkpoint import save_checkpoint
from detect_prune.engine.distributed import World
from detect_prune.engine.task import Teacher
from detect_prune.errors import DetectPruneError
from detect_prune.tasks import detection
from detect_prune.tasks.build import detection_task
from detect_prune.tasks.detection import augmentation_of
from detect_prune.tasks.detector import Detector, load, usual_names
from detect_prune.tasks.recipes import detection_recipe
from detect_prune.tasks.scoring import to_input


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


def test_settings_tell_another_network_of_the_same_shapes_apart(files):
    cfg, _, data = files
    digests = []
    same = f"# a remark\n{TINY_CFG}".replace("learning_rate=", "learning_rate=1")
    others = TINY_CFG.replace("activation=leaky", "activation=mish", 1), TINY_CFG.replace("hue=.1", "hue=.2")
    for text in (TINY_CFG, same, *others):
        cfg.write_text(text)
        digests.append(detection_task(cfg, data=data, batch=4).settings()["cfg digest"])
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_loss_parts_add_up_and_reach_every_weight(files):
    cfg, weights, data = files
    task = detection_task(cfg, weights, data=data, batch=4)
    batch = next(task.batches(0, 0))
    loss, parts = task.loss(task.model, batch)
    assert sum(part.item() for part in parts.values()) == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in task.model.parameters())


def test_a_teacher_adds_its_distance_times_its_weight(files, tmp_path):
    cfg, weights, _ = files
    task = detection_task(cfg, weights, data=write_coco(tmp_path / "two", classes=2), batch=4)
    batch = next(task.batches(0, 0))
    task.model.eval()  # the statistics of a batch would tell the two apart
    alone, _ = task.loss(task.model, batch)
    copy, parts = task.loss(task.model, batch, Teacher(load(cfg, weights), 2.0))
    assert parts["distillation"].item() == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(copy, alone)
    stranger = load(cfg)
    stranger.layers[2].conv.bias.data += 1
    once, parts = task.loss(task.model, batch, Teacher(stranger, 1.0))
    twice, _ = task.loss(task.model, batch, Teacher(stranger, 2.0))
    assert parts["distillation"].item() > 0.1
    torch.testing.assert_close(twice - once, once - alone)
    assert sum(part.item() for part in parts.values()) == pytest.approx(once.item(), rel=1e-5)
    twice.backward()
    assert all(parameter.grad is None for parameter in stranger.parameters())


@pytest.mark.parametrize("sample", [False, True])
def test_the_ratio_grows_and_only_on_real_data_the_dense_network_teaches(sample):
    recipe = detection_recipe(sample=sample, large=False)
    assert (recipe.gradual, recipe.importance) == (True, "taylor")
    assert [phase.distill for phase in (recipe.admm, recipe.retrain)] == [0.0 if sample else 1.0] * 2


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


def test_statistics_come_from_pictures_drawn_from_all_of_them(files):
    cfg, weights, data = files
    task = detection_task(cfg, weights, data=data, batch=4)
    stored = val_batches(task.data.train, Fit((32, 32)), 4)
    in_order = torch.cat([to_input(batch.pictures, task.model) for batch in stored])
    drawn = torch.cat(list(task.inputs()))
    assert not torch.equal(drawn, in_order) and torch.equal(drawn, torch.cat(list(task.inputs())))
    order = [next(i for i, other in enumerate(in_order) if torch.equal(picture, other)) for picture in drawn]
    assert sorted(order) == list(range(8))
    other = torch.cat(list(detection_task(cfg, weights, data=data, batch=4, seed=1).inputs()))
    assert not torch.equal(drawn, other)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_set_of_which_nothing_can_be_read_is_an_error(files, split):
    cfg, weights, data = files
    task = detection_task(cfg, weights, data=data, batch=4)
    for path in (data.parent / split).glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DetectPruneError, match=rf"none of (the )?8 {'training' if split == 'train' else 'validation'}"):
        list(task.inputs()) if split == "train" else task.evaluate(task.model)


@pytest.mark.parametrize(("kind", "shown"), [("coco", ("AP", "AP50")), ("voc", ("AP", "AP50", "mAP"))])
def test_ap_is_shown_and_of_voc_s_pictures_its_own_as_well(files, kind, shown):
    cfg, weights, data = files
    task = detection_task(cfg, weights, data=data, batch=4)
    task.data.format = kind
    metrics = task.evaluate(task.model)
    assert metrics.headline == shown and metrics.primary == "AP50" and set(shown) <= metrics.values.keys()


def test_one_value_a_channel_is_too_few_for_batch_norm(files):
    cfg, weights, data = files
    assert detection_task(cfg, weights, data=data, batch=1).steps_per_epoch == 8
    cfg.write_text(TINY_CFG.replace("stride=2", "stride=16", 1))  # 32 pixels, strides 16 and 2
    with pytest.raises(DetectPruneError, match=r"tiny\.cfg: batch norm needs two values.*1 picture"):
        detection_task(cfg, data=data, batch=1)
    task = detection_task(cfg, data=data, batch=2)
    first = np.random.default_rng([0, 0]).permutation(8)[0]  # as train_batches draws, seed 0, epoch 0
    task.data.train[int(first)].path.write_bytes(b"")
    assert [batch is None for batch in task.batches(0, 0)] == [True, False, False, False]
    assert all(len(batch) == 2 for batch in task.inputs())


@pytest.mark.parametrize("text", ["hue=.6", "hue=-.1", "saturation=0", "exposure=-1", "jitter=1", "jitter=-.1"])
def test_an_augmentation_that_is_out_of_range_is_refused_with_its_line(text):
    key = text.partition("=")[0]
    lines = [text if row.startswith(f"{key}=") else row for row in TINY_CFG.split("\n")]
    line = lines.index(text) + 1
    with pytest.raises(DetectPruneError, match=rf"a\.cfg:{line}: {key}="):
        augmentation_of(parse_cfg("\n".join(lines), "a.cfg"))


def test_the_jitter_of_each_head_is_judged_and_the_last_one_counts():
    head = TINY_CFG[TINY_CFG.index("[yolo]") :]
    text = f"{TINY_CFG}\n{head}"
    assert augmentation_of(parse_cfg(text)).scale == 0.2
    assert augmentation_of(parse_cfg(text.replace("jitter=.2", "jitter=.3", 1))).scale == 0.2
    text = text.replace("jitter=.2", "jitter=.2\n", 1)
    last = text.rindex("jitter=")
    with pytest.raises(DetectPruneError, match="jitter="):
        augmentation_of(parse_cfg(f"{text[:last]}jitter=2{text[text.index(chr(10), last) :]}"))


def test_a_factor_below_one_means_its_inverse():
    assert augmentation_of(parse_cfg(TINY_CFG.replace("saturation=1.5", "saturation=.8"))).saturation == 1.25


def test_without_weights_only_one_network_is_built(files, monkeypatch):
    built = []
    start = Detector.__init__
    monkeypatch.setattr(Detector, "__init__", lambda self, *a, **k: built.append(1) or start(self, *a, **k))
    detection_task(files[0], data=files[2], batch=4)
    assert built == [1]


def test_a_checkpoint_of_a_run_can_be_used_as_weights(files, tmp_path):
    cfg, _, data = files
    task = detection_task(cfg, data=data, batch=4, seed=3)
    save_checkpoint(tmp_path / "best.pt", {"model": task.model.state_dict(), "metrics": {"AP": 0.5}})
    again = detection_task(cfg, tmp_path / "best.pt", data=data, batch=4)
    saved = save_darknet(task.model, tmp_path)
    for model in (again.model, load(saved, tmp_path / "best.pt")):
        for name, value in task.model.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])
    with pytest.raises(DetectPruneError, match=r"best\.pt: these weights belong to another network: layers\.2"):
        load(cfg, tmp_path / "best.pt")  # two classes
    (tmp_path / "torn.pt").write_bytes(b"torn")
    with pytest.raises(DetectPruneError, match=r"torn\.pt: "):
        detection_task(cfg, tmp_path / "torn.pt", data=data)


def save_darknet(model, folder):
    save_cfg(model.cfg, folder / "adapted.cfg")
    return folder / "adapted.cfg"


def test_names():
    assert usual_names(80)[0] == "person" and usual_names(20)[0] == "aeroplane" and usual_names(3) == ("0", "1", "2")
    with pytest.raises(DetectPruneError, match="2 classes, and 3 names"):
        Detector(parse_cfg(TINY_CFG), ("a", "b", "c"))


def test_names_beside_the_cfg_are_taken(tmp_path):
    cfg = tmp_path / "mine.cfg"
    cfg.write_text(TINY_CFG)
    assert load(cfg).names == ("0", "1")
    write_names(tmp_path / "mine.names", ["big cat", "hot  dog"])
    assert load(cfg).names == ("big cat", "hot dog")
    assert load(cfg, names=("a", "b")).names == ("a", "b")
    for odd, written in ((["a", "a", "", "é"], ("a", "a 1", "2", "é")), (["1", ""], ("1", "1 1"))):
        write_names(tmp_path / "odd.names", odd)
        assert read_names(tmp_path / "odd.names") == written


def test_names_of_other_data_beside_the_cfg_are_told_and_left(tmp_path):
    cfg = tmp_path / "mine.cfg"
    cfg.write_text(TINY_CFG)
    write_names(tmp_path / "mine.names", ["a", "b", "c"])
    with pytest.warns(CfgWarning, match=r"mine\.names: 3 names are of no use to a network of 2 classes"):
        assert load(cfg).names == ("0", "1")
    write_weights(Detector(parse_cfg(TINY_CFG)), tmp_path / "mine.weights")
    data = write_coco(tmp_path / "coco", pictures=4)  # of three classes
    assert detection_task(cfg, tmp_path / "mine.weights", data=data).model.names == ("red", "green", "blue")


def test_processes_share_each_batch_and_read_no_more_than_their_part(files, monkeypatch):
    cfg, weights, data = files
    whole = list(detection_task(cfg, weights, data=data, batch=5, device="cpu").batches(3, 0))
    read, original = [], batches_module._read_as_listed
    monkeypatch.setattr(batches_module, "_read_as_listed", lambda truth: read.append(truth.path) or original(truth))
    tasks = [detection_task(cfg, weights, data=data, batch=5, device="cpu", world=World(rank, 2)) for rank in (0, 1)]
    first, second = (list(task.batches(3, 0)) for task in tasks)
    assert len(whole) == len(first) == len(second) == 1
    assert [tasks[0].count(batch) for batch in (whole[0], first[0], second[0])] == [5, 2, 3]
    assert torch.equal(torch.cat([first[0].pictures, second[0].pictures]), whole[0].pictures)
    second[0].targets[:, 0] += 2  # positions are those in the share
    assert torch.equal(torch.cat([first[0].targets, second[0].targets]), whole[0].targets)
    assert len(read) == 5
    with pytest.raises(DetectPruneError, match="a batch of 8 can't be shared by 9 processes"):
        detection_task(cfg, weights, data=data, batch=20, device="cpu", world=World(0, 9))


def test_a_set_whose_boxes_are_all_in_unreadable_pictures_is_an_error(files):
    cfg, weights, data = files
    labels = json.loads((data.parent / "val.json").read_text())
    labels["annotations"] = [one for one in labels["annotations"] if one["image_id"] != 3]
    (data.parent / "val.json").write_text(json.dumps(labels))
    task = detection_task(cfg, weights, data=data, batch=4)
    for path in (data.parent / "val").glob("*.png"):
        if path.stem != "2":
            path.write_bytes(b"")
    with pytest.raises(DetectPruneError, match="no box that counts is in the 1 validation picture"):
        task.evaluate(task.model)


def test_a_shift_is_half_the_jitter_and_mirrors_are_usual():
    text = TINY_CFG.replace("hue=.1", "hue=.05\nmosaic=1\nflip=0").replace("saturation=1.5", "saturation=1.25")
    assert augmentation_of(parse_cfg(text)).translate == pytest.approx(0.1)
    assert augmentation_of(parse_cfg(TINY_CFG)).flip


def test_the_seed_decides_what_a_detector_is_shown(files):
    def shown(seed):
        return [batch.indices for batch in detection_task(files[0], data=files[2], batch=4, seed=seed).batches(0, 0)]

    assert shown(1) == shown(1) != shown(2)


def test_what_the_weights_had_seen_is_kept(files, tmp_path):
    cfg, weights, data = files
    write_weights(load(cfg, weights), weights, WeightsHeader(seen=12_345))
    task = detection_task(cfg, weights, data=data, batch=4)  # with other heads
    task.save(task.model, tmp_path, "pruned")
    assert load(tmp_path / "pruned.cfg", tmp_path / "pruned.weights").header.seen == 12_345


def test_what_of_the_data_does_not_count_is_noted(files):
    cfg, weights, data = files
    file = data.parent / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [40, 10, 20, 20]  # of pictures that are 48 wide
    file.write_text(json.dumps(content))
    task = detection_task(cfg, weights, data=data, batch=4)
    assert any("clipped" in note for note in task.notes) and any("clipped" in said for said in task.problems())


def test_the_sheet_has_names_and_what_people_look_at(files, monkeypatch):
    seen = []

    def drawn(picture, found, names=()):
        seen.append((found, names))
        return picture

    monkeypatch.setattr(detection, "draw_boxes", drawn)
    task = detection_task(files[0], files[1], data=files[2], batch=4)
    bias = task.model.layers[2].conv.bias.data.view(2, 8)
    bias[:, 4:6], bias[:, 6:] = 0.3, -3.0  # the first class is found everywhere, the others hardly
    assert set(task.figures(task.model)) == {"detections"} and len(seen) == 8
    assert sum(len(found) for found, _ in seen) > 0
    assert all((found.scores >= 0.25).all() and names == task.data.names for found, names in seen)


def test_pictures_that_could_not_be_scored_on_are_noted(files):
    cfg, weights, data = files
    (data.parent / "val" / "3.png").write_bytes(b"")
    (note,) = (task := detection_task(cfg, weights, data=data, batch=4)).evaluate(task.model).notes
    assert note.startswith("1 validation picture left out: ") and "3.png" in note
