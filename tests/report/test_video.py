"""A video that is written holds every frame, or is not there."""

import cv2
import numpy as np
import pytest

from detect_prune.errors import DetectPruneError
from detect_prune.report.video import write_video


def read(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        frames.append(got[1][..., ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("size, stored", [((64, 48), (48, 64)), ((65, 49), (50, 66)), ((16, 9), (10, 16))])
def test_what_is_written_is_read_again(tmp_path, size, stored):
    path = tmp_path / "new" / "a.mp4"
    with write_video(path, size, 12.5) as write:
        for number in range(8):
            frame = np.full((size[1], size[0], 3), (200, 30 * number, 0), np.uint8)
            write(frame)
        assert not path.exists(), "it appears whole"
    frames, rate = read(path)
    assert len(frames) == 8 and frames[0].shape[:2] == stored and rate == pytest.approx(12.5)
    for number, frame in enumerate(frames):
        assert np.abs(frame.reshape(-1, 3).mean(0) - (200, 30 * number, 0)).max() < 8
        assert np.abs(frame.astype(int) - frame.mean((0, 1))).max() < 30, "no black edge"


def test_nothing_stays_of_a_video_that_failed(tmp_path):
    with pytest.raises(KeyError), write_video(tmp_path / "a.mp4", (64, 48), 10) as write:
        write(np.zeros((48, 64, 3), np.uint8))
        raise KeyError
    assert not list(tmp_path.iterdir())


class TakesOne:
    """Drops every frame after the first without a word, as OpenCV does where the disk is full.

    Not a subclass: OpenCV's types crash when they are made one.
    """

    def __init__(self, *options, make=cv2.VideoWriter):
        self.writer = make(*options)
        self.isOpened, self.release = self.writer.isOpened, self.writer.release
        self.taken = False

    def write(self, frame):
        if not self.taken:
            self.writer.write(frame)
        self.taken = True


def test_frames_that_did_not_arrive_are_missed(tmp_path, monkeypatch):
    TakesOne.fourcc = cv2.VideoWriter.fourcc
    monkeypatch.setattr(cv2, "VideoWriter", TakesOne)
    black = np.zeros((48, 64, 3), np.uint8)
    with (
        pytest.raises(DetectPruneError, match="1 of 3 frames arrived"),
        write_video(tmp_path / "a.mp4", (64, 48), 10) as write,
    ):
        for _ in range(3):
            write(black)
    assert not list(tmp_path.iterdir())


def test_a_kind_that_can_not_be_written_is_refused(tmp_path):
    with (
        pytest.raises(DetectPruneError, match="can't write an MPEG-4 video"),
        write_video(tmp_path / "a.xyz", (64, 48), 10),
    ):
        pass


@pytest.mark.parametrize("rate", [59.94, 65.537, 119.88, 119.973, 239.767, 240.0, 999.97])
def test_uneven_rates_can_be_written(tmp_path, rate):
    """As the averages of a telephone's slow motion are; MPEG-4 can't count all of them to the last digit."""
    with write_video(tmp_path / "a.mp4", (64, 48), rate) as write:
        for _ in range(4):
            write(np.zeros((48, 64, 3), np.uint8))
    assert read(tmp_path / "a.mp4")[1] == pytest.approx(rate, abs=0.005 if rate < 655 else 0.05)
