"""Finished runs of one network side by side: flat records, the curve of accuracy over ratio, what each layer keeps."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from detect_prune.engine.machine import in_words
from detect_prune.engine.names import METRICS, SWEEP
from detect_prune.engine.task import Phase, Recipe
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text, write_csv, write_json, write_text
from detect_prune.numbers import counted
from detect_prune.pruning import Method, find_method
from detect_prune.report import plots
from detect_prune.report.summary import headline
from detect_prune.report.tables import Table, count, score

SETTINGS = ("importance", "bits", "pattern", "gradual", "floor", "include", "exclude", "epochs", "updates", "recipe")
"""What may tell two runs of one method, ratio and seed apart."""
BEST_ROW, TIE = "**best**", "tie"


def record_of(folder: str | Path) -> dict[str, Any]:
    """One flat record of a finished run of `prune`: what was asked for, what came out, and what it took.

    Accuracies are fractions. `accuracy` (or `AP` and `AP50`, or what else the task has) is the last row's,
    `dense_accuracy` and `cut_accuracy` those rows'; `epochs` are those after the dense training. `recipe` is what they
    follow, the same for all methods that can be compared, and `phases` what this method has made of it. `updates` is
    how often a method that prunes while it trains chose anew. Of ADMM the primal residuals before the cut are there, of
    the whole network and of the worst layer. The training losses are the means of each phase's last epoch, before the
    cut and at the end (of runs of older code there are none). `layers` is the one entry that is not flat: of each layer
    the weights that are kept, and all.

    Raises:
        DetectPruneError: the folder has no metrics of a finished run.
    """
    file = Path(folder) / METRICS
    text = read_text(file, "run's metrics")
    try:
        metrics = json.loads(text)
        settings, stages = metrics["settings"], metrics["stages"]
        recipe = Recipe.from_dict(metrics["recipe"])
        asked = _phases_in_words([recipe.admm, recipe.retrain])
        method = find_method(settings["method"])
        phases = recipe.phases(method, train_dense=False)
        pruned = len(stages) > 2
        record = {
            "network": settings["data"]["network"],
            "data": settings["data"]["data"],
            "method": settings["method"],
            "ratio": None if method.prunes == "never" else _removed_share(settings["ratio"], stages[-1]),
            "budget": None if method.prunes == "never" else settings["budget"],
            **{name: settings[name] for name in ("importance", "pattern", "floor")},
            "gradual": settings["gradual"] if method.uses_admm else None,
            "bits": " ".join(f"{pattern}={bits:g}" for pattern, bits in (settings.get("bits") or {}).items()),
            **{name: " ".join(settings[name]) for name in ("include", "exclude")},
            "n_kept": stages[-1]["kept"],
            "n_total": stages[-1]["total"],
            **{name: stages[-1][name] for name in ("macs_dense", "macs_nonzero", "bytes_zip")},
            "seed": settings["seed"],
            "epochs": recipe.epochs_after_dense if settings["method"] != "dense" else 0,
            "updates": recipe.updates if method.prunes == "while training" else None,
            "recipe": f"{asked}, batch {settings['data'].get('batch')}",
            "phases": _phases_in_words(phases.values()) or "none",
            **_accuracies(stages[-1]),
            **{f"dense_{name}": value for name, value in _accuracies(stages[0]).items()},
            **({f"cut_{name}": value for name, value in _accuracies(stages[1]).items()} if pruned else {}),
            **_residuals(metrics.get("before the cut") or {}),
            **_losses(method, metrics.get("training loss") or {}),
            **{name: metrics[name] for name in ("seconds", "precision", "date", "command")},
            "machine": in_words(metrics["machine"]),
            "layers": {row["layer"]: [row["kept"], row["total"]] for row in metrics["layers"]},
        }
    except (ValueError, KeyError, TypeError, IndexError, DetectPruneError) as error:
        raise DetectPruneError(f"these are no metrics of a finished run of prune ({error!r})", file=file) from None
    return record


def _removed_share(ratio: Any, last: dict[str, Any]) -> float | None:
    """The removal ratio as it was asked for; what a pattern or a ratio for each layer came to; None for nothing."""
    if ratio is not None and not isinstance(ratio, Mapping):
        return ratio
    return None if last["kept"] == last["total"] else round(1 - last["kept"] / last["total"], 4)


def _phases_in_words(phases: Iterable[Phase]) -> str:
    return " then ".join(
        f"{counted(phase.epochs, 'epoch')} of {phase.optimizer} at {phase.lr:g}, decay {phase.weight_decay:g}"
        + (f", dropout {phase.dropout:g}" if phase.dropout is not None else "")
        + (f", distilled {phase.distill:g}" if phase.distill else "")
        for phase in phases
    )


def _residuals(report: dict[str, Any]) -> dict[str, float]:
    if "primal" not in report:
        return {}
    return {"primal_residual": report["overall"][0], "worst_primal_residual": max(report["primal"].values())}


def _losses(method: Method, by_phase: dict[str, float]) -> dict[str, float]:
    phases = {"cut_training_loss": method.name, "training_loss": "retrain"}
    return {name: by_phase[phase] for name, phase in phases.items() if phase in by_phase}


def _accuracies(stage: dict[str, Any]) -> dict[str, float]:
    """The headline scores, that by which networks are compared last."""
    primary = stage["primary"]
    names = [*(name for name in headline(stage) if name != primary), primary]
    return {"accuracy" if name == "top-1" else name: stage["metrics"][name] for name in names}


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


def flattened(record: dict[str, Any]) -> dict[str, Any]:
    """A record without `layers`."""
    return {name: value for name, value in record.items() if name != "layers"}


def beside_longer(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with `dense_longer_accuracy` (or AP and AP50): of the dense network of the same seed that was trained
    by the same recipe, where there is one. How often a method chooses anew plays no part in that."""
    longer = {(record["seed"], record["recipe"]): record for record in records if record["method"] == "dense-longer"}
    return [
        record | {f"dense_longer_{name}": other[name] for name in scores_in(other)}
        if (other := longer.get((record["seed"], record["recipe"]))) is not None
        else record
        for record in records
    ]


