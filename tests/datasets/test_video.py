"""Videos are read frame by frame, and what is no video is refused in one sentence."""

import cv2
import numpy as np
import pytest

from detect_prune.datasets.video import CorruptVideo, Video


def write(path, frames=12, size=(64, 48), rate=10.0, codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size)
    for number in range(frames):
        frame = np.zeros((size[1], size[0], 3), np.uint8)
        frame[..., 2] = 20 * number % 256  # red grows
        writer.write(frame)
    writer.release()
    return path


def test_frames_come_in_order_as_rgb(tmp_path):
    with Video(write(tmp_path / "a.mp4")) as video:
        assert video.frames_promised == 12 and video.rate == pytest.approx(10)
        frames = list(video)
    assert len(frames) == 12 and all(frame.shape == (48, 64, 3) for frame in frames)
    reds = [frame[..., 0].mean() for frame in frames]
    assert np.allclose(reds, 20 * np.arange(12), atol=6) and frames[-1][..., 2].mean() < 20


def test_one_frame_is_held_at_a_time(tmp_path):
    with Video(write(tmp_path / "a.mp4")) as video:
        frames = iter(video)
        next(frames)
        kept = next(frames).mean()
        assert sum(1 for _ in frames) == 10 and kept > 0


def test_a_video_that_is_cut_off_gives_fewer_frames_than_it_promises(tmp_path):
    path = write(tmp_path / "a.avi", 30, codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Video(path) as video:
        assert 0 < sum(1 for _ in video) < video.frames_promised == 30


@pytest.mark.parametrize("content", [b"", b"no video at all" * 50, "cut"])
def test_what_is_no_video_is_refused_without_noise(tmp_path, capfd, content):
    path = tmp_path / "broken.mp4"
    if content == "cut":  # the index of an MPEG-4 file lies at its end
        content = write(path).read_bytes()
        content = content[: len(content) // 2]
    path.write_bytes(content)
    with pytest.raises(CorruptVideo, match=r"broken\.mp4: this is no video that OpenCV can open"):
        Video(path)
    with pytest.raises(CorruptVideo, match="no such file"):
        Video(tmp_path / "missing.mp4")
    printed = capfd.readouterr()
    assert not printed.err and not printed.out, "FFmpeg keeps quiet"


class Empty:
    def read(self):
        return False, None

    def release(self):
        pass


def test_a_video_without_frames_says_so(tmp_path, monkeypatch):
    with Video(write(tmp_path / "a.mp4")) as video:
        monkeypatch.setattr(video, "_capture", Empty())
        with pytest.raises(CorruptVideo, match="not one frame"):
            next(iter(video))
