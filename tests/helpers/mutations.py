"""Ways to damage a text file or a weights file, each drawn from a seeded generator.

`mutate_text` also says on which line the damage begins, for tests that look at the line an error names.
"""

import random

EXTREMES = (
    *("0", "-1", "1", "2", "3", "7", "65536", "1000000000", "-1000000000", "99999999999999999999", "9" * 400, "1e400"),
    *("nan", "inf", "-inf", "0x10", "1_000", "1.5", ".5", "1,2", "-1,-1,-1", "0," * 300 + "0", "1," * 5000 + "1", ","),
    *("\u0661\u0662", "\u00b2", "416 416", "yes", "-", "+", "--1", "1e", "", "1" * 20_000 + "x", "mish", "linear", "]"),
)

# Pieces of text that belong somewhere else, or nowhere.
STRAYS = (
    *(
        "[net]",
        "[yolo]",
        "[convolutional]",
        "[route]",
        "[shortcut]",
        "[region]",
        "[crnn]",
        "[",
        "]",
        "[]",
        "[upsample]",
    ),
    *("layers=-1,-400", "from=-1", "from=100000", "filters=1000000000", "size=1000000000", "stride=255", "groups=3"),
    *(
        "groups=2",
        "group_id=7",
        "antialiasing=1",
        "dilation=200",
        "padding=255",
        "xnor=1",
        "share_index=-2",
        "classes=9",
    ),
    *("mask=0,1,2,3", "anchors=1,2,3", "num=1000000000", "activation=swish", "activation=stair", "=", "=1", "a", "a="),
    *("width=1000000000", "height=33", "channels=1", "scale=1e38", "weights_type=per_channel", "maxpool_depth=1"),
    *(
        "out_channels=1000000000",
        "stride_x=9",
        "stride_y=-9",
        "reverse=1",
        "stride=64",
        "probability=2",
        "\x00",
        "\ufeff",
    ),
    *("cbn=1", "x" * 100_000, "x" * 100_000 + "=1", "k=" + "v" * 100_000, "\x0b\x0c\x1c\x85\u2028", "\x1b[31m=\x1b[0m"),
)


def mutate_text(text: str, generator: random.Random) -> tuple[bytes, int]:
    """(damaged file, line counted from 1 on which the damage begins)."""
    lines = text.split("\n")
    at = generator.randrange(len(lines))
    kind = generator.randrange(16)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, generator.choice(lines))
    elif kind == 2:
        other = generator.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
        at = min(at, other)
    elif kind == 3:
        lines = lines[:at]
    elif kind == 4:
        lines[at] = "".join(generator.sample(lines[at], len(lines[at])))
    elif kind == 5:
        stray = generator.choice(STRAYS)
        lines[at:at] = [stray] * (generator.choice((1, 1, 1, 2, 600)) if len(stray) < 100 else 1)
    elif kind == 6:
        return _flip_bytes("\n".join(lines).encode(), generator)
    elif kind == 7:
        return generator.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\x00")) + "\n".join(lines).encode(), 1
    elif kind == 8:
        return generator.choice(("\r\n", "\r", "\n\r", "\x0b", " ")).join(lines).encode(), 1
    elif kind == 9:
        # Several sections that belong together, many times over.
        lines[at:at] = lines[at : at + generator.randrange(1, 30)] * generator.choice((1, 2, 60))
    else:
        # Half of all: a number or a word that does not fit.
        keyed = [number for number, line in enumerate(lines) if "=" in line]
        at = generator.choice(keyed)
        key = lines[at].split("=")[0]
        lines[at] = f"{key}={generator.choice(EXTREMES)}"
    return "\n".join(lines).encode(), at + 1


def _flip_bytes(data: bytes, generator: random.Random) -> tuple[bytes, int]:
    damaged = bytearray(data)
    places = [generator.randrange(len(data)) for _ in range(generator.choice((1, 1, 2, 5)))]
    for place in places:
        damaged[place] = generator.randrange(256)
    return bytes(damaged), data[: min(places)].count(b"\n") + 1


def mutate_floats(data: bytes, generator: random.Random) -> bytes:
    """A damaged weights file: cut, lengthened, with other bits, or with a run of other bytes."""
    kind = generator.randrange(6)
    at = generator.choice((generator.randrange(20), generator.randrange(len(data))))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data + generator.randbytes(generator.choice((1, 2, 3, 4, 8, 400, 100_000)))
    if kind == 2:
        return data[: len(data) - 4 * generator.choice((1, 2, 10))]
    damaged = bytearray(data)
    if kind == 3:
        damaged[at] ^= 1 << generator.randrange(8)
    elif kind == 4:
        run = generator.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\xff\xff", b"\x00\x00\x80\xbf"))
        at -= at % 4
        damaged[at : at + 4] = run
    else:
        del damaged[at : at + generator.choice((1, 4, 64))]
    return bytes(damaged)
