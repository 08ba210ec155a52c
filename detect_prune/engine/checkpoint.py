"""Checkpoints: one plain dict of tensors and plain values a file, never unpickled."""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from detect_prune.errors import DetectPruneError
from detect_prune.tensors import read_tensors, write_tensors

FORMAT = "detect_prune checkpoint 1"


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Writes `state` atomically; a kill in the middle leaves the checkpoint before it."""
    write_tensors(path, {"format": FORMAT, **state})


def plain_values(value: Any) -> Any:
    """The same with Python's numbers for numpy's and for decimals, which `load_checkpoint` and JSON refuse; lists and
    dicts, too."""
    if isinstance(value, Mapping):
        return {key: plain_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_values(each) for each in value)
    if isinstance(value, Decimal):
        return float(value)
    return value.item() if isinstance(value, np.generic) else value


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote, onto the CPU.

    Raises:
        DetectPruneError: the file is missing, damaged, or not a checkpoint of this program.
    """
    path = Path(path)
    state = read_tensors(path, "checkpoint of a run")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DetectPruneError(f"not a checkpoint of this program; '{FORMAT}' was expected inside", file=path)
    return state
