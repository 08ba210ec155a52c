"""What is to be removed, and how: settings that are checked together before anything else is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from detect_prune.engine.recipe import Recipe
from detect_prune.engine.task import Task
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import (
    Constraint,
    GlobalBudget,
    Method,
    find_method,
    make_constraint,
    prunable_weights,
    require_trainable,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a person asks of pruning; `detect_prune.prune` takes them by these names."""

    ratio: float | Decimal | Mapping[str, float | Decimal] | None = None
    method: str = "admm"
    budget: str = "ratio"
    pattern: str | None = None
    bits: Mapping[str, float] | None = None
    gradual: bool | None = None
    importance: str | None = None
    floor: float | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the same for the same settings however they were given."""
        lists = {"include": list(self.include), "exclude": list(self.exclude)}
        return vars(self) | {"bits": dict(self.bits or {})} | lists


@dataclass(frozen=True)
class Choice:
    """What settings come to for a network."""

    method: Method
    settings: Settings
    """With the importance, the floor and whether the removal grows as they will be, where they were left open: the
    recipe's or the method's own. None of an importance where nothing is removed, and of a floor where there is none."""
    constraint: Constraint | None
    """None where nothing is removed."""


def check(task: Task, settings: Settings, recipe: Recipe | None = None) -> Choice:
    """Says at once what would else only turn out after the whole dense training; `prune` begins with it.

    Args:
        task: its network need not be trained; no batch of it is drawn but for a budget of multiplications.
        recipe: the task's own unless given.

    Raises:
        DetectPruneError: the settings can't be used together, or not with this network.
    """
    try:
        return _checked(task, settings, recipe or task.recipe)
    except ValueError as error:
        raise DetectPruneError(str(error)) from None


def _checked(task: Task, asked: Settings, recipe: Recipe) -> Choice:
    method = find_method(asked.method)
    if asked.gradual and not method.uses_admm:
        raise ValueError(f"a ratio that grows is a choice of ADMM's; {method.name} has none")
    importance = asked.importance
    if importance is None and method.uses_admm:
        importance = recipe.importance
    importance = method.choose_importance(importance)
    weights = prunable_weights(task.model, asked.include, asked.exclude)
    if method.prunes == "never":
        _require_nothing_to_remove(asked)
        return Choice(method, replace(asked, importance=importance, gradual=False), None)
    if method.uses_admm:
        require_trainable(weights)
    constraint = make_constraint(
        task.model,
        asked.ratio,
        budget=asked.budget,
        pattern=asked.pattern,
        layerwise=method.layerwise,
        floor=asked.floor,
        bits=asked.bits,
        example_input=next(iter(task.inputs()))[:1] if asked.budget == "macs" else None,
        include=asked.include,
        exclude=asked.exclude,
    )
    shared = isinstance(constraint, GlobalBudget)
    gradual = asked.gradual
    if gradual is None:
        gradual = recipe.gradual and method.uses_admm and (shared or method.layerwise)
    floor = constraint.floor if shared else None
    return Choice(method, replace(asked, importance=importance, gradual=gradual, floor=floor), constraint)


def _require_nothing_to_remove(asked: Settings) -> None:
    given = {
        "a ratio": asked.ratio is not None,
        f"a budget of {asked.budget}": asked.budget != "ratio",
        "a pattern": asked.pattern is not None,
        "bits a weight": bool(asked.bits),
        "a floor": asked.floor is not None,
    }
    if any(given.values()):
        named = " and ".join(name for name, is_given in given.items() if is_given)
        raise ValueError(f"{asked.method} removes nothing: {named} can't be given with it")
