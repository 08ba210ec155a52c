"""Finished runs of one network side by side: flat records, the curve of accuracy over ratio, what each layer keeps."""

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text, write_json, write_text
from detect_prune.report import plots
from detect_prune.report.tables import Table, score, share

METRICS = "metrics.json"
"""What a finished run leaves; its being there says that the run is finished."""


def record_of(folder: str | Path) -> dict[str, Any]:
    """One flat record of a finished run of `prune`: what was asked for, what came out, and what it took.

    Accuracies are fractions. `accuracy` (or `AP` and `AP50`) is the last row's, `dense_accuracy` and `cut_accuracy`
    those rows'; `epochs` are those after the dense training. `layers` is the one entry that is not flat: the share that
    each layer keeps.

    Raises:
        DetectPruneError: the folder has no metrics of a finished run.
    """
    file = Path(folder) / METRICS
    text = read_text(file, "run's metrics")
    try:
        metrics = json.loads(text)
        settings, recipe, stages = metrics["settings"], metrics["recipe"], metrics["stages"]
        pruned = len(stages) > 2
        record = {
            "network": settings["data"]["network"],
            "data": settings["data"]["data"],
            "method": settings["method"],
            "ratio": settings["ratio"],
            **{name: settings[name] for name in ("importance", "budget", "pattern", "gradual", "floor")},
            **{name: " ".join(settings[name]) for name in ("include", "exclude")},
            "n_kept": stages[-1]["kept"],
            "n_total": stages[-1]["total"],
            "seed": settings["seed"],
            "epochs": recipe["admm"]["epochs"] + recipe["retrain"]["epochs"] if settings["method"] != "dense" else 0,
            **_accuracies(stages[-1]),
            **{f"dense_{name}": value for name, value in _accuracies(stages[0]).items()},
            **({f"cut_{name}": value for name, value in _accuracies(stages[1]).items()} if pruned else {}),
            **{name: metrics[name] for name in ("seconds", "precision", "date", "command")},
            "machine": ", ".join(f"{name} {value}" for name, value in metrics["machine"].items()),
            "layers": {row["layer"]: row["kept"] / row["total"] for row in metrics["layers"]},
        }
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DetectPruneError(f"these are no metrics of a finished run of prune ({error!r})", file=file) from None
    return record


def _accuracies(stage: dict[str, Any]) -> dict[str, float]:
    metrics = stage["metrics"]
    if "top-1" in metrics:
        return {"accuracy": metrics["top-1"]}
    return {name: metrics[name] for name in ("AP", "AP50")}


def write_curve(records: Sequence[dict[str, Any]], folder: str | Path) -> Table:
    """Writes sweep.json, sweep.csv, sweep.md and, as PNG and SVG, the plots `accuracy` and `kept_per_layer`.

    Args:
        records: from `record_of`, of one network, one data set and one budget.
        folder: where the files go.

    Returns:
        The table of sweep.md: a row for each method and ratio, medians over the seeds.

    Raises:
        ValueError: no records.
        DetectPruneError: a file can't be written.
    """
    if not records:
        raise ValueError("no records to draw a curve of")
    folder = Path(folder)
    records = [record | _trained_longer(record, records) for record in records]
    write_json(folder / "sweep.json", records)
    flat = [{name: value for name, value in record.items() if name != "layers"} for record in records]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for record in flat for name in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_text(folder / "sweep.csv", text.getvalue())
    table = _table(records)
    write_text(folder / "sweep.md", table.markdown() + "\n")
    title = f"{records[0]['network']} on {records[0]['data']}"
    of = "MACs" if records[0]["budget"] == "macs" else "weights"
    shown = "accuracy" if "accuracy" in records[0] else "AP50"
    for suffix in ("png", "svg"):
        plots.accuracy_over_ratio(_curves(records, shown), folder / f"accuracy.{suffix}", title, shown, of)
        by_ratio = _kept_by_ratio(records)
        if by_ratio:
            plots.kept_over_ratio(by_ratio, folder / f"kept_per_layer.{suffix}", title, of)
    return table


def _trained_longer(record: dict[str, Any], records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The accuracies of the dense network of the same seed that was trained for as long."""
    for other in records:
        if (other["method"], other["seed"], other["epochs"]) == ("dense-longer", record["seed"], record["epochs"]):
            return {f"dense_longer_{name}": other[name] for name in ("accuracy", "AP", "AP50") if name in other}
    return {}


def _groups(records: Sequence[dict[str, Any]]) -> dict[tuple[str, float | None], list[dict[str, Any]]]:
    """(method, ratio) -> its records, one a seed, in the order of method and ratio."""
    groups: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: (record["method"], record["ratio"] or 0.0, record["seed"])):
        groups.setdefault((record["method"], record["ratio"]), []).append(record)
    return groups


def _table(records: Sequence[dict[str, Any]]) -> Table:
    names = [name for name in ("accuracy", "AP", "AP50") if name in records[0]]
    table = Table(["method", "removed", "kept", *names, "spread", "as cut", "dense", "seeds"])
    for (method, ratio), rows in _groups(records).items():
        values = [row[names[-1]] for row in rows]
        cut = [row[f"cut_{names[-1]}"] for row in rows if f"cut_{names[-1]}" in row]
        table.row(
            method,
            "-" if ratio is None else share(ratio),
            f"{rows[0]['n_kept']:,}",
            *(score(_shown_as(name), statistics.median(row[name] for row in rows)) for name in names),
            score(_shown_as(names[-1]), max(values) - min(values)) if len(values) > 1 else "-",
            score(_shown_as(names[-1]), statistics.median(cut)) if cut else "-",
            score(_shown_as(names[-1]), statistics.median(row[f"dense_{names[-1]}"] for row in rows)),
            str(len(rows)),
        )
    return table


def _shown_as(name: str) -> str:
    return "top-1" if name == "accuracy" else name


def _curves(records: Sequence[dict[str, Any]], shown: str) -> dict[str, list[tuple[float | None, list[float]]]]:
    """method -> (ratio, the values of all seeds), in the order of the ratio; None where nothing is removed.

    The networks that the runs began with are the curve `dense`.
    """
    curves: dict[str, list[tuple[float | None, list[float]]]] = {}
    for (method, ratio), rows in _groups(records).items():
        curves.setdefault(method, []).append((ratio, [row[shown] for row in rows]))
    if "dense" not in curves:
        by_seed = {record["seed"]: record[f"dense_{shown}"] for record in records}
        curves["dense"] = [(None, list(by_seed.values()))]
    return curves


def _kept_by_ratio(records: Sequence[dict[str, Any]]) -> dict[float, dict[str, float]]:
    """ratio -> layer -> share kept, by the first method and seed that removed something."""
    pruned = [record for record in records if record["ratio"] is not None]
    if not pruned:
        return {}
    method, seed = pruned[0]["method"], pruned[0]["seed"]
    chosen = [record for record in pruned if (record["method"], record["seed"]) == (method, seed)]
    return {record["ratio"]: record["layers"] for record in sorted(chosen, key=lambda record: record["ratio"])}
