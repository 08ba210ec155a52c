"""Darknet's network definition files: text -> sections that know their lines -> text.

Only the text is judged here: section names, `key=value`, and that a number is a number. What the sections mean together
(references, channels, heads) is worked out in plan.py.
"""

from __future__ import annotations

import difflib
import re
import warnings
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from detect_prune.darknet.keys import ALIASES, KEYS, NOT_SUPPORTED, STRUCTURE, WITHOUT_EFFECT, Kind
from detect_prune.darknet.section import Option, Section, convert, shown, wrong
from detect_prune.errors import DetectPruneError
from detect_prune.files import is_utf8, read_text, write_text
from detect_prune.numbers import counted

# The largest width or height: four times the largest official network, and an input that still fits into memory.
MAX_INPUT_SIDE = 8192


class CfgWarning(UserWarning):
    """Something in a cfg that is kept but has no effect here, or that is not read quite as it is written."""


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
        """The same network for another input size, in pixels. Raises DetectPruneError where none can have it."""
        if not all(1 <= side <= MAX_INPUT_SIDE for side in (width, height)):
            raise DetectPruneError(f"an input of {width}x{height} pixels; sides of 1 to {MAX_INPUT_SIDE} were expected")
        return replace(self, net=self.net.with_option("width", width).with_option("height", height))

    def text(self) -> str:
        """The definition as text, without comments; parsing it gives an equal Cfg."""
        return "\n".join(
            f"[{section.name}]\n" + "".join(f"{option.name}={option.value}\n" for option in section.options)
            for section in (self.net, *self.layers)
        )

    def digest(self) -> str:
        """Eight hexadecimal digits that change with the network, or with what training follows. The file's name,
        comments and the keys of `WITHOUT_EFFECT` have no part in them."""
        net, *layers = (
            replace(section, options=tuple(one for one in section.options if one.name not in WITHOUT_EFFECT))
            for section in (self.net, *self.layers)
        )
        return f"{zlib.crc32(Cfg(net, tuple(layers)).text().encode()):08x}"


def load_cfg(path: str | Path) -> Cfg:
    """Reads a cfg file. Raises DetectPruneError with file and line where it is not one."""
    # Darknet reads bytes; comments are in whatever encoding their author's editor had.
    return parse_cfg(read_text(path, "Darknet cfg", errors="surrogateescape"), path)


def save_cfg(cfg: Cfg, path: str | Path) -> None:
    """Writes `cfg` as text, atomically."""
    write_text(path, cfg.text())


def parse_cfg(text: str, path: str | Path | None = None) -> Cfg:
    """Parses the text of a cfg file (Darknet's src/parser.c, read_cfg).

    Blank lines and everything from `#` or `;` on are comments. Unknown keys are kept; one CfgWarning names them all.

    Raises:
        DetectPruneError: with file and line: a line that is neither `[section]` nor `key=value`, an unknown section, a
            value of the wrong kind, a key of the network's structure that stands twice with different values.
    """
    path = None if path is None else Path(path)
    sections: list[Section] = []
    options: list[Option] = []  # of the section that is being read
    earlier: dict[str, Option] = {}
    notes = _Notes()
    # str.splitlines would also split at form feeds and other characters that editors do not count as lines.
    for number, raw in enumerate(re.split("\r\n|\r|\n", text), 1):
        line = re.split("[#;]", raw, maxsplit=1)[0].strip()
        if not line:
            continue
        if not is_utf8(line):
            raise DetectPruneError(
                "not a text file (a byte that is not UTF-8); a line of a Darknet cfg was expected",
                file=path,
                line=number,
            )
        if line.startswith("["):
            if sections:
                sections[-1] = replace(sections[-1], options=tuple(options))
            sections.append(Section(_section_name(line, path, number), (), number, path))
            options, earlier = [], {}
            continue
        if not sections:
            raise DetectPruneError("an option before the first section; expected [net]", file=path, line=number)
        name, equals, value = (part.strip() for part in line.partition("="))
        if not (name and equals and value):
            raise DetectPruneError(f"{shown(line)} is neither a [section] nor key=value", file=path, line=number)
        option = Option(name, value, number)
        options.append(option)
        _check_option(sections[-1], option, earlier.setdefault(name, option), notes)
    if not sections:
        raise DetectPruneError("an empty cfg; expected [net] and layers", file=path)
    sections[-1] = replace(sections[-1], options=tuple(options))
    if sections[0].name != "net":
        raise sections[0].error(f"the first section is [{sections[0].name}]; expected [net]")
    for section in sections[1:]:
        if section.name == "net":
            raise section.error("a second [net] section; expected a layer")
    notes.warn(path)
    return Cfg(sections[0], tuple(sections[1:]), path)


class _Notes:
    """What has no effect here, or is not read quite as it is written; told in one warning after the reading."""

    SHOWN = 20

    def __init__(self):
        self.said: list[tuple[int, str]] = []  # line, sentence
        self.unread: dict[tuple[str, str], list[int]] = {}  # (section, key) -> lines

    def warn(self, path: Path | None) -> None:
        entries = self.said + [(lines[0], key) for key, lines in self.unread.items()]
        if not entries:
            return
        entries.sort(key=lambda entry: entry[0])
        texts = [
            f"line {line}: {what if isinstance(what, str) else self._unread(*what)}"
            for line, what in entries[: self.SHOWN]
        ]
        if len(entries) > self.SHOWN:
            texts.append(f"and {len(entries) - self.SHOWN} more")
        # The warning is shown at the caller of parse_cfg.
        warnings.warn(f"{path or 'cfg'}: " + "; ".join(texts), CfgWarning, stacklevel=3)

    def _unread(self, section: str, key: str) -> str:
        others = len(self.unread[section, key]) - 1
        again = f" and on {counted(others, 'other line')}" if others else ""
        return f"nothing here reads {shown(key)} of a [{section}]{_near(key, KEYS[section])}{again}"


def _section_name(line: str, path: Path | None, number: int) -> str:
    if not line.endswith("]"):
        raise DetectPruneError(f"{shown(line)} is no section header; expected [name]", file=path, line=number)
    name = line[1:-1].strip()
    name = ALIASES.get(name, name)
    if name in NOT_SUPPORTED:
        raise DetectPruneError(f"[{name}] sections are not supported", file=path, line=number)
    if name not in KEYS:
        raise DetectPruneError(f"unknown section {shown(line)}{_near(name, KEYS)}", file=path, line=number)
    return name


def _check_option(section: Section, option: Option, first: Option, notes: _Notes) -> None:
    """Raises where the value can't be what its key takes; notes what has no effect. `first` is the first so named."""
    if first is not option:
        if section.name != "net" and option.name in STRUCTURE and first.value != option.value:
            raise wrong(section, option, f"line {first.line} of the same [{section.name}] says {shown(first.value)}")
        notes.said.append((option.line, f"{shown(option.name)} stands twice, line {first.line} counts"))
    kind = KEYS[section.name].get(option.name)
    if kind is None:
        notes.unread.setdefault((section.name, option.name), []).append(option.line)
        return
    convert(section, option, kind)
    if kind is Kind.PAIRS and any(" " in piece.strip() or "\t" in piece.strip() for piece in option.value.split(",")):
        notes.said.append((option.line, f"a comma is missing in {option.name}; a space is read as one"))


def _near(name: str, known) -> str:
    close = difflib.get_close_matches(name[:40], known, 1)  # a name can be as long as the file
    return f" (is {close[0]} meant?)" if close else ""
