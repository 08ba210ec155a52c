"""Finished runs of one network in one table: which is the best at each ratio, and what it lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from detect_prune.engine.record import scores_in
from detect_prune.report.tables import Table, count, score

SETTINGS = ("importance", "bits", "pattern", "gradual", "floor", "include", "exclude", "epochs", "updates", "recipe")
"""What may tell two runs of one method, ratio and seed apart."""
BEST_ROW, TIE = "**best**", "tie"


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
    rows = rows_of(records)
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


@dataclass(frozen=True)
class Row:
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


def rows_of(records: Sequence[dict[str, Any]]) -> list[Row]:
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
    groups: dict[tuple[Any, ...], Row] = {}
    for record in rows:
        settings = {name: "-" if record[name] in (None, "") else str(record[name]) for name in varied}
        key = (not record["method"].startswith("dense"), record["method"], *settings.values(), record["ratio"] or 0.0)
        groups.setdefault(key, Row(record["method"], settings, record["ratio"], [])).records.append(record)
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


def _marks(rows: Sequence[Row], name: str) -> list[str]:
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


def _shown(name: str, value: float) -> str:
    return score("top-1" if name == "accuracy" else name, value)
