import gzip
import hashlib
import io
import os
import pickle
import socket
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detect_prune import files
from detect_prune.datasets import cifar, classification, download
from detect_prune.datasets.classification import (
    ClassificationData,
    LabelledPictures,
    classification_batches,
    crop_and_flip,
    held_out,
    load_classification,
)
from detect_prune.errors import DetectPruneError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder, end=""):
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("t10k", 10)):
        write_idx(folder / f"{split}-images-idx3-ubyte{end}", rng.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{split}-labels-idx1-ubyte{end}", np.arange(count) % 10)


@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_mnist_is_found_plain_or_gzipped(tmp_path, below, end):
    write_mnist(tmp_path / below, end)
    data = load_classification("mnist", tmp_path)
    assert data.name == "mnist" and len(data.classes) == 10
    assert data.train.images.shape == (20, 1, 28, 28) and data.train.images.dtype == torch.uint8
    assert data.test.labels.tolist() == list(range(10)) and data.test.labels.dtype == torch.int64
    assert (
        data.train.images[0, 0, 0, :3].tolist()
        == np.random.default_rng(0).integers(0, 256, (20, 28, 28))[0, 0, :3].tolist()
    )


def test_real_mnist(real_data):
    data = load_classification("mnist", real_data / "mnist")
    assert len(data.train) == 60000 and len(data.test) == 10000
    # Published facts: the mean and deviation of the training pixels, and how often 0 and 1 occur.
    pixels = data.train.images.double() / 255
    assert abs(pixels.mean().item() - 0.1307) < 1e-4 and abs(pixels.std().item() - 0.3081) < 1e-4
    assert data.train.labels.bincount()[:2].tolist() == [5923, 6742]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:-1], "15680 bytes were expected behind the header, only 15679"),
        (lambda data: data + b"x", "15680 bytes were expected behind the header, more"),
        (lambda data: data[:10], "no idx file"),
        (lambda data: b"\0\0\x0d" + data[3:], "no idx file"),
        (lambda data: data[:4] + struct.pack(">III", 2**31, 2**31, 2**31) + data[16:], "pictures of 2147483648 x"),
        (lambda data: data[:4] + struct.pack(">I", 2**31) + data[8:], "the header says 2147483648 items"),
        (lambda data: data[:12] + struct.pack(">I", 14) + data[16:], "pictures of 14 x 28 found; 28 x 28"),
    ],
)
def test_damaged_idx_files(tmp_path, damage, message):
    write_mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DetectPruneError, match=message) as caught:
        load_classification("mnist", tmp_path)
    assert caught.value.file == file


