"""Aligned tables of plain text or Markdown, and one way to write each kind of number."""

import math
import unicodedata


def _scaled(value: float, units: tuple[str, ...], digits: int | None) -> str:
    """`value` in the first unit (steps of 1,000) where it rounds below 1,000; `digits` None: four significant ones."""
    for index, unit in enumerate(units):
        last = index == len(units) - 1
        if index == 0:
            text = f"{value:.0f}"
        elif digits is not None:
            text = f"{value:.{digits}f}"
        else:
            text = f"{value:.{max(0, 3 - int(math.log10(max(abs(value), 1))))}f}"
        if last or abs(float(text)) < 1000:
            return f"{text} {unit}".rstrip()
        value /= 1000
    raise AssertionError("the last unit always returns")


def count(number: int) -> str:
    """How many, to four digits: `64.43 M` weights, `430.5 k`, `812`, `3.457 G` multiply-accumulates."""
    return _scaled(number, ("", "k", "M", "G", "T"), None)


def size(number: int) -> str:
    """Bytes in decimal units, as disks are sold: `12.3 MB`."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"), 1)


def share(fraction: float) -> str:
    """A fraction as per cent: `20.0 %`, below a tenth `1.20 %`; a part never reads as all or nothing."""
    percent = 100 * fraction
    digits = 2 if 0 < percent < 10 else 1
    while digits < 6 and fraction not in (0, 1) and float(f"{percent:.{digits}f}") in (0, 100):
        digits += 1
    return f"{percent:.{digits}f} %"


def score(name: str, value: float | None) -> str:
    """A metric as its field writes it: AP and AR as a fraction of three digits, accuracies (`top-1`) as per cent."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3f}" if "AP" in name or name.startswith("AR") else f"{100 * value:.2f} %"


def _width(text: str) -> int:
    """Columns of a terminal that `text` takes: East Asian wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


class Table:
    """A small table: `str(table)` is aligned plain text, `.markdown()` the same for a README.

    Args:
        columns: the heads.
        left: so many columns from the left are aligned left, the others (numbers) right.
    """

    def __init__(self, columns: list[str], left: int = 1):
        self.columns = list(columns)
        self.rows: list[list[str]] = []
        self.left = left

    def row(self, *cells: object) -> "Table":
        """Adds a row and returns the table. A cell is shown as its `str`, None as an empty cell.

        Raises:
            ValueError: not as many cells as columns.
        """
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns")
        self.rows.append(["" if cell is None else str(cell) for cell in cells])
        return self

    def _aligned(self, lines: list[list[str]]) -> list[list[str]]:
        widths = [max(_width(line[index]) for line in lines) for index in range(len(self.columns))]
        aligned = []
        for line in lines:
            cells = []
            for index, (cell, width) in enumerate(zip(line, widths)):
                space = " " * (width - _width(cell))
                cells.append(cell + space if index < self.left else space + cell)
            aligned.append(cells)
        return aligned

    def __str__(self) -> str:
        head, *body = ["  ".join(line).rstrip() for line in self._aligned([self.columns, *self.rows])]
        rule = "-" * max(_width(line) for line in [head, *body])
        return "\n".join([head, rule, *body])

    def markdown(self) -> str:
        """The table in GitHub's Markdown; `|` inside a cell is escaped."""
        lines = [[cell.replace("|", "\\|") for cell in line] for line in [self.columns, *self.rows]]
        head, *body = ["| " + " | ".join(line) + " |" for line in self._aligned(lines)]
        rule = "|" + "|".join("---" if index < self.left else "---:" for index in range(len(self.columns))) + "|"
        return "\n".join([head, rule, *body])
