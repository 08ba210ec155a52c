"""Mutated files, each repeatable from its number, and the check that what comes of them is a plain sentence.

A case that fails says its kind and number; `mutate_text(case(kind, number), text)` makes the same file again.
"""

import contextlib
import random
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from detect_prune.errors import DetectPruneError

SECONDS = 5
"""A case that takes longer hangs: a usual one takes a few milliseconds."""
SPARE_MEMORY = 600_000_000
"""Bytes that a case may take beyond what the process has: its files are of a few kilobytes."""

NUMBERS = ("-1", "0", "nan", "inf", "1e400", "-1e999", "9" * 30, "9" * 5000, "1_0", "0x10", "١", "1.5", "1,5", "")
WORDS = (
    *NUMBERS,
    "\0",
    "\ufeff",
    "\\",
    "../..",
    "/dev/zero",
    "~",
    "<",
    "&lt;",
    "&a;",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ":",
)
WORDS += ("=", "#", "%", "*a", "&a", "!!python/object:os.system", "<<", "---", "\t", "\r", "\x0c", "ä", "😀", "x" * 300)

SIZES = (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\xea\x60\0\0\xea\x60", b"\0" * 8)


def case(kind: str, number: int) -> random.Random:
    """The generator of one case."""
    return random.Random(f"{kind} {number}")


def mutate_text(rng: random.Random, text: str) -> tuple[bytes, set[int]]:
    """A damaged copy, and the lines of it that differ or stand where something was taken away."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    line, column = lines[at], rng.randrange(len(lines[at]) + 1)
    kind = rng.randrange(10)
    touched = {at + 1}
    if kind == 0:  # cut off
        lines = [*lines[:at], line[:column]]
    elif kind == 1:
        del lines[at]
        touched = {at, at + 1}
    elif kind == 2:
        lines.insert(at, rng.choice(lines))
    elif kind == 3:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
        touched.add(other + 1)
    elif kind == 4:
        lines[at] = line[:column] + line[column + rng.randrange(1, 6) :]
    elif kind == 5:
        lines[at] = line[:column] + line[column : column + 3] * rng.randrange(2, 2000) + line[column + 3 :]
    elif kind == 6:  # a whole word becomes another
        words = line.split(" ")
        words[rng.randrange(len(words))] = rng.choice(WORDS)
        lines[at] = " ".join(words)
    else:
        lines[at] = line[:column] + rng.choice(WORDS) + line[column:]
    data = "\n".join(lines).encode()
    if kind == 9 and data:  # a byte that is no text
        place = rng.randrange(len(data))
        data = data[:place] + bytes([rng.randrange(128, 256)]) + data[place:]
        touched.add(data.count(b"\n", 0, place) + 1)
    return data, touched


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """A damaged copy: bytes changed, cut off, taken out, put in, or set to what sizes are afraid of."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(damaged)) if rng.random() < 0.5 else rng.randrange(min(64, len(damaged)))
        kind = rng.randrange(6)
        if kind == 0:
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[at] = rng.randrange(256)
        elif kind == 2:
            hostile = rng.choice(SIZES)
            damaged[at : at + len(hostile)] = hostile
        elif kind == 3:
            del damaged[at : at + rng.randrange(1, 20)]
        elif kind == 4:
            damaged[at:at] = rng.randbytes(rng.randrange(1, 20))
        else:
            del damaged[max(at, 1) :]
        damaged = damaged or bytearray(b"\0")
    return bytes(damaged)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Within it a case that wants a lot of memory gets a MemoryError."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + SPARE_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _too_long(*_) -> None:
    raise TimeoutError(f"it takes longer than {SECONDS} s")


def outcome(kind: str, number: int, act: Callable[[], object]) -> DetectPruneError | None:
    """Runs one case: None if the file was read, or the error, which has to be ours and has to name a file."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        act()
    except DetectPruneError as error:
        found = error
    except Exception as error:
        # Whatever it is, it is the finding: passed on with what is needed to see it again.
        error.add_note(f"case({kind!r}, {number})")
        raise
    else:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if found.file is None or str(found.file) not in str(found):
        pytest.fail(f"case({kind!r}, {number}): the message names no file: {found}")
    if "allocate" in str(found):
        pytest.fail(f"case({kind!r}, {number}): it asked for a lot of memory: {found}")
    return found