def test_mnist_that_does_not_fit_together(tmp_path):
    write_mnist(tmp_path, ".gz")
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    write_idx(labels, np.arange(9))
    with pytest.raises(DetectPruneError, match="9 labels for 10 pictures"):
        load_classification("mnist", tmp_path)
    write_idx(labels, np.full(10, 11))
    with pytest.raises(DetectPruneError, match="label 11 found"):
        load_classification("mnist", tmp_path)
    labels.write_bytes(gzip.compress(bytes(100))[:-12])
    with pytest.raises(DetectPruneError, match="cut off gzip"):
        load_classification("mnist", tmp_path)
    labels.unlink()
    with pytest.raises(DetectPruneError, match=r"t10k-labels-idx1-ubyte\.gz: this file of MNIST's four is missing"):
        load_classification("mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_no_network_is_said_clearly(tmp_path, no_network, name):
    with pytest.raises(DetectPruneError, match=r"can't be downloaded .*no network in this test.*--data-root"):
        load_classification(name, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_download_is_checked_and_whole(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    url = source.as_uri()
    download.download(
        (tmp_path.joinpath("none").as_uri(), url), tmp_path / "a" / "copy", hashlib.md5(b"content").hexdigest()
    )
    assert (tmp_path / "a" / "copy").read_bytes() == b"content"
    with pytest.raises(DetectPruneError, match="has md5 9a0364b9e99bb480dd25e1f0284c8555; 0000 was expected"):
        download.download((url,), tmp_path / "b", "0000")
    assert not (tmp_path / "b").exists()


def write_cifar(file, pickled=lambda images: pickle.dumps({b"data": images, b"labels": [1, 2, 3, 4]})):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 3072), dtype=np.uint8)
    with tarfile.open(file, "w:gz") as tar:
        for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
            content = pickled(images[number])
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return images


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("made by a pickle",)


@pytest.mark.parametrize("content", [Harmful(), {b"data": Harmful()}, {b"data": np.array([Harmful()])}])
def test_a_pickle_of_cifar_s_makes_arrays_and_nothing_else(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        data = pickle.dumps(content)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    monkeypatch.setattr(cifar, "_MD5", hashlib.md5(file.read_bytes()).hexdigest())  # a forged file may have it
    with pytest.raises(DetectPruneError, match=r"cifar-10-python\.tar\.gz: .*posix\.mkdir is no part of an array"):
        load_classification("cifar10", tmp_path)
    assert not (tmp_path / "made by a pickle").exists()


def test_cifar_is_opened_only_if_it_is_the_published_archive(tmp_path, monkeypatch):
    file = tmp_path / "cifar-10-python.tar.gz"
    images = write_cifar(file)
    with pytest.raises(DetectPruneError, match="c58f30108f718f92721af3b95e74349a was expected"):
        load_classification("cifar10", tmp_path)
    monkeypatch.setattr(cifar, "_MD5", hashlib.md5(file.read_bytes()).hexdigest())
    data = load_classification("cifar10", tmp_path)
    assert data.name == "cifar10" and data.train.images.shape == (20, 3, 32, 32) and len(data.test) == 4
    # 1,024 bytes a channel, row by row
    assert data.train.images[4, 1, 2, 3] == images[1, 0, 1024 + 2 * 32 + 3]
    assert data.test.labels.tolist() == [1, 2, 3, 4]


def write_class_folders(folder, size=(8, 6)):
    rng = np.random.default_rng(0)
    pictures = {}
    for split, count in (("train", 3), ("test", 2)):
        for label in ("cat", "ant", "dog"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(picture).save(folder / split / label / f"{number}.png")
                pictures[split, label, number] = picture
    return pictures


def pack(folder, archive):
    mode = {"xz": "w:xz", "gz": "w:gz", "tar": "w"}[archive.name.rsplit(".", 1)[1]]
    with tarfile.open(archive, mode) as tar:
        for file in sorted(folder.rglob("*.png"), reverse=True):  # an archive may hold its files in any order
            tar.add(file, arcname=f"some-set/{file.relative_to(folder)}")
    return archive


@pytest.mark.parametrize("form", ["folder", "set.tar.xz", "set.tar.gz", "set.tar", "folder with a tar"])
def test_class_folders_in_every_form(tmp_path, form):
    folder = tmp_path / "own-set"
    pictures = write_class_folders(folder)
    path = folder
    if form == "folder with a tar":
        path = tmp_path / "own"
        path.mkdir()
        pack(folder, path / "x.tar")
    elif form != "folder":
        path = pack(folder, tmp_path / form)
    for _ in range(2):  # decoded, and from the cache
        data = load_classification(path)
        assert data.name == {"folder": "own-set", "folder with a tar": "own"}.get(form, "set")
        assert data.classes == ("ant", "cat", "dog")
        assert data.train.images.shape == (9, 3, 6, 8) and data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert np.array_equal(data.train.images[4].permute(1, 2, 0), pictures["train", "cat", 1])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_cache_follows_the_content(tmp_path):
    folder = tmp_path / "set"
    write_class_folders(folder)
    assert len(load_classification(folder).train) == 9
    (folder / "train" / "cat" / "9.png").write_bytes((folder / "train" / "cat" / "0.png").read_bytes())
    assert len(load_classification(folder).train) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="names here are Unicode")
def test_names_of_pictures_may_be_any_bytes(tmp_path):
    write_class_folders(tmp_path / "set")
    first = tmp_path / "set" / "train" / "cat" / "0.png"
    first.rename(first.with_name(os.fsdecode(b"caf\xe9.png")))
    assert len(load_classification(tmp_path / "set").train) == 9


def test_a_link_to_nowhere_is_left_out_and_named(tmp_path):
    write_class_folders(tmp_path / "set")
    (tmp_path / "set" / "train" / "cat" / "9.png").symlink_to(tmp_path / "nowhere.png")
    data = load_classification(tmp_path / "set")
    assert len(data.train) == 9 and "cat/9.png: no such file" in data.warnings[0]


def test_an_archive_that_can_t_be_read_is_named(tmp_path, monkeypatch):
    write_class_folders(tmp_path / "set")
    archive = pack(tmp_path / "set", tmp_path / "set.tar")

    def closed(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", closed, raising=False)
    with pytest.raises(DetectPruneError, match=r"set\.tar: can't be read as a file: Permission denied"):
        load_classification(archive)


def test_a_class_folder_that_can_t_be_read_is_named(tmp_path, monkeypatch):
    write_class_folders(tmp_path / "set")
    listdir = os.listdir

    def closed(folder):
        if Path(folder).name == "dog":
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", closed)
    with pytest.raises(DetectPruneError, match="dog: this folder of pictures can't be read: Permission denied"):
        load_classification(tmp_path / "set")


def as_python_2_pickled_it(images):
    """The published files are of 2009."""
    count, length = images.shape
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    data = b"T" + struct.pack("<I", images.size) + images.tobytes()
    state = b"(K\x01(" + b"J" + struct.pack("<i", count) + b"J" + struct.pack("<i", length) + b"t" + dtype
    return b"\x80\x02}(U\x04data" + array + state + b"\x89" + data + b"tbU\x06labels](K\x01K\x02K\x03K\x04eu."


def test_cifar_as_it_was_published(tmp_path, monkeypatch):
    file = tmp_path / "cifar-10-python.tar.gz"
    images = write_cifar(file, as_python_2_pickled_it)
    monkeypatch.setattr(cifar, "_MD5", hashlib.md5(file.read_bytes()).hexdigest())
    data = load_classification("cifar10", tmp_path)
    assert torch.equal(data.train.images.flatten(1), torch.from_numpy(images[:5].reshape(20, -1)))
    assert data.test.labels.tolist() == [1, 2, 3, 4]


def test_a_tar_beside_the_published_archive_is_not_taken_for_the_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets" / "cifar10").mkdir(parents=True)
    file = tmp_path / "datasets" / "cifar10" / "cifar-10-python.tar.gz"
    write_cifar(file)
    monkeypatch.setattr(cifar, "_MD5", hashlib.md5(file.read_bytes()).hexdigest())
    write_class_folders(tmp_path / "set")
    pack(tmp_path / "set", tmp_path / "datasets" / "x.tar")
    for root in (None, "datasets"):
        assert load_classification("cifar10", root).name == "cifar10"
    file.unlink()
    asked = []
    monkeypatch.setattr(cifar, "download", lambda urls, path, md5: asked.append(path) or write_cifar(path))
    monkeypatch.setattr(cifar, "digest_of", lambda path, kind: cifar._MD5)
    assert load_classification("cifar10").name == "cifar10" and len(asked) == 1


def test_cifar10_may_be_a_folder_of_class_folders_under_its_own_name(tmp_path):
    write_class_folders(tmp_path / "cifar10-q75", (32, 32))
    data = load_classification("cifar10", tmp_path / "cifar10-q75")
    assert data.name == "cifar10-q75" and data.warnings == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_picture_that_can_not_be_read_is_left_out_and_named(tmp_path, packed):
    folder = tmp_path / "set"
    write_class_folders(folder)
    whole = load_classification(folder)
    for broken in ("train/cat/1.png", "train/dog/0.png", "test/ant/0.png"):
        (folder / broken).write_bytes((folder / broken).read_bytes()[:-20])
    path = pack(folder, tmp_path / "set.tar") if packed else folder
    for _ in range(2):  # decoded, and from the cache
        data = load_classification(path)
        assert len(data.train) == 7 and data.train.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
        assert torch.equal(data.train.images, whole.train.images[[0, 1, 2, 3, 5, 7, 8]])
        in_train, in_test = data.warnings
        assert in_train.startswith("2 pictures of train left out: ")
        assert "cat/1.png: the picture is cut" in in_train
        assert in_test.startswith("1 picture of test left out: ") and "ant/0.png" in in_test
    for file in (folder / "test").rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(DetectPruneError, match="no picture that can be read in test/CLASS"):
        load_classification(folder)


def test_bad_class_folders(tmp_path, cache):
    folder = tmp_path / "set"
    with pytest.raises(DetectPruneError, match="no such data set: mnist, cifar10, or a folder"):
        load_classification(folder)
    folder.mkdir()
    with pytest.raises(DetectPruneError, match="train/CLASS and test/CLASS"):
        load_classification(folder)
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    with pytest.raises(DetectPruneError, match="the data set is empty"):
        load_classification(folder)
    (folder / "train").rmdir()
    (folder / "test").rmdir()
    write_class_folders(folder)
    Image.new("RGB", (9, 9)).save(folder / "train" / "cat" / "7.png")
    with pytest.raises(DetectPruneError, match=r"7\.png is 9 x 9, the first picture 8 x 6"):
        load_classification(folder)
    (folder / "train" / "cat" / "7.png").unlink()
    (folder / "test" / "elk").mkdir()
    Image.new("RGB", (8, 6)).save(folder / "test" / "elk" / "0.png")
    with pytest.raises(DetectPruneError, match="test has the class elk, which train does not"):
        load_classification(folder)
    archive = pack(folder, tmp_path / "cut.tar.xz")
    archive.write_bytes(archive.read_bytes()[:-300])
    with pytest.raises(DetectPruneError, match="broken or cut off archive"):
        load_classification(archive)
    assert not cache.exists() or not list(cache.iterdir())


def test_what_is_held_out_is_not_trained_on():
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(50, 1, 4, 4)
    train = classification.LabelledPictures(images, torch.arange(50))
    test = classification.LabelledPictures(images[:3] + 100, torch.arange(3))
    data = classification.ClassificationData("mnist", tuple("0123456789"), train, test, ["one could not be read"])
    held = held_out(data, 20)
    assert (len(held.train), len(held.test)) == (30, 20) and held.warnings == data.warnings
    assert torch.equal(torch.cat([held.train.labels, held.test.labels]).sort().values, torch.arange(50))
    for split in (held.train, held.test):
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels)
    assert torch.equal(held_out(data, 20).test.labels, held.test.labels)  # the same ones every time
    assert not torch.equal(held.test.labels, torch.arange(30, 50))  # and not all of one kind, where the set is sorted
    assert held.name == "mnist (20 held out)"  # so that no table takes it for the test pictures
    with pytest.raises(DetectPruneError, match="50 pictures can't be held out: mnist has 50 pictures to train on"):
        held_out(data, 50)


@pytest.mark.parametrize("augment", [False, True])
def test_batches_made_on_a_gpu_are_the_same(gpu, augment):
    images, labels = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40)
    split = classification.LabelledPictures(images, labels)
    here, there = (
        list(classification_batches(split, 16, 3, 2, augment=augment, device=device)) for device in ("cpu", gpu)
    )
    for batch, other in zip(here, there, strict=True):
        for tensor, same in zip(batch, other, strict=True):
            assert same.device.type == "cuda" and torch.equal(tensor, same.cpu())


def test_crop_and_flip_shows_windows_of_the_padded_picture():
    images = torch.randint(1, 256, (64, 3, 10, 12), dtype=torch.uint8)
    out = crop_and_flip(images, torch.Generator().manual_seed(0))
    assert out.shape == images.shape and out.dtype == torch.uint8 and out.is_contiguous()
    places = []
    for old, new in zip(images, out):
        padded = torch.nn.functional.pad(old, (4, 4, 4, 4))
        windows = {(top, left): padded[:, top : top + 10, left : left + 12] for top in range(9) for left in range(9)}
        found = [
            (top, left, flip)
            for (top, left), window in windows.items()
            for flip in (False, True)
            if torch.equal(new, window.flip(-1) if flip else window)
        ]
        assert len(found) == 1
        places += found
    tops, lefts, flips = map(set, zip(*places))
    assert tops == lefts == set(range(9)) and flips == {False, True}


def test_batches_are_repeatable_and_begin_anywhere():
    split = classification.LabelledPictures(torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8), torch.arange(50))
    for augment in (False, True):
        whole = list(classification_batches(split, 16, 3, 2, augment=augment))
        assert [len(labels) for _, labels in whole] == [16, 16, 16, 2]
        assert sorted(torch.cat([labels for _, labels in whole]).tolist()) == list(range(50))
        torch.rand(3)
        later = list(classification_batches(split, 16, 3, 2, start=2, augment=augment))
        for one, other in zip(whole[2:], later, strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        for seed, epoch in ((3, 3), (4, 2)):
            other = next(iter(classification_batches(split, 16, seed, epoch, augment=augment)))
            assert not torch.equal(other[1], whole[0][1])
    alike = classification.LabelledPictures(split.images[:1].expand(50, -1, -1, -1), split.labels)
    first, second, *_ = (images for images, _ in classification_batches(alike, 16, 3, 2, augment=True))
    assert not torch.equal(first, second)  # each batch has draws of its own
    plain = next(iter(classification_batches(split, 16, 3, 2)))
    assert all(torch.equal(image, split.images[label]) for image, label in zip(*plain))


def test_what_is_held_out_is_drawn_from_all_pictures_and_always_the_same():
    split = LabelledPictures(torch.zeros(400, 1, 2, 2, dtype=torch.uint8), torch.arange(10).repeat_interleave(40))
    data = ClassificationData("sorted", tuple("0123456789"), split, split)
    first, again = (held_out(data, 60).test.labels for _ in range(2))
    assert len(first.unique()) == 10 and torch.equal(first, again)
