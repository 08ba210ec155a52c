"""Reads a large json file record by record: it is never in memory as a whole, and every record knows its line."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from detect_prune.errors import DetectPruneError
from detect_prune.files import open_binary

_CHUNK = 1 << 20
"""Bytes that are read at a time."""
_LONGEST_TOKEN = 16
"""A syntax error this near to the end of what was read may be a token cut in two: an escaped pair is the longest."""
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonRecords:
    """The records of some lists of a json object, in the order of the file.

        records = JsonRecords(path, ("images", "annotations"), "COCO annotation file (json)")
        for name, index, record in records:      # "images", 0, {...}
            records.wrong(...)                   # an error with the line on which this record begins

    Other values of the object are read over. Memory: a megabyte, or twice the longest record.
    """

    def __init__(self, path: Path, lists: tuple[str, ...], what: str):
        """`lists` names the keys whose records are wanted (all of them are required), `what` the kind of file."""
        self.path, self.lists, self.what = path, lists, what
        self.line = 0
        """The line on which the record begins that was handed out last."""

    def wrong(self, message: str, line: int | None = None) -> DetectPruneError:
        """An error that names the file and the line of the last record, or another one."""
        return DetectPruneError(message, file=self.path, line=self.line if line is None else line)

    def __iter__(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Yields the name of the list, the index in it, and the record.

        Raises:
            DetectPruneError: no such file, broken json, a list that is missing or there twice, a record that is no
                object; names the line.
        """
        with open_binary(self.path, self.what) as file:
            yield from self._records(_Scanner(file, self.path, self.what))

    def _records(self, scanner: "_Scanner") -> Iterator[tuple[str, int, dict[str, Any]]]:
        form = f"a {self.what} is an object with the lists {', '.join(self.lists)}"
        if not scanner.take("{"):
            raise DetectPruneError(f"no object begins here; {form}", file=self.path, line=scanner.line())
        seen: set[str] = set()
        more = not scanner.take("}")
        while more:
            line, key = scanner.line(), scanner.value()
            if not isinstance(key, str):
                raise self.wrong(f"a key in quotes was expected here; {form}", line)
            if key in seen:
                raise self.wrong(f'the key "{key}" stands here a second time', line)
            seen.add(key)
            scanner.expect(":")
            if scanner.take("["):
                for index, record in enumerate(self._items(scanner)):
                    if key not in self.lists:
                        continue
                    if not isinstance(record, dict):
                        raise self.wrong(f"{key}[{index}]: an object was expected")
                    yield key, index, record
            elif key in self.lists:
                raise self.wrong(f'"{key}" is no list; {form}', line)
            else:
                scanner.value()
            more = not scanner.take("}")
            if more:
                scanner.expect(",")
        if scanner.peek():
            raise self.wrong("more text after the end of the json object", scanner.line())
        missing = [name for name in self.lists if name not in seen]
        if missing:
            raise DetectPruneError(f'"{missing[0]}" is missing; {form}', file=self.path)

    def _items(self, scanner: "_Scanner") -> Iterator[Any]:
        more = not scanner.take("]")
        while more:
            self.line = scanner.line()
            yield scanner.value()
            more = not scanner.take("]")
            if more:
                scanner.expect(",")


class _Scanner:
    """A window of text that moves over the file; `position` is where the next token begins."""

    def __init__(self, file: BinaryIO, path: Path, what: str):
        self.file, self.path, self.what = file, path, what
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.position, self.ended = "", 0, False
        self.start = 0  # where the line begins that text[0] is on; below 0 if that is no longer in the window
        self.counted, self.lines = 0, 1  # lines up to the position `counted`
        self.parse = json.JSONDecoder(object_pairs_hook=_without_outlines).raw_decode

    def line(self) -> int:
        """The line of the next token."""
        self.peek()
        return self._line_at(self.position)

    def peek(self) -> str:
        """The next character that is no space, or nothing at the end of the file."""
        while True:
            character = self.text[self.position : self.position + 1]
            if character > " ":  # the usual case, and a third of the time of looking for spaces
                return character
            self.position = _SPACE.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._more():
                return ""

    def take(self, character: str) -> bool:
        """Steps over `character` if it comes next."""
        if self.peek() != character:
            return False
        self.position += 1
        return True

    def expect(self, character: str) -> None:
        """Steps over `character`, which has to come next."""
        if not self.take(character):
            raise self._broken(f"'{character}' was expected", self.position)

    def value(self) -> Any:
        """Parses the next value."""
        self.peek()
        while True:
            try:
                value, end = self.parse(self.text, self.position)
            except json.JSONDecodeError as error:
                in_string = error.msg.startswith("Unterminated string")
                if (in_string or error.pos >= len(self.text) - _LONGEST_TOKEN) and self._more():
                    continue
                raise self._broken(error.msg.removesuffix(" at"), error.pos, in_string) from None
            except RecursionError:
                raise self._wrong(f"nested too deep for a {self.what}") from None
            except ValueError as error:  # a whole number of thousands of digits, a key that is there twice
                raise self._wrong(f"not valid json: {error}") from None
            if end >= len(self.text) - _LONGEST_TOKEN and self._more():  # a number, such as 1e-7, may go on
                continue
            self.position = end
            return value

    def _more(self) -> bool:
        """Reads on and forgets what has been parsed; False at the end of the file."""
        if self.ended:
            return False
        self._line_at(self.position)
        newline = self.text.rfind("\n", 0, self.position)
        self.start = (self.start if newline < 0 else newline + 1) - self.position
        rest = self.text[self.position :]
        # At least doubled: a record longer than a chunk is parsed a few times, not once a chunk.
        data = self.file.read(max(_CHUNK, len(rest)))
        try:
            added = self.decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._line_at(len(self.text)) + error.object.count(b"\n", 0, error.start)
            message = f"not a text file (a byte that is not UTF-8); a {self.what} was expected"
            raise DetectPruneError(message, file=self.path, line=line) from None
        self.text, self.position, self.counted, self.ended = rest + added, 0, 0, not data
        return True

    def _line_at(self, position: int) -> int:
        """Counts on from where it counted last, so that a file of a million records is counted through once."""
        self.lines += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.lines

    def _wrong(self, message: str) -> DetectPruneError:
        return DetectPruneError(message, file=self.path, line=self._line_at(self.position))

    def _broken(self, message: str, position: int, to_the_end: bool = False) -> DetectPruneError:
        """`to_the_end`: what is broken reaches from the position to the end of the file."""
        newline = self.text.rfind("\n", 0, position)
        column = position - (self.start if newline < 0 else newline + 1) + 1
        line = self._line_at(position)
        cut = ", the file may be cut off" if self.ended and (to_the_end or not self.text[position:].strip()) else ""
        return DetectPruneError(f"not valid json: {message} at column {column}{cut}", file=self.path, line=line)


def _without_outlines(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object without COCO's outlines, nine tenths of the file."""
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key "{next(key for key in keys if keys.count(key) > 1)}" stands twice in an object')
    record.pop("segmentation", None)
    return record
