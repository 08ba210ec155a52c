"""Writing a video frame by frame."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from detect_prune.errors import DetectPruneError
from detect_prune.files import atomic_path


class UnwritableVideo(DetectPruneError):
    """This OpenCV can't write a video of that size."""


@contextmanager
def write_video(path: str | Path, size: tuple[int, int], rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that takes the frames, (height, width, 3) uint8 RGB; the file appears when all are written.

    A width or height that is odd gains a pixel: MPEG-4 stores even ones only.

    Args:
        path: ends in .mp4.
        size: (width, height) of every frame.
        rate: frames a second.

    Raises:
        UnwritableVideo: OpenCV can't.
        DetectPruneError: the file can't be written whole.
    """
    width, height = size
    # MPEG-4 counts time in at most 65,535 parts of a second, and OpenCV makes 1,000 a frame of an uneven rate.
    if rate > 65:
        rate = round(rate, 2 if rate < 655 else 1)
    written = 0
    with atomic_path(path) as temporary:
        writer = cv2.VideoWriter(
            str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width + width % 2, height + height % 2)
        )
        if not writer.isOpened():
            raise UnwritableVideo(f"this OpenCV can't write an MPEG-4 video of {width}x{height} pixels", file=path)

        def write(frame: np.ndarray) -> None:
            nonlocal written
            even = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
            written += 1

        try:
            yield write
        finally:
            writer.release()
        # The writer says nothing of a full disk. Ctrl-C between a frame and its count leaves one more than counted.
        reader = cv2.VideoCapture(str(temporary))
        stored = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
        reader.release()
        if stored < written:
            raise DetectPruneError(f"{stored} of {written} frames arrived in this video; is the disk full?", file=path)
