"""How a benchmark measures a time and leaves its figures: results/NAME.json, a list of flat records, and NAME.md."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from detect_prune.cli.plan import read_plan
from detect_prune.engine.machine import describe_machine, in_words
from detect_prune.engine.names import METRICS, SWEEP
from detect_prune.engine.record import record_of
from detect_prune.files import write_json, write_text
from detect_prune.report.tables import Table

RESULTS = Path(__file__).parent / "results"
NETWORK_FILES = ("--cfg", "--weights", "--pretrained")
"""Options whose files are named without their folder."""


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def circumstances() -> dict[str, str]:
    """When, by which command and on what machine this script runs; a part of every record."""
    words = portable(sys.argv[1:])
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(words)}".strip(),
        "machine": in_words(describe_machine(torch.device("cpu"))),
    }


def portable(words: Sequence[str]) -> list[str]:
    """The words of a command without its folders, which are others on every machine.

    --data-root becomes DIR, --project, which only says where results go, is left out, and of a network's file, and of
    whatever else lies outside the working folder, the last part of the name stays.
    """
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    kept = []
    for before, word in zip(["", *parts], parts):
        if "--project" in (before, word):
            continue
        if before == "--data-root":
            word = "DIR"
        elif before in NETWORK_FILES or Path(word).is_absolute() or word.startswith(".."):
            word = Path(word).name
        kept.append(word)
    return kept


def portable_command(command: str) -> str:
    """The same for a command line as a run has recorded it."""
    return shlex.join(portable(shlex.split(command)))


def records_in(folder: Path) -> list[dict[str, Any]]:
    """The record of a finished run of `prune`, or those of a sweep, of an unfinished one as far as it has come.

    Of a sweep whose runs are gone, the records that it wrote at its end.
    """
    if (folder / METRICS).exists():
        return [record_of(folder)]
    finished = [file.parent for file in sorted(folder.glob(f"*/{METRICS}"))]
    if not finished and (folder / SWEEP).exists():
        return json.loads((folder / SWEEP).read_text())
    options = read_plan(folder).options
    network = Path(options["cfg"] or options["model"]).stem  # as the sweep itself names it when it ends
    return [record_of(run) | {"network": network} for run in finished if read_plan(run).command == "prune"]


def write_results(
    name: str, records: list[dict[str, Any]], table: Table, *remarks: str, commands: Sequence[str] = ()
) -> None:
    """Writes both files. The table's has the remarks, every machine with its first record's date, and the commands.

    Args:
        commands: those of the records unless given.
    """
    write_json(RESULTS / f"{name}.json", records)
    dates = {record["machine"]: record["date"] for record in reversed(records)}
    circumstances = [f"{date}, {machine}." for machine, date in dates.items()]
    lines = [table.markdown(), "", *remarks, *([""] if remarks else []), *circumstances, ""]
    shown = [f"    {command}" for command in commands or dict.fromkeys(record["command"] for record in records)]
    write_text(RESULTS / f"{name}.md", "\n".join([*lines, *shown, ""]))
