"""TensorBoard events, written so that a resumed run draws one line and not two."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from detect_prune.errors import DetectPruneError


class EventWriter:
    """Writes scalars and pictures for TensorBoard; `close` it at the end.

    Args:
        folder: where the event files go; made if missing.
        purge_step: on resume, the first step that will be written again. TensorBoard drops what the interrupted run
            wrote at or after it, so that the curves do not fold back.

    Raises:
        DetectPruneError: from every method, the disk is full.
    """

    def __init__(self, folder: str | Path, purge_step: int | None = None):
        # Imported here: it takes a second or two, and only runs that keep a record need it.
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with self._told():
            self._writer: Any = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A full disk, of which TensorBoard's own thread tells at the next call, as a sentence."""
        try:
            yield
        except OSError as error:
            raise DetectPruneError(
                f"TensorBoard's events can't be written: {error.strerror or error}", file=self._folder
            ) from None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point on each curve; a `/` in a name makes a group of curves (`kept/layer 3`)."""
        with self._told():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """`picture` is (H, W, 3) uint8 RGB."""
        with self._told():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        with self._told():
            self._writer.close()
