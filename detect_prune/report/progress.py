"""How far a long piece of work is: a bar on a terminal, plain lines in a log, and the time left of the whole job."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm import tqdm

_SHARE_BETWEEN_LINES = 0.10
_SECONDS_BETWEEN_LINES = 30.0
# A loop that ends within a second or two should leave two lines in a log, not eleven.
_FEWEST_SECONDS_BETWEEN_LINES = 1.0
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}, {rate_fmt}]"
"""tqdm's own, but for the speed, which stands last: a narrow terminal cuts the end off."""


def duration(seconds: float) -> str:
    """A length of time as people say it: `8 s`, `4 min`, `1 h 20 min`, `2 d 3 h`."""
    if seconds < 99.5:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def _texts(figures: dict[str, float | str]) -> list[str]:
    return [f"{name} {value if isinstance(value, str) else f'{value:.4g}'}" for name, value in figures.items()]


class Progress:
    """Shows the progress of one loop; a context manager.

    On a terminal it is a tqdm bar with the latest figures and the time left. Anywhere else (a pipe, a file, a CI log)
    it prints whole lines: the first step, then one about every tenth of the way or every 30 seconds, and the last.

        with Progress(len(batches), "dense") as progress:
            for batch in batches:
                ...
                progress.step(loss=loss)

    Args:
        total: steps of the whole loop, those done before a resume included; None where nobody knows.
        description: what is being done, in a word or two.
        initial: steps that are already done (a resumed run).
        of_bytes: a step is a byte, and they are shown as megabytes.
        stream: where to; standard output unless given.
        timeline: if given, each step also advances it and the time left of the whole job is shown.
    """

    def __init__(
        self,
        total: int | None,
        description: str,
        initial: int = 0,
        of_bytes: bool = False,
        stream: TextIO | None = None,
        timeline: "Timeline | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total = total
        self.description = description
        self.done = initial
        self._initial = initial
        self._of_bytes = of_bytes
        self._stream = sys.stdout if stream is None else stream
        self._timeline = timeline
        self._clock = clock
        self._figures: dict[str, float | str] = {}
        self._bar: tqdm | None = None
        self._printed_done = -1

    def __enter__(self) -> "Progress":
        self._began = self._printed_at = self._clock()
        if self._stream.isatty():
            self._bar = tqdm(
                total=self.total,
                initial=self.done,
                desc=self.description,
                file=self._stream,
                dynamic_ncols=True,
                bar_format=None if self.total is None else _BAR,
                unit="B" if self._of_bytes else "step",
                unit_scale=self._of_bytes,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._printed_done != self.done:
            self._print_line()

    def step(self, **figures: float | str) -> None:
        """One more step is done; `figures` (numbers, or text shown as it is) replace those of the same name."""
        self.advance(1, **figures)

    def advance(self, steps: int, **figures: float | str) -> None:
        """So many more steps are done."""
        self.done += steps
        if self.total is not None and self.done > self.total:  # what it was told was wrong
            self.total = None
            if self._bar is not None:
                self._bar.total = self._bar.bar_format = None
        self._figures.update(figures)
        if self._timeline is not None:
            self._timeline.advance(steps)
        if self._bar is not None:
            texts = _texts(self._figures)
            if self._timeline is not None:
                texts.insert(1, f"whole job {self._timeline.text()}")  # the loss comes first
            self._bar.set_postfix_str(", ".join(texts), refresh=False)
            self._bar.update(steps)
        elif self._line_is_due():
            self._print_line()

    def write(self, line: str) -> None:
        """Prints a line of its own without tearing the bar."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def _line_is_due(self) -> bool:
        if self._printed_done < 0 or self.done == self.total:
            return True
        waited = self._clock() - self._printed_at
        advanced = (self.done - self._printed_done) / max(self.total, 1) if self.total is not None else 0.0
        return waited >= _SECONDS_BETWEEN_LINES or (
            advanced >= _SHARE_BETWEEN_LINES and waited >= _FEWEST_SECONDS_BETWEEN_LINES
        )

    def _print_line(self) -> None:
        now = self._clock()
        elapsed = now - self._began
        parts = [f"{self.description}: {self._how_far()}"]
        parts += _texts(self._figures)
        if self.total is None:
            parts.append(f"{duration(elapsed)} gone")
        elif self.done >= self.total:
            parts.append(f"took {duration(elapsed)}")
        elif self.done > self._initial:
            left = elapsed / (self.done - self._initial) * (self.total - self.done)
            parts.append(f"{duration(elapsed)} gone, about {duration(left)} left")
        if self._timeline is not None and not self._timeline.finished:
            parts.append(f"whole job {self._timeline.text()}")
        print(", ".join(parts), file=self._stream, flush=True)
        self._printed_at, self._printed_done = now, self.done

    def _how_far(self) -> str:
        """The share that is done, and the count: `50 % (5/10)`, `50 % (2.5/5.0 MB)`, or `5 done`."""
        done, total = self.done, self.total
        if self._of_bytes:
            count = f"{done / 1e6:.1f} MB" if total is None else f"{done / 1e6:.1f}/{total / 1e6:.1f} MB"
        else:
            count = f"{done}" if total is None else f"{done}/{total}"
        if total is None:
            return f"{count} done"
        # Rounded down, so that a line says 100 % only when the loop is done.
        return f"{math.floor(100 * done / total) if total else 100:3d} % ({count})"


class Timeline:
    """Estimates the time left of a whole job from the speed of what is already done.

    A phase that has been measured in this process goes on at its own speed. A step of one that has not is taken to cost
    as much as the mean one so far.

    Args:
        phases: the steps of each phase by its name, in the order in which they run.
    """

    def __init__(self, phases: Mapping[str, int], clock: Callable[[], float] = time.monotonic):
        self._phases = dict(phases)
        self._clock = clock
        self._done = dict.fromkeys(self._phases, 0)
        self._measured = dict.fromkeys(self._phases, 0)
        self._seconds = dict.fromkeys(self._phases, 0.0)
        self._current: str | None = None
        self._since = 0.0

    def begin(self, name: str, done: int = 0) -> None:
        """Phase `name` begins, `done` of its units being done already; all phases before it count as finished."""
        if name not in self._phases:
            raise ValueError(f"no phase {name!r}; this timeline has {', '.join(self._phases)}")
        for earlier, steps in self._phases.items():
            if earlier == name:
                break
            self._done[earlier] = steps
        self._done[name] = done
        self._current = name
        self._since = self._clock()

    def advance(self, steps: int = 1) -> None:
        """`steps` more units of the current phase are done."""
        if self._current is None:
            raise ValueError("begin a phase before advancing in it")
        now = self._clock()
        self._seconds[self._current] += now - self._since
        self._since = now
        self._done[self._current] += steps
        self._measured[self._current] += steps

    @property
    def finished(self) -> bool:
        return all(self._done[name] >= steps for name, steps in self._phases.items())

    def seconds_left(self) -> float | None:
        """The estimate in seconds; None while nothing has been measured."""
        if self.finished:
            return 0.0
        all_measured = sum(self._measured.values())
        if not all_measured:
            return None
        mean = sum(self._seconds.values()) / all_measured
        left = 0.0
        for name, steps in self._phases.items():
            measured = self._measured[name]
            per_step = self._seconds[name] / measured if measured else mean
            left += per_step * max(steps - self._done[name], 0)
        return left

    def text(self) -> str:
        """The estimate for people: `about 4 min left`."""
        seconds = self.seconds_left()
        return "time left not known yet" if seconds is None else f"about {duration(seconds)} left"
