"""Whether a run that is resumed is the one that was begun, and whether it will end at the same bits."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detect_prune.engine.recipe import Recipe
from detect_prune.errors import DetectPruneError


def require_same_settings(now: Mapping[str, Any], begun: Mapping[str, Any], file: Path) -> None:
    """Raises DetectPruneError where a run's recipe or settings are not those that its checkpoint `file` was begun with.
    What another version of this program did not know yet, or knows no more, is no difference."""
    begun = dict(begun)
    with contextlib.suppress(TypeError):  # that of a newer version, with fields that this one does not know
        begun["recipe"] = Recipe.from_dict(begun["recipe"]).as_dict()
    if "data" in begun:  # that of an older version, which did not know all that is told now
        begun["data"] = {**now.get("data", {}), **begun["data"]}
    if begun != now:
        raise DetectPruneError(
            f"this run was started with other settings ({', '.join(_differences(now, begun))}); "
            "resume it with the same, or start a new one",
            file=file,
        )


def _differences(settings: Mapping[str, Any], begun: Mapping[str, Any]) -> list[str]:
    """The names of the settings that are not what they were, those inside others with theirs before them."""
    names = []
    for name in sorted({*settings, *begun}):
        value, before = settings.get(name), begun.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            names += [f"{name}: {inner}" for inner in _differences(value, before)]
        elif value != before or name not in settings or name not in begun:
            names.append(name)
    return names


def other_arithmetic(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of the machine decides how sums are rounded and is not what it was; nothing if all is."""
    told = [name for name in ("processor", "threads", "torch", "opencv") if name in begun]  # once less was recorded
    names = [name for name in (*told, "gpu") if begun.get(name) != now.get(name)]
    were, are = (", ".join(f"{name} {machine.get(name, '-')}" for name in names) for machine in (begun, now))
    return f"this run was begun with {were}, and goes on with {are}" if names else ""
