"""The curve of a sweep: its table, accuracy over ratio, what each layer keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detect_prune.engine.comparison import beside_longer, compare, rows_of
from detect_prune.engine.names import SWEEP
from detect_prune.engine.record import flattened, scores_in
from detect_prune.files import write_csv, write_json, write_text
from detect_prune.report import plots
from detect_prune.report.tables import Table


def write_curve(records: Sequence[dict[str, Any]], folder: str | Path, whole: bool = True) -> Table:
    """Writes sweep.json, sweep.csv, sweep.md and, as PNG and SVG, the plots `accuracy` and `kept_per_layer`.

    Args:
        records: from `record_of`, of one network, one data set and one budget.
        folder: where the files go.
        whole: whether these are all runs of a sweep; sweep.json, which says that it is finished, is left out otherwise,
            and comes last.

    Returns:
        The table of sweep.md, see `compare`.

    Raises:
        ValueError: no records.
        DetectPruneError: a file can't be written.
    """
    if not records:
        raise ValueError("no records to draw a curve of")
    folder = Path(folder)
    records = beside_longer(records)
    (folder / SWEEP).unlink(missing_ok=True)
    write_csv(folder / "sweep.csv", [flattened(record) for record in records])
    table = compare(records)
    write_text(folder / "sweep.md", table.markdown() + "\n")
    plot_accuracy(records, folder, "accuracy")
    shown = _one_curve(records)
    if shown:
        by_ratio = {
            record["ratio"]: {layer: kept / total for layer, (kept, total) in record["layers"].items()}
            for record in shown
        }
        title = f"{_title(records)}: {shown[0]['method']}, seed {shown[0]['seed']}"
        for suffix in ("png", "svg"):
            plots.kept_over_ratio(by_ratio, folder / f"kept_per_layer.{suffix}", title, _removed(records))
    if whole:
        write_json(folder / SWEEP, records)
    return table


def plot_accuracy(records: Sequence[dict[str, Any]], folder: str | Path, name: str) -> None:
    """Writes folder/NAME.png and .svg: accuracy (or AP50) over the ratio, a line for each method and settings."""
    shown = scores_in(records[0])[-1]
    curves: dict[str, list[tuple[float | None, list[float]]]] = {}
    for row in rows_of(records):
        curves.setdefault(row.label, []).append((row.ratio, row.values(shown)))
    for suffix in ("png", "svg"):
        plots.accuracy_over_ratio(curves, Path(folder) / f"{name}.{suffix}", _title(records), shown, _removed(records))


def _title(records: Sequence[dict[str, Any]]) -> str:
    return f"{records[0]['network']} on {records[0]['data']}"


def _removed(records: Sequence[dict[str, Any]]) -> str:
    """What a ratio is a share of; what removes nothing has no budget."""
    budget = next((record["budget"] for record in records if record["budget"] is not None), "ratio")
    return {"ratio": "weights", "macs": "MACs", "bytes": "bytes"}[budget]


def _one_curve(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of ADMM, or else the first method that removed something, with one seed, by ratio."""
    pruned = [record for record in records if record["ratio"] is not None]
    by_admm = [record for record in pruned if record["method"] == "admm"]
    first = [(record["method"], record["seed"]) for record in by_admm or pruned][:1]
    chosen = [record for record in pruned if (record["method"], record["seed"]) in first]
    return sorted(chosen, key=lambda record: record["ratio"])
