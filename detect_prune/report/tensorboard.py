"""TensorBoard events, written so that a resumed run draws one line and not two."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from detect_prune.errors import DetectPruneError


class EventWriter:
    """Writes scalars and pictures for TensorBoard; `close` it at the end. Its file begins with the first of them.

    Args:
        folder: where the event files go; made if missing.
        purge_step: on resume, the first step that will be written again. TensorBoard drops what the interrupted run
            wrote at or after it, so that the curves do not fold back.

    Raises:
        DetectPruneError: from every method, the disk is full.
    """

    def __init__(self, folder: str | Path, purge_step: int | None = None):
        self._folder, self._purge_step = folder, purge_step
        self._writer: Any = None

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The writer; a full disk, of which TensorBoard's own thread tells at the next call, is a sentence."""
        try:
            if self._writer is None:
                # Imported here: it takes a second or two, and a finished run that is resumed has nothing to write.
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step, flush_secs=30)
            yield self._writer
        except (OSError, UnicodeEncodeError) as error:  # the latter of a name that is no UTF-8
            raise DetectPruneError(
                f"TensorBoard's events can't be written: {getattr(error, 'strerror', None) or error}", file=self._folder
            ) from None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point on each curve; a `/` in a name makes a group of curves (`kept/layer 3`)."""
        with self._open() as writer:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """`picture` is (H, W, 3) uint8 RGB."""
        with self._open() as writer:
            writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            with self._open() as writer:
                writer.close()
