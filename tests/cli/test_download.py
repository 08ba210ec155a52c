"""`download` from a server on this machine: what lands where, and what is said of it."""

import hashlib
import io
import json
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from tiny import TINY_CFG
from web import serve

from detect_prune import transfer
from detect_prune.cli.main import main
from detect_prune.darknet import write_weights
from detect_prune.datasets import load_data
from detect_prune.official import DATA, WEIGHTS, DataSet, Official
from detect_prune.official.table import Archive
from detect_prune.tasks.detector import load
from detect_prune.transfer import RemoteFile, alone_in


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    with serve() as site:
        yield site


def official(site, name, content, digest=True):
    site.files[f"/{name}"] = content
    sha256 = f"sha256:{hashlib.sha256(content).hexdigest()}" if digest else None
    file = RemoteFile(name, (f"{site.url}/{name}",), len(content), sha256)
    return Official(file, "a test" if digest else "")


@pytest.fixture
def tiny(site, tmp_path, monkeypatch):
    """Official weights of a tiny network, and what they are."""
    (tmp_path / "tiny.cfg").write_text(TINY_CFG)
    write_weights(load("tiny.cfg"), tmp_path / "made")
    content = (tmp_path / "made").read_bytes()
    monkeypatch.setitem(WEIGHTS, "tiny.weights", official(site, "tiny.weights", content))
    return content


def test_weights_land_where_they_are_looked_for(site, tiny, tmp_path, capsys):
    assert main(["download", "tiny"]) == 0
    assert (tmp_path / "weights" / "tiny.weights").read_bytes() == tiny
    printed = capsys.readouterr().out
    sha256 = hashlib.sha256(tiny).hexdigest()
    assert f"weights/tiny.weights was fetched, {len(tiny):,} bytes, sha256 {sha256} as published (a test)" in printed
    assert "tiny.weights: 100 % (0.0/0.0 MB)" in printed, "how far it is"
    assert main(["download", "tiny.weights"]) == 0 and len(site.asked) == 1
    assert "weights/tiny.weights was there already" in capsys.readouterr().out


def test_several_at_once_into_a_folder(site, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(WEIGHTS, "tiny.conv.1", official(site, "tiny.conv.1", b"backbone", digest=False))
    assert main(["download", "tiny", "tiny.conv.1", "--dir", "here"]) == 0
    assert (tmp_path / "here" / "tiny.conv.1").read_bytes() == b"backbone"
    printed = capsys.readouterr().out
    assert f"its sha256 is {hashlib.sha256(b'backbone').hexdigest()}, and there is no published one" in printed


def test_another_file_of_that_name_is_left_alone(site, tiny, tmp_path, capsys):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tiny.weights").write_bytes(b"mine")
    assert main(["download", "tiny"]) == 2
    said = f"another file of this name, which has 4 bytes; {len(tiny):,} were expected; move it away"
    assert said in capsys.readouterr().err
    assert (tmp_path / "weights" / "tiny.weights").read_bytes() == b"mine" and not site.asked


def test_what_goes_wrong_is_one_sentence(site, tiny, tmp_path, capsys):
    for words, said in [
        (["download", "yolov9"], "error: no official file is known by the name 'yolov9'; there are yolov4.weights,"),
        (["download", "tiny", "yolov9"], "error: no official file is known by the name 'yolov9'"),
    ]:
        assert main(words) == 2
        assert capsys.readouterr().err.startswith(said) and not site.asked, "names are looked at before anything"
    site.files["/tiny.weights"] = bytes(len(tiny))
    assert main(["download", "tiny"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: weights/tiny.weights: can't be downloaded (http://127.0.0.1") and "sha256" in error
    assert error.count("\n") == 1 and not (tmp_path / "weights").exists()


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def coco(split):
    picture = cv2.imencode(".jpg", np.full((40, 50, 3), 99, np.uint8))[1].tobytes()
    labels = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 50, "height": 40}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0},
        ],
    }
    return {f"{split}2017/1.jpg": picture}, {f"annotations/instances_{split}2017.json": json.dumps(labels)}


@pytest.fixture
def mini(site, monkeypatch):
    """COCO's three archives with a picture each."""
    (train, train_labels), (val, val_labels) = coco("train"), coco("val")
    archives = (
        Archive(official(site, "labels.zip", zipped(train_labels | val_labels))),
        Archive(official(site, "val.zip", zipped(val)), "images"),
        Archive(official(site, "train.zip", zipped(train)), "images"),
    )
    monkeypatch.setitem(DATA, "mini", DataSet("coco", archives, "coco.yaml"))
    monkeypatch.setitem(DATA, "mini-val", DataSet("coco", archives[:2], "coco.yaml"))


