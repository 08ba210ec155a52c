import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings

import cv2
import numpy as np
import pytest
import torch

from detect_prune.datasets import Augmentation, Fit, batches, load_data, read_picture, train_batches, val_batches
from detect_prune.datasets.detection_set import DetectionSetBuilder
from detect_prune.errors import Notice

SIZE = (64, 48)
FIT = Fit(SIZE)


@pytest.fixture
def dataset(tmp_path, write_picture):
    """Eleven pictures of different sizes with 0 to 3 boxes; a crowd region and a difficult object among them."""
    builder = DetectionSetBuilder(("a", "b", "c"))
    for number in range(11):
        width, height = 40 + number, 60 - number
        builder.add_picture(write_picture(tmp_path / f"{number}.png", width, height, number), number, width, height)
        for k in range(number % 4):
            builder.add_box((2 + k, 3, 20 + k, 30), k)
        builder.add_box((0, 0, width, height), 0, crowd=number == 5, difficult=number != 5)
    return builder.finish()


def flat(batches):
    return [(b.pictures, b.targets, b.indices, b.skipped) for b in batches]


def same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2:] == other[2:]


def test_scoring_sees_every_picture_once_in_order(dataset):
    batches = list(val_batches(dataset, FIT, 4))
    assert len(val_batches(dataset, FIT, 4)) == 3 == len(batches)
    assert [i for b in batches for i in b.indices] == list(range(11))
    for batch in batches:
        assert batch.pictures.dtype == torch.uint8 and batch.pictures.shape == (len(batch), 3, 48, 64)
        assert batch.pictures.is_contiguous() and len(batch.placements) == len(batch)
        for position, index in enumerate(batch.indices):
            truth = dataset[index]
            expected, placement = FIT(read_picture(truth.path))
            assert np.array_equal(batch.pictures[position].permute(1, 2, 0), expected)
            own = batch.targets[batch.targets[:, 0] == position]
            wanted = ~(truth.crowd | truth.difficult)
            assert own[:, 1].tolist() == truth.labels[wanted].tolist()
            assert np.allclose(own[:, 2:], placement.forward(truth.boxes[wanted]), atol=1e-4)
            assert np.allclose(batch.placements[position].back(own[:, 2:].numpy()), truth.boxes[wanted], atol=1e-3)


def test_letterbox_is_passed_on(dataset):
    batch = next(iter(val_batches(dataset, Fit(SIZE, letterbox=True), 2)))
    assert batch.placements[0].left > 0 and (batch.pictures[0, :, :, 0] == 127).all()


def test_darknets_resizing_is_passed_on(dataset):
    fit = Fit(SIZE, letterbox=True, resize="darknet", truncate=True)
    batch = next(iter(val_batches(dataset, fit, 3)))
    assert batch.pictures.dtype == torch.float32
    for index, picture, placement in zip(batch.indices, batch.pictures, batch.placements):
        expected = fit(read_picture(dataset.path(index)))
        assert np.array_equal(picture.permute(1, 2, 0), expected[0]) and placement == expected[1]


def test_scoring_can_be_stopped_in_the_middle(dataset):
    before = cv2.getNumThreads()
    reading = iter(val_batches(dataset, FIT, 1, workers=2))
    assert next(reading).indices == [0] and next(reading).indices == [1]
    reading.close()
    assert cv2.getNumThreads() == before
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_nobody_waits_for_pictures_that_are_not_wanted_any_more(dataset, monkeypatch):
    read = []

    def slow(path):
        read.append(path)
        time.sleep(0.1)
        return read_picture(path)

    monkeypatch.setattr(batches, "read_picture", slow)
    monkeypatch.setattr(batches, "AHEAD_BYTES", 0)
    reading = iter(val_batches(dataset, FIT, 5, workers=1))
    next(reading)
    reading.close()
    assert len(read) <= 7, "the second batch is given up after the picture that was being read"


@pytest.mark.parametrize("room, expected", [(10**9, 4), (2 * 48 * 64 * 3 * 4 * 2, 2), (0, 1)])
def test_what_is_made_ahead_is_bounded_by_memory(dataset, monkeypatch, room, expected):
    monkeypatch.setattr(batches, "AHEAD_BYTES", room)
    begun = []
    maker = batches._BatchMaker.make

    def counted(self, number, wanted):
        begun.append(number)
        return maker(self, number, wanted)

    monkeypatch.setattr(batches._BatchMaker, "make", counted)
    reading = iter(val_batches(dataset, FIT, 2, workers=3))
    assert next(reading).indices == [0, 1]
    time.sleep(0.1)
    assert sorted(begun) == list(range(expected + 1))
    reading.close()


