"""Accuracy over the removal ratio, method by method: `python benchmarks/accuracy.py runs/sweep/lenet5 --name lenet5`.

Puts the runs of one or several sweeps (finished or not) of one network on one data set into one table. Sweeps with
different --importance give a row for each: that table says which importance wins.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recording import RESULTS, circumstances, portable, portable_command, records_in, write_results

from detect_prune.cli.command import run_command
from detect_prune.cli.plan import PLAN, read_plan
from detect_prune.engine.comparison import beside_longer, compare, seeds_of_several_starts
from detect_prune.engine.curve import plot_accuracy
from detect_prune.engine.record import flattened, scores_in
from detect_prune.errors import DetectPruneError

LEGEND = (
    "Medians over the seeds. MACs are multiply-accumulates by weights that are not zero. `loss` is in points, against "
    "the better of the dense network and the one trained for as long, of the same seed; `as cut` is before retraining. "
    "A difference inside the spread is a tie."
)


def collect(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of all folders, flat, with commands that name no folder.

    Raises:
        DetectPruneError: there are none, or they don't belong into one table.
    """
    records = [record for folder in folders for record in records_in(folder)]
    if not records:
        raise DetectPruneError("no run in these folders has finished")
    for fact in ("network", "data", "budget"):
        # What removes nothing has no budget.
        found = list(dict.fromkeys(record[fact] for record in records if record[fact] is not None))
        if len(found) > 1:
            raise DetectPruneError(f"one table has one {fact}, and these runs have {' and '.join(found)}")
    return [flattened(record) | {"command": portable_command(record["command"])} for record in beside_longer(records)]


def doubts(records: Sequence[dict[str, Any]]) -> list[str]:
    """What keeps the table from being a fair comparison, as sentences."""
    sentences = []
    score = scores_in(records[0])[-1]
    if different := seeds_of_several_starts(records):
        seeds = ", ".join(map(str, different))
        sentences.append(f"Not all runs of one seed begin with the same dense network (seed {seeds}).")
    for fact, name in (("recipe", "recipe"), ("updates", "number of updates"), ("precision", "precision")):
        found = dict.fromkeys(record[fact] for record in records if record["method"] != "dense")
        found.pop(None, None)  # what does not prune while it is trained makes no updates
        if len(found) > 1:
            sentences.append(f"Not all runs have the same {name}: {'; '.join(map(str, found))}.")
    pruned = [record for record in records if record["ratio"] is not None]
    alone = sum(f"dense_longer_{score}" not in record for record in pruned)
    if alone:
        sentences.append(
            f"For {alone} of {len(pruned)} runs nothing dense was trained for as long: their loss is against the dense "
            "network alone."
        )
    return sentences


def _record(args: argparse.Namespace, argv: Sequence[str]) -> None:
    records = collect(args.folders)
    table = compare(records)
    plans = [read_plan(folder) for folder in args.folders if (folder / PLAN).exists()]
    commands = [f"detect-prune {plan.command} {shlex.join(portable(plan.argv))}" for plan in plans]
    commands.append(circumstances()["command"])
    title = f"{records[0]['network']} on {records[0]['data']}."
    write_results(args.name, records, table, " ".join([title, LEGEND, *doubts(records)]), commands=commands)
    if len({record["ratio"] for record in records} - {None}) > 1:
        plot_accuracy(records, RESULTS, args.name)
    print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of sweeps, or of single runs of prune")
    parser.add_argument("--name", required=True, help="results/NAME.json and .md; with several ratios .png and .svg")
    raise SystemExit(run_command(_record, parser, None))


if __name__ == "__main__":
    main()
