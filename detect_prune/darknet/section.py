"""One section of a Darknet cfg: its options as text, and as the numbers and words that they have to be."""

from __future__ import annotations  # Section has methods called int, float and str

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from detect_prune.darknet.keys import Kind
from detect_prune.errors import DetectPruneError
from detect_prune.numbers import parse_number, parse_whole


@dataclass(frozen=True)
class Option:
    """One `name=value` of a section. `line` is None where the program wrote it; it is no part of equality."""

    name: str
    value: str
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Section:
    """One `[name]` with its options, in file order. Equality is that of the text; lines and file do not count."""

    name: str
    options: tuple[Option, ...]
    line: int | None = field(default=None, compare=False)
    file: Path | None = field(default=None, compare=False)

    def __contains__(self, name: str) -> bool:
        return self.option(name) is not None

    def option(self, name: str) -> Option | None:
        """The option of that name; where it stands twice, the first, as Darknet does."""
        return next((option for option in self.options if option.name == name), None)

    def line_of(self, name: str) -> int | None:
        """The line of the option, or of the section where the option is not written."""
        option = self.option(name)
        return self.line if option is None or option.line is None else option.line

    def error(self, message: str, name: str | None = None) -> DetectPruneError:
        """The error to raise about this section, or about one of its options."""
        return DetectPruneError(message, file=self.file, line=self.line if name is None else self.line_of(name))

    def int(self, name: str, default: int | None = None, low: int | None = None, high: int | None = None) -> int:
        """A whole number in low..high. Without a default the option has to be there."""
        value = self._value(name, Kind.INT, default)
        self._check_range(name, value, low, high)
        return value

    def float(
        self, name: str, default: float | None = None, low: float | None = None, high: float | None = None
    ) -> float:
        """A finite number in low..high. Without a default the option has to be there."""
        value = self._value(name, Kind.FLOAT, default)
        self._check_range(name, value, low, high)
        return value

    def str(self, name: str, default: str | None = None, choices: tuple[str, ...] | None = None) -> str:
        """A word, one of `choices` if they are given."""
        value = self._value(name, Kind.WORD, default)
        if choices is not None and value not in choices:
            raise self.error(f"{name}={shown(value)} is not known; expected one of {', '.join(choices)}", name)
        return value

    def ints(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        return self._value(name, Kind.INTS, default)

    def pairs(self, name: str) -> tuple[tuple[float, float], ...]:
        return self._value(name, Kind.PAIRS, None)

    def with_option(self, name: str, value: object) -> Section:
        """A copy in which the option has another value; it is added at the end where it was not there."""
        if name not in self:
            return replace(self, options=(*self.options, Option(name, str(value))))
        return replace(self, options=tuple(replace(o, value=str(value)) if o.name == name else o for o in self.options))

    def without_option(self, name: str) -> Section:
        return replace(self, options=tuple(option for option in self.options if option.name != name))

    def _value(self, name, kind, default):
        option = self.option(name)
        if option is None:
            if default is None:
                raise self.error(f"[{self.name}] has no {name}=; it was expected here")
            return default
        return convert(self, option, kind)

    def _check_range(self, name, value, low, high):
        if (low is not None and value < low) or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
            raise self.error(f"{name}={value} is out of range; expected {wanted}", name)


def convert(section: Section, option: Option, kind: Kind):
    """The value of an option as Python has it, or DetectPruneError."""

    def number(text, whole):
        value = parse_whole(text) if whole else parse_number(text)
        if value is not None and math.isfinite(value):
            return value
        raise wrong(section, option, f"{shown(text)} is not {(Kind.INT if whole else Kind.FLOAT).value}")

    if kind is Kind.WORD:
        return option.value
    if kind in (Kind.INT, Kind.FLOAT):
        return number(option.value, kind is Kind.INT)
    if kind in (Kind.INTS, Kind.FLOATS):
        return tuple(number(piece.strip(), kind is Kind.INTS) for piece in option.value.split(","))
    # Official cspx-p7-mish_hp.cfg lacks a comma between two anchors; the count shows that two numbers are meant.
    values = [number(piece, False) for part in option.value.split(",") for piece in part.split() or [""]]
    if len(values) % 2:
        raise wrong(section, option, f"these are {len(values)} numbers; expected {kind.value}")
    return tuple(zip(values[::2], values[1::2]))


def wrong(section: Section, option: Option, message: str) -> DetectPruneError:
    """The error about an option that may not stand in its section yet."""
    line = section.line if option.line is None else option.line
    return DetectPruneError(f"{option.name}={shown(option.value)}: {message}", file=section.file, line=line)


def shown(text: str) -> str:
    """Somebody else's text, safe and short enough to stand in a message."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")
