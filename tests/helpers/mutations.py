"""Ways to damage a cfg or a weights file, each drawn from a seeded generator."""

import random

from fuzz import mutate_text

EXTREMES = (
    *("0", "-1", "1", "2", "3", "7", "65536", "1000000000", "-1000000000", "99999999999999999999", "9" * 400, "1e400"),
    *("nan", "inf", "-inf", "0x10", "1_000", "1.5", ".5", "1,2", "-1,-1,-1", "0," * 300 + "0", "1," * 5000 + "1", ","),
    *("\u0661\u0662", "\u00b2", "416 416", "yes", "-", "+", "--1", "1e", "", "1" * 20_000 + "x", "mish", "linear", "]"),
)

# For the keys that name layers.
REFERENCES = ("-1000000000", "1000000000", "-2", "-3", "-9", "-40", "9", "40", "-1,9", "-400,-1", "-1,-2,-3,-4,-5,-6")

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


def mutate_cfg(rng: random.Random, text: str) -> tuple[bytes, int]:
    """(damaged file, line counted from 1 on which the damage begins)."""
    kind = rng.randrange(10)
    if kind < 4:
        data, touched = mutate_text(rng, text)
        return data, min(touched)
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    if kind == 4:
        mark = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\x00"))
        return mark + text.encode(), 1
    if kind == 5:
        return rng.choice(("\r\n", "\r", "\n\r", "\x0b", " ")).join(lines).encode(), 1
    if kind == 6:
        stray = rng.choice(STRAYS)
        lines[at:at] = [stray] * (rng.choice((1, 1, 1, 2, 600)) if len(stray) < 100 else 1)
    elif kind == 7:
        # Several sections that belong together, many times over.
        lines[at:at] = lines[at : at + rng.randrange(1, 30)] * rng.choice((1, 2, 60))
    else:
        # By key and then by line: most lines say activation= or filters=.
        keyed = [(line.split("=")[0].strip(), number) for number, line in enumerate(lines) if "=" in line]
        key = rng.choice(sorted({key for key, _ in keyed}))
        at = rng.choice([number for name, number in keyed if name == key])
        values = REFERENCES if key in ("layers", "from") and rng.random() < 0.8 else EXTREMES
        lines[at] = f"{key}={rng.choice(values)}"
    return "\n".join(lines).encode(), at + 1


def mutate_floats(rng: random.Random, data: bytes) -> bytes:
    """A damaged weights file: cut, lengthened, with other bits, or with a run of other bytes."""
    kind = rng.randrange(6)
    at = rng.choice((rng.randrange(20), rng.randrange(len(data))))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data + rng.randbytes(rng.choice((1, 2, 3, 4, 8, 400, 100_000)))
    if kind == 2:
        return data[: len(data) - 4 * rng.choice((1, 2, 10))]
    damaged = bytearray(data)
    if kind == 3:
        damaged[at] ^= 1 << rng.randrange(8)
    elif kind == 4:
        run = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\xff\xff", b"\x00\x00\x80\xbf"))
        at -= at % 4
        damaged[at : at + 4] = run
    else:
        del damaged[at : at + rng.choice((1, 4, 64))]
    return bytes(damaged)
