"""What `detect` writes where."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from tiny import TINY_CFG
from torchvision.ops import box_iou

from detect_prune.cli.main import main
from detect_prune.darknet import write_weights
from detect_prune.tasks.detector import Detector, load


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.cfg").write_text(TINY_CFG)
    write_weights(load("tiny.cfg"), "tiny.weights")
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "a.png", "b.ppm"):
        cv2.imwrite(str(tmp_path / "photos" / name), np.full((40, 50, 3), 90, np.uint8))
    return tmp_path


def test_every_picture_gets_its_files(here, capsys):
    words = ["--cfg", "tiny.cfg", "--score", "0.0001", "photos", "--out", "out", "--save-txt", "--save-json"]
    assert main(["detect", *words]) == 0
    expected = [f"{name}.{end}" for name in ("a", "a.png", "b") for end in ("jpg", "txt", "json")]
    assert sorted(path.name for path in (here / "out").iterdir()) == sorted(expected)
    lines = np.loadtxt((here / "out" / "a.txt").read_text().splitlines(), ndmin=2)
    listed = json.loads((here / "out" / "a.json").read_text())
    assert len(lines) == len(listed) > 0
    for line, one in zip(lines, listed):
        left, top, right, bottom = one["box"]
        assert 0 <= left <= right <= 50 and 0 <= top <= bottom <= 40
        assert line[0] == one["class"] and line[5] == pytest.approx(one["score"], abs=1e-5)
        assert line[1] * 50 == pytest.approx((left + right) / 2, abs=0.01)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"\d+ objects in 3 pictures, [\d.]+ pictures a second, reading .*; drawn in out", last)


def test_results_of_earlier_runs_stay(here):
    for folder in ("detect", "detect-2"):
        assert main(["detect", "--cfg", "tiny.cfg", "photos/a.jpg"]) == 0
        assert [path.name for path in (here / "runs" / folder).iterdir()] == ["a.jpg"]


def test_where_nothing_can_be_written_is_said_first(here, capsys):
    (here / "file").touch()
    assert main(["detect", "--cfg", "tiny.cfg", "photos", "--out", "file"]) == 2
    assert "file: this folder can't be made" in capsys.readouterr().err
    (here / "links").mkdir()
    (here / "links" / "a.jpg").symlink_to("../photos/a.jpg")
    for source, out in (("photos/b.ppm", "photos"), ("links", "links"), ("links/a.jpg", "photos")):
        assert main(["detect", "--cfg", "tiny.cfg", source, "--out", out]) == 2
        assert "among their originals" in capsys.readouterr().err
    assert main(["val", "--cfg", "tiny.cfg", "--data", "sample", "--json", "file/x"]) == 2
    assert "file: this folder can't be made" in capsys.readouterr().err


def test_a_broken_video_is_one_sentence(here, capsys):
    (here / "broken.mp4").write_bytes(b"junk" * 99)
    assert main(["detect", "--cfg", "tiny.cfg", "broken.mp4"]) == 2
    printed = capsys.readouterr()
    assert printed.err == (
        "error: broken.mp4: this is no video that OpenCV can open; is it cut off, or of another kind?\n"
    )
    assert main(["detect", "--cfg", "tiny.cfg", "broken.mp4", "photos/a.jpg"]) == 0
    assert "skipped: broken.mp4" in capsys.readouterr().out
    (here / "photos" / "a.jpg").write_bytes(b"")
    assert main(["detect", "--cfg", "tiny.cfg", "broken.mp4", "photos/a.jpg"]) == 2
    assert "(and 1 more)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["photos", "--weights", "nope.weights"], "nope.weights: no such weights file"),
        (["photos", "--weights", "photos"], "photos: this is a folder; the name of a weights file"),
        (["photos", "--cfg", ""], "'' is not the name of a file"),
        (["photos", "--cfg", "nope.cfg"], "nope.cfg: no such file"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["broken.mp4"], "broken.mp4: this is no video"),
        (["photos", "--out", "n" * 300], f"{'n' * 300}: this folder can't be made: File name too long"),
        (["photos", "--names", "photos"], "photos: this is a folder"),
    ],
)
def test_what_fails_leaves_no_folder(here, capsys, words, said):
    (here / "broken.mp4").write_bytes(b"junk" * 99)
    assert main(["detect", "--cfg", "tiny.cfg", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert not list((here / "runs").glob("*"))


def test_what_runs_is_the_copy_made_for_use(here, monkeypatch):
    predict, layers = Detector.predict, []

    def watched(self, *args, **options):
        layers.extend(self.modules())
        return predict(self, *args, **options)

    monkeypatch.setattr(Detector, "predict", watched)
    assert main(["detect", "--cfg", "tiny.cfg", "photos/a.jpg"]) == 0
    assert layers and not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in layers)


@pytest.mark.parametrize("word, value", [("--score", "2"), ("--nms-iou", "-1"), ("--imgsz", "x")])
def test_options_out_of_range(here, capsys, word, value):
    with pytest.raises(SystemExit) as stop:
        main(["detect", "--cfg", "tiny.cfg", "photos", word, value])
    assert stop.value.code == 2 and f"error: {word}: " in capsys.readouterr().err


def test_everything_that_opencv_finds_is_found(real_data, tmp_path):
    """OpenCV's finds with the official weights: plain IoU at .45, boxes not clipped, batch norm as at eps 1e-6."""
    images, weights = real_data / "darknet/images", real_data / "weights/yolov4-tiny"
    words = ["--cfg", str(weights / "yolov4-tiny.cfg"), "--weights", str(weights / "yolov4-tiny.weights")]
    assert main(["detect", *words, str(images), "--save-json", "--out", str(tmp_path), "--device", "cpu"]) == 0
    reference = json.loads((images / "reference_opencv.json").read_text())["yolov4-tiny"]
    assert sum(map(len, reference.values())) >= 15
    for name, theirs in reference.items():
        height, width = cv2.imread(str(images / name)).shape[:2]
        ours = json.loads((tmp_path / name).with_suffix(".json").read_text())
        for label, score, x, y, w, h in theirs:
            box = torch.tensor([[x, y, x + w, y + h]]).clamp(min=0)
            box = torch.minimum(box, torch.tensor([width, height] * 2))
            alike = [one for one in ours if one["name"] == label and abs(one["score"] - score) < 0.002]
            best = max((box_iou(box, torch.tensor([one["box"]])).item() for one in alike), default=0.0)
            assert best > 0.99, f"{label} {score} in {name} is not found"


def found(here, out, *options):
    words = ["--cfg", "tiny.cfg", "photos/a.jpg", "--score", "0.0001", "--save-json", "--out", out, *options]
    assert main(["detect", *words]) == 0
    return json.loads((here / out / "a.json").read_text())


def test_the_suppression_that_is_asked_for_is_used(here):
    assert 0 < len(found(here, "few", "--nms-iou", "0")) < len(found(here, "all", "--nms-iou", "1"))


def test_names_that_are_given_are_used(here):
    (here / "two.names").write_text("cat\ndog\n")
    assert {one["name"] for one in found(here, "out", "--names", "two.names")} <= {"cat", "dog"}
