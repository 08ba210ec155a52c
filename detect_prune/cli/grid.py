"""Which networks a sweep has: methods, ratios and seeds."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from detect_prune.cli.choices import KEEPING, METHODS
from detect_prune.cli.options import seed_number

MOST_RATIOS = 1000


def parse_ratios(text: str) -> list[str]:
    """`0.5,0.9` or `0.1:0.9:0.1` (first:last:step, the last included) or both: decimals, so that nothing drifts.

    Raises:
        ValueError: says what was expected.
    """
    ratios: list[Decimal] = []
    for part in text.split(","):
        numbers = part.split(":")
        try:
            first, last, step = (Decimal(number) for number in (numbers if len(numbers) == 3 else [part, part, "1"]))
        except InvalidOperation:
            raise ValueError(f"'{part}' is no ratio and no range first:last:step, such as 0.1:0.9:0.1") from None
        if not all(number.is_finite() for number in (first, last, step)) or not (0 < first <= last < 1 and step > 0):
            raise ValueError(f"'{part}' has to lie above 0 and below 1, and to rise by a step above 0")
        # Asked before dividing by a step that may be as good as nothing.
        if last > first and (last - first) / MOST_RATIOS >= step:
            raise ValueError(f"'{part}' has too many ratios; a sweep has at most {MOST_RATIOS:,}")
        count = int((last - first) / step) + 1
        ratios += [first + step * number for number in range(count)]
    if len(set(ratios)) < len(ratios):
        raise ValueError(f"'{text}' has a ratio twice")
    return [format(ratio.normalize(), "f") for ratio in ratios]


def parse_methods(text: str) -> list[str]:
    """`admm,gradual`. Raises ValueError for a method that there is not, or that is there twice."""
    methods = [method.strip() for method in text.split(",")]
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"'{method}' is none of {', '.join(METHODS)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"'{text}' has a method twice")
    return methods


def parse_seeds(text: str) -> list[int]:
    """`0,1,2`. Raises ValueError for what is no seed, or is there twice."""
    try:
        seeds = [seed_number(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"'{text}' has a seed twice")
    return seeds


@dataclass(frozen=True)
class Point:
    """One network of a sweep."""

    method: str
    ratio: str | None
    seed: int

    @property
    def name(self) -> str:
        """Of its run; dense-sN is that of the training that all begin with."""
        method = "dense-scored" if self.method == "dense" else self.method
        return "-".join(part for part in (method, self.ratio, f"s{self.seed}") if part is not None)


@dataclass(frozen=True)
class Grid:
    """All networks of a sweep."""

    methods: list[str]
    ratios: list[str]
    seeds: list[int]

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Grid":
        """What the options ask for."""
        ratios = [] if args.ratios is None else parse_ratios(args.ratios)
        return cls(parse_methods(args.methods or "admm"), ratios, parse_seeds(args.seeds or "0"))

    @property
    def removes(self) -> bool:
        """Whether any of the methods does: then there have to be ratios."""
        return not set(self.methods) <= set(KEEPING)

    def ratios_of(self, method: str) -> list[str] | list[None]:
        """Those at which this method is run."""
        return [None] if method in KEEPING else self.ratios

    def points(self) -> Iterator[Point]:
        """Seed by seed, so that a sweep that is stopped leaves whole curves."""
        for seed in self.seeds:
            for method in self.methods:
                for ratio in self.ratios_of(method):
                    yield Point(method, ratio, seed)
