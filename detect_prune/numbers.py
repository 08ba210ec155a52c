"""Numbers in text: told in words, and read strictly (Python's int() also takes 1_000 and the digits of all scripts)."""

import math
import re

# No two parts may match the same digits: on a long row of them that would be tried in all ways.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def parse_number(text: str) -> float:
    """The number that `text` is; NaN if it is none, so that no comparison with a limit holds."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def parse_whole(text: str) -> int | None:
    """The whole number that `text` is (of 18 digits at most), or None."""
    return int(text) if _WHOLE.fullmatch(text) else None


def counted(count: int, one: str, many: str | None = None) -> str:
    """1 picture, 1,500 pictures; 2 boxes."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
