"""The closing words of a run: what each stage scored, what is left of each layer, and what that buys or doesn't."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detect_prune.report.tables import Table, count, score, share, size


@dataclass(frozen=True)
class Stage:
    """One row of the closing table."""

    name: str
    """`dense`, `cut`, `cut + batch norm re-estimated`, `retrained`."""
    metrics: Mapping[str, float]
    """Scores as fractions by name: `AP`, `AP50`, `top-1`, ..."""
    kept: int
    """Non-zero prunable weights."""
    total: int
    """Prunable weights."""
    macs_dense: int
    """Multiply-accumulates for one picture, zeros included."""
    macs_nonzero: int
    """Those of them whose weight is not zero."""
    bytes_stored: int
    bytes_zip: int


def headline(row: Mapping[str, Any]) -> Sequence[str]:
    """Names of the scores that are shown of a row; those of before 2026-11-29 do not say."""
    return row.get("headline") or [name for name in ("AP", "AP50", "mAP", "top-1") if name in row["metrics"]]


def closing_table(stages: Sequence[Stage], metrics: Sequence[str]) -> Table:
    """A row for each stage; `metrics` names the scores that get a column (`("AP", "AP50")` or `("top-1",)`)."""
    table = Table(
        ["stage", *metrics, "weights kept", "share", "MACs dense", "MACs of non-zeros", "file", "zip"],
    )
    for stage in stages:
        table.row(
            stage.name,
            *(score(name, stage.metrics.get(name)) for name in metrics),
            f"{stage.kept:,}",
            share(stage.kept / stage.total),
            count(stage.macs_dense),
            count(stage.macs_nonzero),
            size(stage.bytes_stored),
            size(stage.bytes_zip),
        )
    return table


def layer_table(kept: Mapping[str, tuple[int, int]]) -> Table:
    """What is left of each layer, in the network's order, and of all together.

    Args:
        kept: by layer (weights kept, weights).
    """
    table = Table(["layer", "weights", "kept", "share"])
    for name, (left, total) in kept.items():
        table.row(name, f"{total:,}", f"{left:,}", share(left / total))
    left, total = (sum(pair[index] for pair in kept.values()) for index in (0, 1))
    return table.row("all", f"{total:,}", f"{left:,}", share(left / total))


def floor_note(bound: Sequence[str]) -> str:
    """What to say of the layers where a floor binds."""
    return f"The floor kept {', '.join(bound)} from losing more."


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x"


def _file_words(dense: Stage, result: Stage, file_name: str) -> str:
    ending = Path(file_name).suffix
    if 0.98 <= result.bytes_stored / dense.bytes_stored <= 1.02:
        owner = "Darknet's format" if ending == ".weights" else "the format"
        words = f"the {ending} file keeps its {size(result.bytes_stored)}, because {owner} stores zeros too"
    else:
        words = f"the {ending} file went from {size(dense.bytes_stored)} to {size(result.bytes_stored)}"
    ratio = dense.bytes_zip / result.bytes_zip
    compared = f"{size(result.bytes_zip)} for {size(dense.bytes_zip)}"
    if ratio >= 1.05:
        return f"{words}; as zip it is {_times(ratio)} smaller than the dense file's zip ({compared})"
    return f"{words}; its zip is no smaller than the dense file's ({compared})"


def part_note(total: int, everything: int) -> str:
    """What to say where the counts of weights are not those of the whole network."""
    return (
        f"Weights are counted in the layers that were chosen for pruning, {total:,} of the network's {everything:,}; "
        "multiply-accumulates and files are those of all of it."
    )


def verdict(dense: Stage, result: Stage, file_name: str = "pruned.weights", chosen: bool = False) -> str:
    """One plain sentence, from the numbers: how much is gone, which file is smaller and which is not.

    It says that nothing is faster yet and never claims a speed, since no stage measures one.

    Args:
        dense: the network before pruning.
        result: the network as delivered.
        file_name: the file whose sizes the stages give; its ending says which format stores the zeros.
        chosen: whether the weights that are counted are those of some layers only.
    """
    gone = result.total - result.kept
    of = "the weights that were chosen for pruning" if chosen else "the weights"
    words = [f"{share(gone / result.total)} of {of} are zero ({count(gone)} of {count(result.total)})"]
    words += [
        _file_words(dense, result, file_name),
        "nothing runs faster yet: ordinary dense inference multiplies by the zeros too",
    ]
    sentence = "; ".join(words)
    if result.macs_nonzero < result.macs_dense:
        part = share(result.macs_nonzero / result.macs_dense)
        sentence += f", though only {part} of its multiply-accumulates meet a non-zero weight"
    return sentence[0].upper() + sentence[1:] + "."
