"""What a finished run leaves for programs, metrics.json, and the flat record that is made of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detect_prune.engine.checkpoint import plain_values
from detect_prune.engine.machine import in_words
from detect_prune.engine.names import METRICS
from detect_prune.engine.recipe import Phase, Recipe
from detect_prune.engine.run import Run
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_json
from detect_prune.numbers import counted
from detect_prune.pruning import Method, find_method
from detect_prune.report.summary import headline


def metrics_of(
    run: Run, finished: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], notes: Sequence[str], verdict: str
) -> dict[str, Any]:
    """What metrics.json holds, in plain values.

    Args:
        finished: what `run.finish` says.
        layers: a row for each, with `layer`, `kept` and `total`.
        notes: sentences for the person who reads the table.
        verdict: the sentence on what the run has come to, if it pruned.
    """
    state = run.state
    values = {
        "stages": state.stages,
        "before the cut": state.before_cut,
        "layers": layers,
        "settings": run.settings,
        "recipe": run.recipe.as_dict(),
        "training loss": state.last_losses(),
        "precision": str(run.precision),
        "timed_steps": state.timings,
        **finished,
        "machine": state.machine,
        "command": state.command,
        "notes": notes,
        "verdict": verdict,
    }
    return _finite(plain_values(values))


def _finite(value: Any) -> Any:
    """Plain values with None for NaN and infinity, which JSON does not have: a network that has come to nothing may
    score so."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    metrics = read_json(file, "run's metrics")
    try:
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


def flattened(record: dict[str, Any]) -> dict[str, Any]:
    """A record without `layers`."""
    return {name: value for name, value in record.items() if name != "layers"}


def scores_in(record: dict[str, Any]) -> list[str]:
    """Names of a record's scores; by the last one networks are compared."""
    return [name for name in record if f"dense_{name}" in record]