def compare(records: Sequence[dict[str, Any]]) -> Table:
    """A row for each method, choice of settings and ratio: medians over the seeds.

    A setting has a column where runs of one method differ in it. MACs are multiply-accumulates by weights that are not
    zero. Where there are several scores, that by which networks are compared is named in the columns. `spread` goes
    from the worst seed to the best. `loss` is the median loss, in points, against the better of the dense network and
    the one trained for as long (see `beside_longer`) of the same seed. The last column says which row is the best of
    its ratio; where a difference of medians lies inside the spread of either row, that is a tie. With one seed there is
    no spread, and nothing is said, and neither is of rows that were trained by different recipes, or began with
    different dense networks.

    Args:
        records: from `record_of`, of one network, one data set and one budget, not empty.
    """
    names = scores_in(records[0])
    rows = _rows(records)
    marks = _marks(rows, names[-1])
    of = f"{names[-1]} " if len(names) > 1 else ""
    compared = [f"{of}spread", f"{of}loss", f"{of}as cut", "seeds", "of its ratio"]
    table = Table(
        ["method", *rows[0].settings, "removed", "kept", "MACs", *names, *compared], left=1 + len(rows[0].settings)
    )
    for row, mark in zip(rows, marks):
        values, losses, cut, macs = (
            row.values(name) for name in (names[-1], "loss", f"cut_{names[-1]}", "macs_nonzero")
        )
        table.row(
            row.method,
            *row.settings.values(),
            "-" if row.ratio is None else f"{100 * row.ratio:g} %",
            f"{round(median(row.values('n_kept'))):,}",  # with a budget of macs or bytes seeds differ
            count(round(median(macs))) if macs else "-",
            *(_shown(name, median(row.values(name))) for name in names),
            f"{_shown(names[-1], min(values))} .. {_shown(names[-1], max(values))}" if len(values) > 1 else "-",
            f"{100 * median(losses):.2f}" if losses else "-",
            _shown(names[-1], median(cut)) if cut else "-",
            row.seeds,
            mark,
        )
    return table


def plot_accuracy(records: Sequence[dict[str, Any]], folder: str | Path, name: str) -> None:
    """Writes folder/NAME.png and .svg: accuracy (or AP50) over the ratio, a line for each method and settings."""
    shown = scores_in(records[0])[-1]
    curves: dict[str, list[tuple[float | None, list[float]]]] = {}
    for row in _rows(records):
        curves.setdefault(row.label, []).append((row.ratio, row.values(shown)))
    for suffix in ("png", "svg"):
        plots.accuracy_over_ratio(curves, Path(folder) / f"{name}.{suffix}", _title(records), shown, _removed(records))


