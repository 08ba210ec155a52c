"""Reading videos: frame after frame, never the whole of one in memory."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from detect_prune.errors import DetectPruneError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_USUAL_RATE = 25.0
_LARGEST_RATE = 1000.0

# FFmpeg prints what it thinks of a broken file by itself; what a person needs of it stands in our own sentence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class CorruptVideo(DetectPruneError):
    """A video of which not even one frame can be read."""


class Video:
    """An open video: iterate over it once for its frames; a context manager.

        with Video("street.mp4") as video:
            for frame in video:                     # (height, width, 3) uint8 RGB
                ...

    Frames come as players show them: turned if the file says so.

    Raises:
        CorruptVideo: the file is missing, or no video that this OpenCV can open.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise CorruptVideo("no such file; a video was expected here", file=path)
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise CorruptVideo("this is no video that OpenCV can open; is it cut off, or of another kind?", file=path)
        self.frames_promised = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        """What the header says; 0 where it says nothing. A video that is cut off has fewer."""
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= _LARGEST_RATE else _USUAL_RATE
        """Frames a second."""

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the frames, (height, width, 3) uint8 RGB. Raises CorruptVideo if there is not even one."""
        readable, frame = self._capture.read()
        if not readable:
            raise CorruptVideo("not one frame of this video can be read", file=self.path)
        while readable:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            readable, frame = self._capture.read()