def test_a_data_set_is_unpacked_as_its_descriptor_expects(site, mini, tmp_path, capsys):
    assert main(["download", "mini-val"]) == 0
    printed = capsys.readouterr().out
    assert "2 files in datasets/coco from labels.zip, which was fetched" in printed
    assert "unpacking val.zip: 1 done" in printed
    assert printed.splitlines()[-1] == "mini-val is in datasets/coco: --data coco.yaml --data-root datasets/coco"
    assert not (tmp_path / "datasets" / "coco.downloads").exists(), "archives go once they are unpacked"
    assert main(["download", "mini"]) == 0
    assert "val.zip was unpacked before" in capsys.readouterr().out
    assert [path for path, _ in site.asked] == ["/labels.zip", "/val.zip", "/train.zip"]
    data = load_data("coco.yaml", "datasets/coco")
    assert len(data.train) == len(data.val) == 1 and data.names == ("thing",)


def test_half_a_data_set_is_not_taken_for_a_whole_one(site, mini, tmp_path, capsys):
    train = site.files.pop("/train.zip")
    assert main(["download", "mini"]) == 2
    assert "train.zip: can't be downloaded" in capsys.readouterr().err
    store = tmp_path / "datasets" / "coco.downloads"
    assert not (tmp_path / "datasets" / "coco").exists()
    assert sorted(path.name for path in store.iterdir()) == ["labels.zip", "val.zip"]
    site.files["/train.zip"] = train
    site.asked.clear()
    assert main(["download", "mini", "--dir", "datasets/coco"]) == 0
    assert [path for path, _ in site.asked] == ["/train.zip"] and not store.exists()
    assert len(load_data("coco.yaml", "datasets/coco").train) == 1


def test_without_a_network_nothing_is_left(mini, site, tmp_path, capsys):
    site.files.clear()
    assert main(["download", "mini"]) == 2
    assert not (tmp_path / "datasets").exists()


def test_room_for_archives_and_content_is_asked_for_first(site, mini, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1500}))
    assert main(["download", "mini"]) == 2
    assert "for the archives and what is in them" in capsys.readouterr().err and not site.asked


@pytest.mark.parametrize(
    "name, folder, said",
    [
        ("mini", "file", "file: this is a file; the name of a folder"),
        ("mini", "/", "/: this is the whole disk; the name of a folder"),
        ("mini", "file/below", "file: this folder can't be made"),
        ("mini", "n" * 300, f"{'n' * 300}.downloads: this folder can't be made: File name too long"),
        ("tiny", "file", "file: this folder can't be made"),
        ("tiny", "n" * 300, f"{'n' * 300}: this folder can't be made: File name too long"),
    ],
)
def test_what_is_no_folder_is_said_before_the_network_is_asked(site, mini, tiny, tmp_path, capsys, name, folder, said):
    (tmp_path / "file").touch()
    assert main(["download", name, "--dir", folder]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1 and not site.asked


@pytest.mark.parametrize("folder", [".", "..", "below/.."])
def test_data_in_the_working_folder(site, mini, tmp_path, monkeypatch, folder):
    (tmp_path / "coco" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "coco" if folder != ".." else tmp_path / "coco" / "below")
    assert main(["download", "mini-val", "--dir", folder]) == 0
    assert (tmp_path / "coco" / "images" / "val2017" / "1.jpg").is_file()
    assert not (tmp_path / "coco.downloads").exists()


def test_an_archive_that_a_kill_left_goes_with_the_next_call(site, mini, tmp_path):
    assert main(["download", "mini-val"]) == 0
    store = tmp_path / "datasets" / "coco.downloads"
    store.mkdir()
    (store / "val.zip").write_bytes(b"unpacked already")
    assert main(["download", "mini-val"]) == 0
    assert not store.exists()


def test_two_processes_do_not_unpack_one_data_set_at_once(site, mini, tmp_path, capsys):
    with ThreadPoolExecutor() as pool:
        with alone_in(tmp_path / "datasets"):
            other = pool.submit(main, ["download", "mini-val"])
            while "waiting for another process" not in capsys.readouterr().out:
                assert not other.done()
                time.sleep(0.01)
            assert not site.asked
        assert other.result(timeout=20) == 0
