"""Files of tensors that torch has saved, read without unpickling anything, and networks' weights from them."""

import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detect_prune.errors import DetectPruneError
from detect_prune.files import atomic_path, open_binary

_NO_TENSORS = (
    *(AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""How the readers of torch and of zips trip over bytes that are damaged, or that torch would have to unpickle (which it
then advises)."""


def write_tensors(path: str | Path, value: Any) -> None:
    """Writes tensors and plain values, atomically: the same bytes for the same values.

    Raises:
        DetectPruneError: as `atomic_path`.
    """
    # By a file of ours: given a name, torch writes it into the archive, and has an error of its own for a full disk.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            # After a full disk or a Ctrl-C torch ends its archive all the same, and complains of that.
            if error.__context__ is not None:
                raise error.__context__ from None
            raise


def read_tensors(path: str | Path, what: str) -> Any:
    """Reads tensors and plain values that torch has saved, onto the CPU; nothing is unpickled. `what` names the kind of
    file in the error ("checkpoint of a run").

    Raises:
        DetectPruneError: the file is missing, is a folder or a device, or holds something else.
    """
    with open_binary(path, what) as file, warnings.catch_warnings():
        # torch says so before it reads or refuses, with a line of its own source.
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        try:
            # torch does not look at the zip's checksums, and a bit that has flipped on a disk would train on.
            if zipfile.is_zipfile(file) and zipfile.ZipFile(file).testzip() is not None:
                raise zipfile.BadZipFile
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except _NO_TENSORS:
            raise DetectPruneError(f"not a {what}: it is cut off, damaged or of another kind", file=path) from None


def load_state(model: nn.Module, path: str | Path) -> None:
    """Loads a checkpoint of plain tensors: a state_dict, or a dict with one under `state_dict` or `model`.

    Names may carry the `module.` that DataParallel puts before them, as in akamaster's .th files.

    Raises:
        DetectPruneError: the file is missing, is no such checkpoint, or belongs to another network.
    """
    path = Path(path)
    state = read_tensors(path, "checkpoint of plain tensors (.pt or .th)")
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise DetectPruneError("holds no state_dict of tensors", file=path)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    own = model.state_dict()
    # Older checkpoints lack batch norm's count of batches, which plays no part in what the network computes.
    state = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")} | state
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    wrong += [name for name in state if name not in own]
    if wrong:
        raise DetectPruneError(
            f"these weights belong to another network: {wrong[0]} differs or is on one side only ({len(wrong)} such)",
            file=path,
        )
    for name, value in state.items():
        if not bool(value.isfinite().all()) or (name.endswith("running_var") and bool((value < 0).any())):
            raise DetectPruneError(f"{name} is not finite, or a variance below zero: damaged weights", file=path)
    model.load_state_dict(state)
