import errno
import json
import threading

import numpy as np
import pytest

from detect_prune.datasets import load_data, read_picture, sample
from detect_prune.datasets.cache import cache_folder, cached_folder
from detect_prune.datasets.coco import read_coco
from detect_prune.errors import DetectPruneError


@pytest.fixture(scope="module")
def pictures():
    return [sample.draw_picture(np.random.default_rng([sample.SEED, 0, index])) for index in range(80)]


def test_what_is_promised_of_the_pictures(pictures):
    """A fifth of the objects small, at least five classes, empty pictures among them, varied sizes."""
    assert sample.TRAIN_PICTURES >= 300 and sample.VAL_PICTURES >= 100 and len(sample.CATEGORIES) >= 5
    things = [thing for _, things in pictures for thing in things]
    assert {thing.category_id for thing in things} == set(sample.CATEGORIES)
    small = np.mean([thing.area < 32**2 for thing in things])
    assert 0.18 < small < 0.35
    assert min(max(thing.bbox[2:]) for thing in things) >= 14
    assert len({picture.shape for picture, _ in pictures}) > 40
    assert 3 < len(things) / len(pictures) < 5


def test_boxes_hold_their_objects(pictures):
    for picture, things in pictures:
        assert picture.dtype == np.uint8
        height, width = picture.shape[:2]
        for thing in things:
            x, y, w, h = thing.bbox
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
            assert 0.1 * w * h < thing.area <= w * h


def test_pictures_are_varied(pictures):
    means = np.array([picture.mean((0, 1)) for picture, _ in pictures])
    assert (means.std(0) > 20).all()


def test_the_same_seed_draws_the_same_set(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sample.draw_sample_set(tmp_path / name, (3, 2))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 7
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    (tmp_path / "c").mkdir()
    sample.draw_sample_set(tmp_path / "c", (3, 2), seed=1)
    assert (tmp_path / "a/train/0000.jpg").read_bytes() != (tmp_path / "c/train/0000.jpg").read_bytes()
    ids = [
        image["id"]
        for split in ("train", "val")
        for image in json.loads((tmp_path / f"a/{split}.json").read_text())["images"]
    ]
    assert len(set(ids)) == 5


def test_a_full_disk_is_heard_and_names_need_not_be_ascii(tmp_path, monkeypatch):
    folder = tmp_path / "Prüfung 検査"
    folder.mkdir()
    sample.draw_sample_set(folder, (1, 1))
    assert (folder / "val/0000.jpg").stat().st_size > 1000

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("DETECT_PRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sample.Path, "write_bytes", full)
    with pytest.raises(DetectPruneError, match="No space left"):
        sample.sample_folder()
    assert list((tmp_path / "cache").iterdir()) == []


def test_it_loads_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "TRAIN_PICTURES", 6)
    monkeypatch.setattr(sample.draw_sample_set, "__defaults__", ((6, 4), sample.SEED))
    monkeypatch.setenv("DETECT_PRUNE_CACHE", str(tmp_path))
    data = load_data("sample")
    assert data.is_sample and data.name == "sample" and data.format == "coco" and not data.warnings
    assert (len(data.train), len(data.val), len(data.names)) == (6, 4, 6)
    assert data.category_ids == tuple(sorted(sample.CATEGORIES)) and data.category_ids != tuple(range(1, 7))
    assert [path.name for path in tmp_path.iterdir()] == [f"sample-v{sample.VERSION}"]
    stamp = (tmp_path / f"sample-v{sample.VERSION}" / "val.json").stat().st_mtime_ns
    load_data("sample")
    assert (tmp_path / f"sample-v{sample.VERSION}" / "val.json").stat().st_mtime_ns == stamp


def test_a_half_made_folder_is_never_taken_for_a_whole_one(tmp_path):
    def broken(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder(tmp_path / "set", broken)
    assert list(tmp_path.iterdir()) == []
    assert cached_folder(tmp_path / "set", lambda folder: (folder / "whole").touch()) == tmp_path / "set"
    assert cached_folder(tmp_path / "set", broken) == tmp_path / "set"  # there: not made again
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["whole"]


def test_two_makers_at_once(tmp_path):
    barrier = threading.Barrier(2)

    def make(folder):
        (folder / "a").touch()
        barrier.wait(10)

    threads = [threading.Thread(target=cached_folder, args=(tmp_path / "set", make)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("DETECT_PRUNE_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "detect_prune"
    monkeypatch.setenv("DETECT_PRUNE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DETECT_PRUNE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sample.Path, "home", homeless)
    with pytest.raises(DetectPruneError, match="no home folder for the cache; set DETECT_PRUNE_CACHE"):
        cache_folder()
    (tmp_path / "file").touch()
    with pytest.raises(DetectPruneError, match="DETECT_PRUNE_CACHE"):
        cached_folder(tmp_path / "file" / "set", lambda folder: None)


def test_no_picture_of_val_is_one_of_train(tmp_path):
    sample.draw_sample_set(tmp_path, (4, 4))
    train, val = ({path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("train", "val"))
    assert len(train) == len(val) == 4 and not train & val


def test_what_is_stored_is_what_was_drawn(tmp_path):
    sample.draw_sample_set(tmp_path, (4, 0))
    dataset, category_ids, _ = read_coco(tmp_path / "train", tmp_path / "train.json")
    for index, truth in enumerate(dataset):
        picture, things = sample.draw_picture(np.random.default_rng([sample.SEED, 0, index]))
        assert np.abs(read_picture(truth.path).mean((0, 1)) - picture.mean((0, 1))).max() < 2, "red, green, blue"
        assert truth.areas.tolist() == [thing.area for thing in things]
        assert [category_ids[label] for label in truth.labels] == [thing.category_id for thing in things]


def test_boxes_are_as_large_as_their_objects(monkeypatch):
    def block(*_):
        alpha = np.zeros((24, 34), np.float32)
        alpha[7:17, 7:27] = 1
        return alpha

    monkeypatch.setattr(sample, "_shape", block)
    things = [thing for index in range(5) for thing in sample.draw_picture(np.random.default_rng(index))[1]]
    assert things and all(thing.bbox[2:] == [20, 10] for thing in things)
