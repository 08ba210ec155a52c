"""A backbone's weights fill the first sections; everything else about a task is tested with its task."""

import pytest
import torch
from tiny import TINY_CFG, write_coco

from detect_prune.darknet import read_backbone, write_weights
from detect_prune.datasets import load_data
from detect_prune.errors import DetectPruneError
from detect_prune.tasks import build
from detect_prune.tasks.build import detection_task, find_weights
from detect_prune.tasks.detector import load

HEADER = 20
FIRST = 4 * 8 + 8 * 3 * 9  # batch norm and weights of the first convolution, in floats


@pytest.fixture
def files(tmp_path):
    """The cfg, the whole weights and their network, a backbone of its first section, and data of three classes."""
    cfg = tmp_path / "tiny.cfg"
    cfg.write_text(TINY_CFG)
    network = load(cfg)
    write_weights(network, tmp_path / "tiny.weights")
    backbone = tmp_path / "tiny.conv.1"
    backbone.write_bytes((tmp_path / "tiny.weights").read_bytes()[: HEADER + 4 * FIRST])
    return cfg, network, backbone, write_coco(tmp_path / "squares")


def same(left, right, layer):
    theirs = right.layers[layer].state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in left.layers[layer].state_dict().items())


def test_a_backbone_fills_its_sections_and_says_how_many(files, tmp_path):
    cfg, network, backbone, data = files
    task = detection_task(cfg, pretrained=backbone, data=data, batch=4)
    assert any(f"1 of 3 sections with weights come from {backbone}" in note for note in task.notes)
    assert same(task.model, network, 0) and not same(task.model, network, 1)
    assert task.model.header is None, "the pictures that it counts were seen by another network"


def test_whole_weights_as_a_backbone_give_all_but_the_adapted_head(files, tmp_path):
    cfg, network, _, data = files
    task = detection_task(cfg, pretrained=tmp_path / "tiny.weights", data=data, batch=4)
    assert any(note.startswith("2 of 3 sections") for note in task.notes)
    assert same(task.model, network, 0) and same(task.model, network, 1)
    assert task.model.layers[2].conv.weight.shape[0] == 2 * (5 + 3)


@pytest.mark.parametrize(
    "size, message",
    [
        (HEADER + 4 * FIRST - 4, r"tiny\.conv\.1: .*few.*\[convolutional\] at line \d+ \(layer 0\), which has 248"),
        (
            HEADER + 4 * FIRST + 40,
            r"tiny\.conv\.1: .*ends 10 floats into the \[convolutional\] at line \d+ \(layer 1\)",
        ),
        (HEADER + 4 * FIRST - 1, r"tiny\.conv\.1: .*3 bytes of a float"),
        (HEADER, r"tiny\.conv\.1: .*ends 0 floats into the \[convolutional\] at line \d+ \(layer 0\)"),
    ],
)
def test_a_backbone_that_ends_inside_a_section_names_it(files, size, message, tmp_path):
    cfg, _, backbone, data = files
    backbone.write_bytes((tmp_path / "tiny.weights").read_bytes()[:size])
    with pytest.raises(DetectPruneError, match=message):
        detection_task(cfg, pretrained=backbone, data=data, batch=4)


def test_weights_and_a_backbone_together_are_refused(files, tmp_path):
    cfg, _, backbone, data = files
    with pytest.raises(DetectPruneError, match="both given; one of them was expected"):
        detection_task(cfg, tmp_path / "tiny.weights", pretrained=backbone, data=data, batch=4)


def test_missing_official_weights_say_how_to_get_them(files):
    with pytest.raises(DetectPruneError, match=r"yolov4\.conv\.137: no such .* \('detect-prune download yolov4\.conv"):
        detection_task(files[0], pretrained="yolov4.conv.137", data=files[3])
    with pytest.raises(DetectPruneError, match=r"mine\.weights: no such weights file, .* nor in \./weights$"):
        detection_task(files[0], "mine.weights", data=files[3])


def test_classes_of_other_names_are_told_and_those_of_another_order_refused(files, tmp_path):
    cfg = files[0]
    data = write_coco(tmp_path / "two", classes=2)
    names = load_data(data).names

    def made(*known, weights=tmp_path / "tiny.weights"):
        (tmp_path / "tiny.names").write_text("\n".join(known))
        return detection_task(cfg, weights, data=data, batch=4)

    assert made(*names).notes == made(*(name.upper() for name in names)).notes == made("a", "b", "c").notes == []
    task = made("zebra", names[1])
    (note,) = task.notes
    assert task.trained and f"class 0 is 'zebra' there and '{names[0]}' in the data" in note and "1 of 2" in note
    with pytest.raises(DetectPruneError, match=r"tiny\.names: the data has these classes in another order"):
        made(*reversed(names))
    assert not made(*reversed(names), weights=None).trained
    # A file of three names is not that of a network of two, though the data has three: its heads start at random.
    (tmp_path / "tiny.names").write_text("\n".join(reversed(load_data(files[3]).names)))
    (note, fresh) = detection_task(cfg, tmp_path / "tiny.weights", data=files[3], batch=4).notes
    assert "adapted from 2 to 3 classes" in note and "start at random" in fresh


def test_the_official_tiny_weights_cut_at_29_fill_what_darknet_calls_conv_29(real_data, tmp_path):
    """`darknet partial yolov4-tiny.cfg yolov4-tiny.weights yolov4-tiny.conv.29 29` keeps the layers before the 29th."""
    whole = (real_data / "weights/yolov4-tiny/yolov4-tiny.weights").read_bytes()
    (tmp_path / "yolov4-tiny.conv.29").write_bytes(whole[:19_789_716])
    filled = read_backbone(load("yolov4-tiny.cfg"), tmp_path / "yolov4-tiny.conv.29")
    assert len(filled) == 17 and filled[-1].endswith("(layer 28)")


def test_the_seed_alone_decides_what_starts_at_random(files, monkeypatch):
    """And the random numbers of whoever asks, of GPUs too, stay what they were."""
    cfg, _, backbone, data = files
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)

    def made(seed, before):
        torch.default_generator.manual_seed(before)
        state = torch.get_rng_state()
        task = detection_task(cfg, pretrained=backbone, data=data, batch=4, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([value.flatten() for value in task.model.parameters()])

    assert torch.equal(made(0, 1), made(0, 2)) and not torch.equal(made(0, 1), made(1, 1)) and not seeded


def test_of_the_built_in_set_large_networks_get_smaller_pictures_and_fewer_steps(files, monkeypatch):
    data = load_data(files[-1])
    monkeypatch.setattr(build, "load_data", lambda *_: data)
    data.is_sample = True
    small = detection_task(files[0], batch=4)
    monkeypatch.setattr(build, "LARGE", 100)
    large = detection_task(files[0], batch=4)
    assert (small.fit.size, large.fit.size) == ((192, 192), (128, 128))
    assert small.recipe.dense.epochs > large.recipe.dense.epochs
    assert detection_task(files[0], batch=4, imgsz=64, workers=3).fit.size == (64, 64)


def test_weights_are_those_of_the_path_before_those_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    for place in ("weights/a.weights", "a.weights"):
        (tmp_path / place).touch()
        assert str(find_weights("a.weights")) == place


def test_workers_reach_the_task(files):
    assert detection_task(files[0], data=files[-1], batch=4, workers=3).workers == 3
