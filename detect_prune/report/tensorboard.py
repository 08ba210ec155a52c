"""TensorBoard events, written so that a resumed run draws one line and not two."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class EventWriter:
    """Writes scalars and pictures for TensorBoard; `close` it at the end.

    Args:
        folder: where the event files go; made if missing.
        purge_step: on resume, the first step that will be written again. TensorBoard drops what the interrupted run
            wrote at or after it, so that the curves do not fold back.
    """

    def __init__(self, folder: str | Path, purge_step: int | None = None):
        # Imported here: it takes a second or two, and only runs that keep a record need it.
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point on each curve; a `/` in a name makes a group of curves (`kept/layer 3`)."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """`picture` is (H, W, 3) uint8 RGB."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
