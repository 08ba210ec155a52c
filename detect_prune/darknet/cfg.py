"""Darknet's network definition files: text -> sections that know their lines -> text.

Only the text is judged here: section names, `key=value`, and that a number is a number. What the sections mean together
(references, channels, heads) is worked out in plan.py.
"""

from __future__ import annotations  # Section has methods called int, float and str

import difflib
import math
import re
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

from detect_prune.darknet.keys import ALIASES, KEYS, NOT_SUPPORTED, Kind
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text, write_text

_INT = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
# The largest width or height: four times the largest official network, and an input that still fits into memory.
MAX_INPUT_SIDE = 8192


class CfgWarning(UserWarning):
    """Something in a cfg that is kept but has no effect here, or that is not read quite as it is written."""


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
            raise self.error(f"{name}={value} is not known; expected one of {', '.join(choices)}", name)
        return value

    def ints(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        return self._value(name, Kind.INTS, default)

    def floats(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        return self._value(name, Kind.FLOATS, default)

    def pairs(
        self, name: str, default: tuple[tuple[float, float], ...] | None = None
    ) -> tuple[tuple[float, float], ...]:
        return self._value(name, Kind.PAIRS, default)

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
        return _convert(self, option, kind)

    def _check_range(self, name, value, low, high):
        if (low is not None and value < low) or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
            raise self.error(f"{name}={value} is out of range; expected {wanted}", name)


@dataclass(frozen=True)
class Cfg:
    """A network definition: the [net] section and the layers, whose positions are Darknet's layer indices."""

    net: Section
    layers: tuple[Section, ...]
    path: Path | None = field(default=None, compare=False)

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the network's input in pixels."""
        return tuple(self.net.int(key, low=1, high=MAX_INPUT_SIDE) for key in ("width", "height"))

    @property
    def letter_box(self) -> bool:
        """Whether pictures keep their aspect ratio on the way in (else they are stretched, Darknet's default)."""
        return self.net.int("letter_box", 0) != 0

    def with_input_size(self, width: int, height: int) -> Cfg:
        """The same network for another input size, in pixels."""
        return replace(self, net=self.net.with_option("width", width).with_option("height", height))

    def text(self) -> str:
        """The definition as text, without comments; parsing it gives an equal Cfg."""
        return "\n".join(
            f"[{section.name}]\n" + "".join(f"{option.name}={option.value}\n" for option in section.options)
            for section in (self.net, *self.layers)
        )


def load_cfg(path: str | Path) -> Cfg:
    """Reads a cfg file. Raises DetectPruneError with file and line where it is not one."""
    return parse_cfg(read_text(path, "Darknet cfg"), path)


def save_cfg(cfg: Cfg, path: str | Path) -> None:
    """Writes `cfg` as text, atomically."""
    write_text(path, cfg.text())


def parse_cfg(text: str, path: str | Path | None = None) -> Cfg:
    """Parses the text of a cfg file (Darknet's src/parser.c, read_cfg).

    Blank lines and everything from `#` or `;` on are comments. Unknown keys are kept; one CfgWarning names them all.

    Raises:
        DetectPruneError: with file and line: a line that is neither `[section]` nor `key=value`, an unknown section, a
            value of the wrong kind, a key that stands twice with different values.
    """
    path = None if path is None else Path(path)
    sections: list[Section] = []
    options: list[Option] = []  # of the section that is being read
    notes: list[str] = []

    def finish_section() -> None:
        if sections:
            sections[-1] = replace(sections[-1], options=tuple(options))
            options.clear()

    earlier: dict[str, Option] = {}
    # str.splitlines would also split at form feeds and other characters that editors do not count as lines.
    for number, raw in enumerate(text.split("\n"), 1):
        line = re.split("[#;]", raw, maxsplit=1)[0].strip()
        if not line:
            continue
        if line.startswith("["):
            finish_section()
            sections.append(Section(_section_name(line, path, number), (), number, path))
            earlier = {}
            continue
        if not sections:
            raise DetectPruneError("an option before the first section; expected [net]", file=path, line=number)
        name, equals, value = (part.strip() for part in line.partition("="))
        if not (name and equals and value):
            raise DetectPruneError(f"{_shown(line)} is neither a [section] nor key=value", file=path, line=number)
        options.append(Option(name, value, number))
        _check_option(sections[-1], options[-1], earlier.setdefault(name, options[-1]), notes)
    finish_section()
    if not sections:
        raise DetectPruneError("an empty cfg; expected [net] and layers", file=path)
    if sections[0].name != "net":
        raise sections[0].error(f"the first section is [{sections[0].name}]; expected [net]")
    for section in sections[1:]:
        if section.name == "net":
            raise section.error("a second [net] section; expected a layer")
    if notes:
        more = f"; and {len(notes) - 20} more" if len(notes) > 20 else ""
        warnings.warn(f"{path or 'cfg'}: " + "; ".join(notes[:20]) + more, CfgWarning, stacklevel=2)
    return Cfg(sections[0], tuple(sections[1:]), path)


def _section_name(line: str, path: Path | None, number: int) -> str:
    if not line.endswith("]"):
        raise DetectPruneError(f"{_shown(line)} is no section header; expected [name]", file=path, line=number)
    name = line[1:-1].strip()
    name = ALIASES.get(name, name)
    if name in NOT_SUPPORTED:
        raise DetectPruneError(f"[{name}] sections are not supported", file=path, line=number)
    if name not in KEYS:
        raise DetectPruneError(f"unknown section {_shown(line)}{_near(name, KEYS)}", file=path, line=number)
    return name


def _check_option(section: Section, option: Option, first: Option, notes: list[str]) -> None:
    """Raises where the value can't be what its key takes; notes what has no effect. `first` is the first so named."""
    if first is not option:
        # Official files do that in [net] (a batch for testing, one for training); in a layer a header has been lost.
        if section.name != "net" and first.value != option.value:
            raise _wrong(section, option, f"line {first.line} of the same [{section.name}] says {_shown(first.value)}")
        notes.append(f"line {option.line}: {option.name} stands twice, line {first.line} counts")
    kind = KEYS[section.name].get(option.name)
    if kind is None:
        notes.append(
            f"line {option.line}: nothing here reads {_shown(option.name)}{_near(option.name, KEYS[section.name])}"
        )
        return
    _convert(section, option, kind)
    if kind is Kind.PAIRS and any(" " in piece.strip() or "\t" in piece.strip() for piece in option.value.split(",")):
        notes.append(f"line {option.line}: a comma is missing in {option.name}; a space is read as one")


def _convert(section: Section, option: Option, kind: Kind):
    """The value of an option as Python has it, or DetectPruneError."""

    def number(text, whole):
        if (_INT if whole else _FLOAT).fullmatch(text):
            value = int(text) if whole else float(text)
            if math.isfinite(value):
                return value
        raise _wrong(section, option, f"{_shown(text)} is not {(Kind.INT if whole else Kind.FLOAT).value}")

    if kind is Kind.WORD:
        return option.value
    if kind in (Kind.INT, Kind.FLOAT):
        return number(option.value, kind is Kind.INT)
    if kind in (Kind.INTS, Kind.FLOATS):
        return tuple(number(piece.strip(), kind is Kind.INTS) for piece in option.value.split(","))
    # Official cspx-p7-mish_hp.cfg lacks a comma between two anchors; the count shows that two numbers are meant.
    values = [number(piece, False) for part in option.value.split(",") for piece in part.split() or [""]]
    if len(values) % 2:
        raise _wrong(section, option, f"these are {len(values)} numbers; expected {kind.value}")
    return tuple(zip(values[::2], values[1::2]))


def _wrong(section: Section, option: Option, message: str) -> DetectPruneError:
    """The error about an option that may not stand in its section yet."""
    line = section.line if option.line is None else option.line
    return DetectPruneError(f"{option.name}={_shown(option.value)}: {message}", file=section.file, line=line)


def _shown(text: str) -> str:
    """Somebody else's text, safe and short enough to stand in a message."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")


def _near(name: str, known) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" (is {close[0]} meant?)" if close else ""
