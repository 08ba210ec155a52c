"""What a finished run leaves for people: the table, the page, the plots, and metrics.json for programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detect_prune.engine.machine import for_people
from detect_prune.engine.names import METRICS, PICTURES
from detect_prune.engine.record import metrics_of
from detect_prune.engine.run import Run
from detect_prune.files import write_csv, write_json, write_text
from detect_prune.pruning import too_early
from detect_prune.report import plots
from detect_prune.report.page import write_page
from detect_prune.report.progress import duration
from detect_prune.report.summary import Stage, closing_table, floor_note, headline, layer_table, part_note, verdict


def publish(run: Run, finished: Mapping[str, Any], problems: Sequence[str]) -> str:
    """Writes metrics.json, history.csv, table.md, the plots and index.html into the run's folder.

    Args:
        finished: what `run.finish` says.
        problems: sentences about the data, of all processes.

    Returns:
        The text to print.
    """
    state = run.state
    stages = [
        Stage(**{key: value for key, value in row.items() if key in Stage.__dataclass_fields__}) for row in state.stages
    ]
    scores = headline(state.stages[0])
    table = closing_table(stages, scores)
    kept = {name: (int(weight.count_nonzero()), weight.numel()) for name, weight in run.weights(run.model).items()}
    layers = layer_table(kept)
    pruned = run.masks is not None and len(stages) > 1
    bound = run.masks.bound if pruned else ()
    notes = _notes(run, stages[-1].total, bound, problems)
    sentence = verdict(stages[0], stages[-1], state.delivered, run.chooses_layers) if pruned else ""
    sentences = [*([sentence] if sentence else []), *notes]

    shown = {"history": run.folder / "history.png", "kept per layer": run.folder / "kept_per_layer.png"}
    plots.history(state.history, shown["history"], f"{run.task.name}: how the run went", scores)
    write_csv(run.folder / "history.csv", state.history)
    plots.kept_per_layer(kept, shown["kept per layer"], title=f"{run.task.name}: what is left of each layer")
    took = duration(finished["seconds"])
    write_page(
        run.folder / "index.html",
        run.task.name,
        table,
        sentences,
        shown,
        _pictures(run),
        _facts(run, took, finished["date"]),
        layers,
    )
    write_text(run.folder / "table.md", "\n\n".join([table.markdown(), *sentences]) + "\n")
    rows = [
        {"layer": name, "kept": left, "total": total, "floor binds": name in bound if pruned else None}
        for name, (left, total) in kept.items()
    ]
    write_json(run.folder / METRICS, metrics_of(run, finished, rows, notes, sentence))
    return "\n".join(
        ["", str(layers), "", str(table), "", *notes, sentence, f"Took {took}; everything is in {run.folder}"]
    )


def _notes(run: Run, counted: int, bound: Sequence[str], problems: Sequence[str]) -> list[str]:
    """What the person has to know of data, scores, layers that were left out or held at their floor, and ADMM's end."""
    notes = list(dict.fromkeys([*problems, *(note for row in run.state.stages for note in row["notes"])]))
    if run.chooses_layers:
        everything = sum(parameter.numel() for parameter in run.model.parameters() if parameter.dim() > 1)
        notes.append(part_note(counted, everything))
    if bound:
        notes.append(floor_note(bound))
    if warning := too_early((run.state.before_cut or {}).get("primal", {})):
        notes.append(warning)
    return notes


def _facts(run: Run, took: str, date: str) -> dict[str, Any]:
    """How the run was made, by name, for the page."""
    settings = {name: value for name, value in run.settings.items() if name != "data"}
    rest = (
        {f"phase {name}": str(phase) for name, phase in run.phases.items()}
        | {"precision": str(run.precision), "took": took, "date": date, "command": run.state.command or "-"}
        | for_people(run.state.machine)
    )
    # A task may call a setting as it likes.
    taken = settings.keys() | rest.keys()
    data = {f"data {name}" if name in taken else name: value for name, value in run.settings["data"].items()}
    return _flat(settings | data) | rest


def _pictures(run: Run) -> dict[str, Path]:
    """The first and the last stage's pictures, by caption."""
    pictures = {}
    for row in (run.state.stages[0], run.state.stages[-1]):
        begin = run.picture_path(row["name"], "").stem
        for path in sorted((run.folder / PICTURES).glob(f"{begin}*.jpg")):
            pictures[f"{row['name']}: {path.stem.removeprefix(begin)}"] = path
    return pictures


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values by the path to them; what was not given (None, no patterns) is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key} ")
        elif value is not None and value != []:
            flat[f"{prefix}{key}"] = value
    return flat
