"""What is looked at, what is written for it, and what is said of what can't be read."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detect_prune.errors import DetectPruneError
from detect_prune.report.figures import JPEG_SIDE
from detect_prune.report.video import UnwritableVideo
from detect_prune.structures import Detections
from detect_prune.tasks.finder import Finder, find_sources, output_names

SIZE = (64, 48)


def bright_half(picture):
    """Finds the brighter side of a picture: a detector that needs no network."""
    height, width = picture.shape[:2]
    left = picture[:, : width // 2].mean() > picture[:, width // 2 :].mean()
    box = [0.0, 0.0, width / 2, height] if left else [width / 2, 0.0, width, height]
    return Detections(torch.tensor([box]), torch.tensor([0.75]), torch.tensor([int(left)]), ("right", "left"))


def half(left):
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    picture[:, : SIZE[0] // 2] = 200 * left
    picture[:, SIZE[0] // 2 :] = 200 * (not left)
    return picture


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mixed"
    (folder / "deeper").mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), half(True))
    cv2.imwrite(str(folder / "b.jpg"), half(False))
    cv2.imwrite(str(folder / "deeper" / "c.bmp"), half(True))
    (folder / "notes.txt").write_text("neither")
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 8, SIZE)
    for number in range(6):
        writer.write(half(number < 4))
    writer.release()
    return folder


def test_sources_are_files_folders_and_patterns_each_file_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = [path.as_posix() for path in find_sources(["b.jpg", ".", "*.jpg", "**/*.bmp"])]
    assert names == ["b.jpg", "a.avi", "a.png", "deeper/c.bmp"]
    whole = str((folder / "b.jpg").resolve())
    assert find_sources(["b.jpg", whole, "deeper/../b.jpg", "a.png"]) == [Path("b.jpg"), Path("a.png")]
    (folder / "odd[1].jpg").touch()
    assert find_sources(["odd[1].jpg"]) == [Path("odd[1].jpg")], "a name is no pattern where there is such a file"


@pytest.mark.parametrize(
    "source, said",
    [
        ("nowhere.jpg", "no such file or folder"),
        ("x" * 5000, "no such file or folder"),
        ("empty", "no pictures or videos"),
        ("*.gif", "here"),
    ],
)
def test_a_source_that_stands_for_nothing_is_named(folder, monkeypatch, source, said):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    with pytest.raises(DetectPruneError, match=said) as caught:
        find_sources(["b.jpg", source])
    assert str(caught.value).startswith(source)


def test_no_two_files_share_a_name():
    files = [Path(name) for name in ("x/a.jpg", "x/A.png", "y/a.jpg", "z/a.jpg", "x/b.jpg", "y/b.mp4")]
    assert output_names(files) == ["a", "A.png", "a.jpg", "a.jpg-2", "b", "b.mp4"]


def test_long_names_leave_room_for_what_is_added():
    long = ["x" * 251 + ".png", "x" * 251 + ".jpg", "x" * 250 + ".png", "é" * 125 + ".png"]
    names = output_names([Path("a") / name for name in long])
    assert len(set(names)) == 4 and all(len(os.fsencode(f"{name}.json")) <= 255 for name in names)


@pytest.mark.parametrize("ending", ["jpg", "txt", "json"])
def test_the_folder_of_a_videos_frames_has_no_files_name(folder, tmp_path, ending):
    (folder / "a.avi").rename(folder / f"b.{ending}.avi")
    finder = Finder(bright_half, save_txt=True, save_json=True)
    finder.go_through([folder / "b.jpg", folder / f"b.{ending}.avi"], tmp_path / "out")
    assert not finder.skipped and (tmp_path / "out" / f"b.{ending}.avi" / "000006.txt").is_file()


def test_what_is_done_of_a_video_when_it_is_stopped_is_kept(folder, tmp_path, capsys):
    def interrupted(number):
        finds = iter([bright_half] * number)

        def find(picture):
            if (one := next(finds, None)) is None:
                raise KeyboardInterrupt
            return one(picture)

        return Finder(find, save_json=True)

    with pytest.raises(KeyboardInterrupt):
        interrupted(3).go_through([folder / "a.avi"], tmp_path / "out")
    assert f"{folder / 'a.avi'}: stopped; its first 3 frames are kept" in capsys.readouterr().out
    assert cv2.VideoCapture(str(tmp_path / "out" / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert len(json.loads((tmp_path / "out" / "a.json").read_text())) == 3
    with pytest.raises(KeyboardInterrupt):
        interrupted(0).go_through([folder / "a.avi"], tmp_path / "none")
    assert not list((tmp_path / "none").iterdir())


def test_pictures_and_videos_are_drawn_and_listed(folder, tmp_path, capsys):
    finder = Finder(bright_half, save_txt=True, save_json=True)
    finder.go_through(find_sources([str(folder)]), tmp_path / "out")
    assert (finder.seen, finder.objects, finder.skipped) == (8, 8, [])
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    frames = {f"a/00000{number}.txt" for number in range(1, 7)}
    assert written == {"a", "a.mp4", "a.json", "b.jpg", "b.txt", "b.json", *frames} | {
        f"a.png.{ending}" for ending in ("jpg", "txt", "json")
    }
    printed = capsys.readouterr().out
    assert "detect: 100 % (2/2), objects 2" in printed and "a.avi: 100 % (6/6), objects 8" in printed


def test_a_link_among_the_results_does_not_lead_to_an_original(folder, tmp_path):
    before = (folder / "b.jpg").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.jpg").symlink_to(folder / "b.jpg")
    with pytest.raises(DetectPruneError, match=r"out/b\.jpg: this is a link to one of the originals"):
        Finder(bright_half).go_through([folder / "b.jpg"], tmp_path / "out")
    assert (folder / "b.jpg").read_bytes() == before


def test_a_picture_that_can_t_be_drawn_does_not_end_the_others(tmp_path):
    long = "x" * 240
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, JPEG_SIDE + 1, 3), np.uint8))
    cv2.imwrite(str(tmp_path / f"{long}.png"), half(True))
    finder = Finder(bright_half)
    finder.go_through([tmp_path / "a.png", tmp_path / f"{long}.png"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{long}.jpg"]
    (said,) = finder.skipped
    assert "a.png: more than 65,500 pixels a side" in said


def test_what_is_listed_of_a_picture(folder, tmp_path):
    Finder(bright_half, save_txt=True, save_json=True).go_through([folder / "b.jpg"], tmp_path)
    assert (tmp_path / "b.txt").read_text() == "0 0.750000 0.500000 0.500000 1.000000 0.750000\n"
    listed = json.loads((tmp_path / "b.json").read_text())
    assert listed == [{"class": 0, "name": "right", "score": 0.75, "box": [32.0, 0.0, 64.0, 48.0]}]
    drawn = cv2.imread(str(tmp_path / "b.jpg"))
    assert drawn.shape == (48, 64, 3) and np.abs(drawn.astype(int) - half(False)).max() > 50


def test_what_is_listed_of_a_video(folder, tmp_path):
    Finder(bright_half, save_txt=True, save_json=True).go_through([folder / "a.avi"], tmp_path)
    listed = json.loads((tmp_path / "a.json").read_text())
    assert [[one["class"] for one in frame] for frame in listed] == [[1]] * 4 + [[0]] * 2
    assert (tmp_path / "a" / "000004.txt").read_text().startswith("1 0.25")
    assert (tmp_path / "a" / "000005.txt").read_text().startswith("0 0.75")
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6 and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(8)


def test_only_drawings_unless_more_is_asked_for(folder, tmp_path):
    Finder(bright_half).go_through([folder / "a.avi", folder / "b.jpg"], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "b.jpg"]


def test_what_can_not_be_read_is_skipped_and_told(folder, tmp_path):
    whole = (folder / "a.avi").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: whole.rindex(b"00dc", 0, whole.index(b"idx1")) + 100])
    (folder / "junk.mp4").write_bytes(b"junk" * 99)
    (folder / "junk.jpg").write_bytes(b"junk" * 99)
    files = [folder / name for name in ("junk.jpg", "junk.mp4", "cut.avi", "b.jpg")]
    finder = Finder(bright_half)
    finder.go_through(files, tmp_path / "out")
    picture, video, end = finder.skipped
    assert "junk.jpg: " in picture and "junk.mp4: this is no video" in video
    lost = 6 - (finder.seen - 1)
    assert 0 < lost < 6 and end == f"{folder / 'cut.avi'}: its last {lost} frames can't be read"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.jpg", "cut.mp4"]


def test_frames_of_a_longer_video_before_do_not_stay(folder, tmp_path):
    (tmp_path / "out" / "a").mkdir(parents=True)
    for name in ("000002", "000007", "1000000", "notes"):
        (tmp_path / "out" / "a" / f"{name}.txt").write_text("of before")
    Finder(bright_half, save_txt=True).go_through([folder / "a.avi"], tmp_path / "out")
    left = sorted(path.stem for path in (tmp_path / "out" / "a").iterdir())
    assert left == [*(f"00000{number}" for number in range(1, 7)), "notes"]


def test_a_video_that_can_t_be_written_does_not_end_the_others(folder, tmp_path, monkeypatch):
    def refuse(path, size, rate):
        raise UnwritableVideo("so large a video can't be written", file=path)

    monkeypatch.setattr("detect_prune.tasks.finder.write_video", refuse)
    finder = Finder(bright_half)
    finder.go_through([folder / "a.avi", folder / "b.jpg"], tmp_path / "out")
    assert finder.seen == 1 and "a.mp4: so large a video" in finder.skipped[0]
