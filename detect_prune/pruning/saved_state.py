"""Whether a saved state belongs to what is to go on from it."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any


def describe(part: object) -> str:
    """What kind of constraint, importance or schedule this is, and its public attributes, which are how it was set: a
    saved state is of no use to one that was set otherwise."""
    settings = {name: _as_text(value) for name, value in vars(part).items() if not name.startswith("_")}
    return f"{type(part).__name__} {settings or ''}".strip()


def _as_text(setting: object) -> object:
    """The same for settings that mean the same: .5 and 0.50, 1 and 1.0, and a dictionary in another order."""
    if isinstance(setting, Mapping):
        return {key: _as_text(setting[key]) for key in sorted(setting)}
    if isinstance(setting, Decimal):
        return str(Fraction(setting))
    return float(setting) if isinstance(setting, Real) else setting


def require_state(state: Mapping[str, Any], entries: Iterable[str]) -> None:
    """Raises ValueError unless a saved state has these entries, as all of its kind."""
    missing = sorted(set(entries) - state.keys())
    if missing:
        raise ValueError(
            "this is no state of what prunes in this way: what its own state_dict gave was expected, and "
            f"{', '.join(missing)} is missing"
        )


def require_made_for(state: Mapping[str, Any], updates: int, made_for: list[str]) -> None:
    """Raises ValueError unless a saved state of what prunes is one of as many updates, made for the same."""
    if state["updates"] != updates:
        raise ValueError(f"this state is one of {state['updates']} updates in all, not of {updates}")
    if state["made_for"] != made_for:
        raise ValueError(f"this state was made for {state['made_for']}, not for {made_for}")