def test_what_fails_in_a_thread_fails_here(dataset, monkeypatch):
    def refuse(path):
        raise RuntimeError("broken")

    monkeypatch.setattr(batches, "read_picture", refuse)
    with pytest.raises(RuntimeError, match="broken"):
        list(val_batches(dataset, FIT, 2, workers=1))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(dataset, workers):
    same(flat(train_batches(dataset, FIT, 2, 1, 4)), flat(train_batches(dataset, FIT, 2, 1, 4, workers=workers)))
    same(flat(val_batches(dataset, FIT, 4)), flat(val_batches(dataset, FIT, 4, workers=workers)))


@pytest.mark.parametrize(("megabytes", "workers"), [(64, 2), (20, 0), (10_000, 4)])
def test_workers_are_no_more_than_shared_memory_has_room_for(megabytes, workers, tmp_path, monkeypatch):
    """Of 608 x 608, 8 pictures a batch, each takes 27 MB of it; a batch that finds none is lost, and waited for."""
    monkeypatch.setattr(batches, "_SHARED_MEMORY", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=megabytes * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    size = 8 * 608 * 608 * 3
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert batches._with_room(4, size) == workers and batches._with_room(0, size) == 0
    assert [str(each.message).startswith(f"{tmp_path} has no room") for each in told] == [True] * (workers < 4)


def test_runs_of_a_sweep_share_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_SHARED_MEMORY", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=64 * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setenv(batches.RUNS_TOGETHER, "2")
    with pytest.warns(Notice, match="no room for the batches of 4 workers, 27 MB for each"):
        assert batches._with_room(4, 8 * 608 * 608 * 3) == 1


def test_an_epoch_can_begin_in_its_middle(dataset):
    whole = flat(train_batches(dataset, FIT, 2, 1, 4))
    for start in (1, 3, 5, 9):
        later = train_batches(dataset, FIT, 2, 1, 4, start=start)
        assert len(later) == max(0, 5 - start)
        same(whole[start:], flat(later))


def test_order_and_pictures_change_with_seed_and_epoch(dataset):
    def order(seed, epoch):
        return [i for b in train_batches(dataset, FIT, 2, seed, epoch, augment=False) for i in b.indices]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert all(len(set(o)) == 10 for o in orders) and len(set(map(tuple, orders))) == 3
    # What is left over at the end of an epoch is another picture each time.
    assert len({frozenset(order(0, epoch)) for epoch in range(12)}) > 3


def test_a_small_set_still_gives_a_batch(dataset):
    batches = list(train_batches(dataset.subset([1, 2]), FIT, 8, 0, 0))
    assert len(batches) == 1 and sorted(batches[0].indices) == [0, 1]


def test_the_loaders_leave_torchs_generator_alone(dataset):
    for workers in (0, 1):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        list(train_batches(dataset, FIT, 4, 0, 0, workers=workers))
        assert torch.rand(1) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_pictures_are_dropped_and_named(dataset, workers):
    path = dataset.path(3)
    path.write_bytes(path.read_bytes()[:200])
    batches = list(val_batches(dataset, FIT, 4, workers=workers))
    assert batches[0].indices == [0, 1, 2] and batches[0].pictures.shape[0] == 3
    assert len(batches[0].skipped) == 1 and str(path) in batches[0].skipped[0] and "cut off" in batches[0].skipped[0]
    assert len(batches[0].placements) == 3 and batches[0].targets[:, 0].max() == 2
    # As a mosaic partner too: the picture that wanted it is left out, and the broken one named.
    trained = list(train_batches(dataset, FIT, 2, 0, 0, workers=workers, augment=Augmentation(mosaic=1.0)))
    assert sum(len(b.skipped) for b in trained) >= 1
    assert all(str(path) in sentence for b in trained for sentence in b.skipped)


def test_a_batch_may_be_empty(dataset):
    one = dataset.subset([2])
    one.path(0).write_bytes(b"")
    batch = next(iter(train_batches(one, FIT, 1, 0, 0)))
    assert len(batch) == 0 and batch.pictures.shape == (0, 3, 48, 64) and batch.targets.shape == (0, 6)


def test_a_picture_of_another_size_than_annotated_is_skipped(dataset, write_picture):
    write_picture(dataset.path(4), 20, 20)
    skipped = [s for b in val_batches(dataset, FIT, 4) for s in b.skipped]
    assert len(skipped) == 1 and "20 x 20" in skipped[0] and "44 x 56" in skipped[0]


def test_the_memory_of_small_sets_is_used_and_harmless(dataset):
    first = flat(train_batches(dataset, FIT, 2, 1, 4))
    assert len(dataset.decoded) > 0
    for index in range(11):
        dataset.path(index).unlink()
    same(first, flat(train_batches(dataset, FIT, 2, 1, 4)))  # from memory, and unspoilt by augmentation


def test_a_spawned_worker_gets_no_decoded_pictures_and_nothing_is_warmed_up_for_it(dataset, monkeypatch):
    copy = pickle.loads(pickle.dumps(dataset))
    list(train_batches(dataset, FIT, 2, 1, 4))
    assert len(dataset.decoded) == 11
    assert len(pickle.dumps(dataset)) == len(pickle.dumps(copy)) and pickle.loads(pickle.dumps(dataset)).decoded == {}

    def refuse(self):
        raise AssertionError("warmed up for nothing")

    expected = flat(train_batches(dataset, FIT, 2, 1, 4))
    monkeypatch.setattr(batches._BatchMaker, "warm_up", refuse)
    monkeypatch.setattr(batches.multiprocessing, "get_start_method", lambda: "spawn")
    same(expected, flat(train_batches(dataset, FIT, 2, 1, 4, workers=1)))


def test_workers_start_where_there_are_no_process_groups(dataset, monkeypatch):
    monkeypatch.delattr(batches.os, "setpgid")
    assert len(list(train_batches(dataset, FIT, 4, 0, 0, workers=1))) == 2


def test_augmentation_can_be_chosen(dataset):
    plain = next(iter(train_batches(dataset, FIT, 11, 0, 0, augment=False)))
    assert len(plain.placements) == 11
    stored = {b: p for batch in val_batches(dataset, FIT, 4) for b, p in zip(batch.indices, batch.pictures)}
    assert all(torch.equal(picture, stored[index]) for index, picture in zip(plain.indices, plain.pictures))
    mild = Augmentation(hue=0, saturation=1, exposure=1, scale=0, translate=0, flip=False, mosaic=0)
    gentle = next(iter(train_batches(dataset, FIT, 11, 0, 0, augment=mild)))
    assert (gentle.pictures.int() - plain.pictures.int()).abs().max() <= 1


def test_a_signal_to_the_group_does_not_take_the_workers_away(tmp_path, write_picture):
    for number in range(40):
        write_picture(tmp_path / f"{number}.png", 60, 40, number)
    code = f"""
import os, pathlib, signal, time
from detect_prune.datasets import Fit, train_batches
from detect_prune.datasets.detection_set import DetectionSetBuilder
from detect_prune.errors import Notice
builder = DetectionSetBuilder(("a",))
for number in range(40):
    builder.add_picture(pathlib.Path({str(tmp_path)!r}) / f"{{number}}.png", number, 60, 40)
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: heard.append(1))
batches = iter(train_batches(builder.finish(), Fit((64, 48)), 1, 0, 0, workers=2, augment=False))
count = len(next(batches))
for number in (signal.SIGINT, signal.SIGTERM):
    os.killpg(os.getpgrp(), number)
    time.sleep(0.3)
print(count + sum(len(batch) for batch in batches), len(heard))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert done.stdout.split() == ["40", "2"], done.stderr


def test_albumentations_is_imported_only_for_training():
    code = (
        "import sys, os, detect_prune.datasets as d; assert 'albumentations' not in sys.modules;"
        "from detect_prune.datasets.augment import albumentations_transform as t; t(d.Augmentation(), True);"
        "assert 'albumentations' in sys.modules and os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_pictures_in_training(real_data):
    data = load_data("coco.yaml", real_data / "coco")
    batches = list(train_batches(data.train.subset(range(24)), Fit((160, 160)), 8, 0, 0))
    assert len(batches) == 3 and not any(b.skipped for b in batches)
    targets = torch.cat([b.targets for b in batches])
    assert len(targets) > 50 and targets[:, 1].max() < 80
    assert (targets[:, 2:4] >= 0).all() and (targets[:, 4:] <= 160).all() and (targets[:, 4:] > targets[:, 2:4]).all()
