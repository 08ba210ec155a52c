"""What `detect` writes where."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import TINY_CFG

from detect_prune.cli.detect import output_names
from detect_prune.cli.main import main
from detect_prune.darknet import write_weights
from detect_prune.tasks.detector import load


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.cfg").write_text(TINY_CFG)
    write_weights(load("tiny.cfg"), "tiny.weights")
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "a.png", "b.ppm"):
        cv2.imwrite(str(tmp_path / "photos" / name), np.full((40, 50, 3), 90, np.uint8))
    return tmp_path


def test_no_two_pictures_share_a_name():
    files = [Path(name) for name in ("x/a.jpg", "x/A.png", "y/a.jpg", "z/a.jpg", "x/b.jpg", "y/b.png")]
    assert output_names(files) == ["a", "A.png", "a.jpg", "a.jpg-2", "b", "b.png"]


def test_every_picture_gets_its_two_files(here, capsys):
    assert main(["detect", "--cfg", "tiny.cfg", "--score", "0.0001", "photos", "--out", "out"]) == 0
    expected = [f"{name}.{end}" for name in ("a", "a.png", "b") for end in ("jpg", "txt")]
    assert sorted(path.name for path in (here / "out").iterdir()) == sorted(expected)
    columns = (here / "out" / "a.txt").read_text().splitlines()[0].split("\t")
    assert len(columns) == 6 and 0 < float(columns[1]) < 1
    left, top, right, bottom = map(float, columns[2:])
    assert 0 <= left <= right <= 50 and 0 <= top <= bottom <= 40


def test_where_nothing_can_be_written_is_said_first(here, capsys):
    (here / "file").touch()
    assert main(["detect", "--cfg", "tiny.cfg", "photos", "--out", "file"]) == 2
    assert "file: this folder can't be made" in capsys.readouterr().err
    assert main(["detect", "--cfg", "tiny.cfg", "photos", "--out", "photos"]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert main(["val", "--cfg", "tiny.cfg", "--data", "sample", "--json", "file/x"]) == 2
    assert "file: this folder can't be made" in capsys.readouterr().err
