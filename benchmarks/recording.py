"""How a benchmark leaves its figures: results/NAME.json, a list of flat records, and results/NAME.md beside it."""

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from detect_prune.engine.machine import describe_machine
from detect_prune.files import write_json, write_text
from detect_prune.report.tables import Table

RESULTS = Path(__file__).parent / "results"


def circumstances() -> dict[str, str]:
    """When, by which command and on what machine this script runs; a part of every record.

    Folders are not named: they are others on every machine.
    """
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    if "--data-root" in words[:-1]:
        words[words.index("--data-root") + 1] = "DIR"
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(words)}".strip(),
        "machine": ", ".join(f"{name} {value}" for name, value in describe_machine(torch.device("cpu")).items()),
    }


def write_results(name: str, records: list[dict[str, Any]], table: Table, *remarks: str) -> None:
    """Writes both files, with every record's command; the date and the machine are those of the first."""
    first = records[0]
    write_json(RESULTS / f"{name}.json", records)
    lines = [table.markdown(), "", *remarks, *([""] if remarks else []), f"{first['date']}, {first['machine']}.", ""]
    commands = [f"    {command}" for command in dict.fromkeys(record["command"] for record in records)]
    write_text(RESULTS / f"{name}.md", "\n".join([*lines, *commands, ""]))
