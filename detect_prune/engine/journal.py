"""What a run writes down while it goes on: TensorBoard's curves and pictures, and the history for the plots."""

import math
from pathlib import Path

import numpy as np

from detect_prune.engine.state import RunState
from detect_prune.engine.task import Metrics
from detect_prune.engine.trainer import StepReport
from detect_prune.report.tensorboard import EventWriter


class Journal:
    """The log of one run.

    Args:
        state: of the run; its history grows.
        folder: where TensorBoard's files go; None for nothing at all, as in every process but one.
        purge_step: see EventWriter.
    """

    def __init__(self, state: RunState, folder: Path | None, purge_step: int | None):
        self._state = state
        self._writer = None if folder is None else EventWriter(folder, purge_step=purge_step)

    def step(self, phase: str, report: StepReport, record: bool) -> None:
        """A step of training: where `record` asks for it, and where there was an update of what prunes."""
        if self._writer is None or not (record or report.update is not None):
            return
        parts = {f"loss {part}": value for part, value in report.parts.items()}
        values = {"loss": report.loss, **parts, "lr": report.lr}
        per_layer: dict[str, float] = {}
        if report.update is not None:
            values |= report.update.scalars()
            for figure, layers in report.update.per_layer().items():
                per_layer |= {f"{figure}/{layer}": value for layer, value in layers.items()}
        values = {key: value for key, value in values.items() if math.isfinite(value)}
        now = self._state.global_step
        self._writer.scalars({f"train/{key}": value for key, value in values.items()} | per_layer, now)
        self._state.history.append({"step": now, "phase": phase, "epoch": report.epoch + 1, **values})

    def metrics(self, phase: str, metrics: Metrics) -> None:
        """Scores, of a stage or on the way."""
        if self._writer is None:
            return
        now = self._state.global_step
        self._writer.scalars({f"score/{name}": value for name, value in metrics.values.items()}, now)
        self._state.history.append({"step": now, "phase": phase, **metrics.values})

    def picture(self, name: str, picture: np.ndarray) -> None:
        """(H, W, 3) uint8 RGB."""
        if self._writer is not None:
            self._writer.picture(name, picture, self._state.global_step)

    def close(self) -> None:
        """Raises DetectPruneError where the disk is full."""
        if self._writer is not None:
            self._writer.close()
