"""A network's weights from a file that torch has saved."""

from pathlib import Path

from torch import Tensor, nn

from detect_prune.errors import DetectPruneError
from detect_prune.files import read_tensors


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