@dataclass(frozen=True)
class _Row:
    """Runs that differ in their seed alone."""

    method: str
    settings: dict[str, str]
    """Those in which runs of some method differ."""
    ratio: float | None
    records: list[dict[str, Any]]

    @property
    def label(self) -> str:
        return ", ".join([self.method, *(f"{name} {value}" for name, value in self.settings.items() if value != "-")])

    @property
    def seeds(self) -> int:
        return len({record["seed"] for record in self.records})

    def values(self, name: str) -> list[float]:
        """That figure of all runs that have it."""
        return [record[name] for record in self.records if name in record]


def _rows(records: Sequence[dict[str, Any]]) -> list[_Row]:
    """In the order of method, dense ones first, settings and ratio.

    Where no run stands for the dense networks, they are taken from those that began with them.
    """
    shown = scores_in(records[0])[-1]
    # What removes nothing has no loss.
    rows = [record if record["ratio"] is None else record | {"loss": _loss(record, shown)} for record in records]
    if all(record["method"] != "dense" for record in records):
        rows += {record["seed"]: _dense(record) for record in records}.values()
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    varied = [name for name in SETTINGS if any(len({row[name] for row in own}) > 1 for own in by_method.values())]
    groups: dict[tuple[Any, ...], _Row] = {}
    for record in rows:
        settings = {name: "-" if record[name] in (None, "") else str(record[name]) for name in varied}
        key = (not record["method"].startswith("dense"), record["method"], *settings.values(), record["ratio"] or 0.0)
        groups.setdefault(key, _Row(record["method"], settings, record["ratio"], [])).records.append(record)
    return [groups[key] for key in sorted(groups)]


def _loss(record: dict[str, Any], name: str) -> float:
    dense = record[f"dense_{name}"]
    return max(dense, record.get(f"dense_longer_{name}", dense)) - record[name]


def _dense(record: dict[str, Any]) -> dict[str, Any]:
    """The network that a run began with, as far as the table shows it."""
    facts = {"method": "dense", "ratio": None, "seed": record["seed"], "n_kept": record["n_total"]}
    if "macs_dense" in record:  # the records that a sweep left before 2026-11-30 have none
        facts |= {"macs_nonzero": record["macs_dense"]}
    return dict.fromkeys(SETTINGS) | facts | {name: record[f"dense_{name}"] for name in scores_in(record)}


def _marks(rows: Sequence[_Row], name: str) -> list[str]:
    """For each row what it is among those of its ratio: BEST_ROW, TIE or nothing."""
    marks = [""] * len(rows)
    for ratio in {row.ratio for row in rows} - {None}:
        rivals = [number for number, row in enumerate(rows) if row.ratio == ratio]
        unlike = len({rows[number].records[0]["recipe"] for number in rivals}) > 1
        runs = [record for number in rivals for record in rows[number].records]
        unlike = unlike or bool(seeds_of_several_starts(runs))
        if len(rivals) < 2 or unlike or any(rows[number].seeds < 2 for number in rivals):
            continue
        middle = {number: median(rows[number].values(name)) for number in rivals}
        spread = {number: max(rows[number].values(name)) - min(rows[number].values(name)) for number in rivals}
        best = max(rivals, key=middle.__getitem__)
        # Accuracies are fractions of thousands of pictures: what differs by less than 1e-9 is equal.
        near = [n for n in rivals if middle[best] - middle[n] <= max(spread[best], spread[n]) + 1e-9]
        for number in near:
            marks[number] = TIE if len(near) > 1 else BEST_ROW
    return marks


def seeds_of_several_starts(records: Sequence[dict[str, Any]]) -> list[int]:
    """The seeds whose runs did not all begin with the same dense network, as far as its score tells."""
    score = scores_in(records[0])[-1]
    starts: dict[int, set[float]] = {}
    for record in records:
        # Rounded: another device may score the same network differently in the last digits.
        starts.setdefault(record["seed"], set()).add(round(record[f"dense_{score}"], 6))
    return sorted(seed for seed, found in starts.items() if len(found) > 1)


def scores_in(record: dict[str, Any]) -> list[str]:
    """Names of a record's scores; by the last one networks are compared."""
    return [name for name in record if f"dense_{name}" in record]


def _shown(name: str, value: float) -> str:
    return score("top-1" if name == "accuracy" else name, value)


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
