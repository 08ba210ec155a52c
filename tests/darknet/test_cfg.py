"""The text of a cfg: what is read, what is kept, and what is refused on which line."""

import random
import warnings

import pytest

from detect_prune.darknet import CfgWarning, load_cfg, parse_cfg, save_cfg
from detect_prune.darknet.keys import ALIASES, KEYS, Kind
from detect_prune.darknet.section import convert
from detect_prune.errors import DetectPruneError

TEXT = """# a comment
[network]
width = 416
  height=320   # behind a value
letter_box=1

[conv]
filters=32\r
activation = leaky
; another comment
[route]
layers = -1, 0
"""


def test_sections_options_and_lines():
    cfg = parse_cfg(TEXT, "x.cfg")
    assert (cfg.net.name, cfg.net.line, cfg.net.line_of("height")) == ("net", 2, 4)
    assert [(s.name, s.line) for s in cfg.layers] == [("convolutional", 7), ("route", 11)]
    assert cfg.layers[0].int("filters") == 32
    assert cfg.layers[0].str("activation") == "leaky"
    assert cfg.layers[1].ints("layers") == (-1, 0)
    assert cfg.input_size == (416, 320)
    assert cfg.letter_box
    assert cfg.layers[0].line_of("groups") == 7  # not written: the section's own


def test_getters_have_defaults_ranges_and_choices():
    section = parse_cfg("[net]\nwidth=5\nlearning_rate=1e-3\npolicy=steps\nscales=.1,.1\n").net
    assert section.int("height", 7) == 7
    assert section.float("learning_rate") == 1e-3
    assert convert(section, section.option("scales"), Kind.FLOATS) == (0.1, 0.1)
    for wrong, line in (
        (lambda: section.int("width", low=6), 2),
        (lambda: section.int("width", high=4), 2),
        (lambda: section.float("learning_rate", low=0.5, high=1), 3),
        (lambda: section.str("policy", choices=("sgdr", "constant")), 4),
        (lambda: section.int("batch"), 1),
    ):
        with pytest.raises(DetectPruneError) as caught:
            wrong()
        assert caught.value.line == line


def test_text_parses_to_the_same_cfg():
    cfg = parse_cfg(TEXT)
    assert parse_cfg(cfg.text()) == cfg
    assert parse_cfg(cfg.text()).text() == cfg.text()


def random_text(generator: random.Random) -> str:
    """A cfg of random sections with known and unknown keys, right and wrong values, comments and odd characters."""
    alphabet = "abz_=[]#; \t\r,.-19é\x00\x0b\x85\u2028\ufeff"

    def junk():
        return "".join(generator.choices(alphabet, k=generator.randint(1, 6)))

    lines = [generator.choice(["[net]", "[network] # it", "\ufeff[net]"])]
    for _ in range(generator.randrange(8)):
        name = generator.choice([*KEYS, *ALIASES][1:])
        keys = [*KEYS[ALIASES.get(name, name)], "unknown"]
        value = generator.choice(["1", " -2 ", ".5", "1,2", "1, 2,3,4", "leaky", "1 # why", junk()])
        lines.append(generator.choice([f"[{name}]", f"{generator.choice(keys)} = {value}", f"x{junk()}={junk()}", ""]))
    return generator.choice(["\n", "\r\n", "\r"]).join(lines)


def test_text_parses_to_the_same_cfg_whatever_is_in_it(tmp_path):
    generator = random.Random(0)
    read = 0
    for case in range(1500):
        text = random_text(generator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CfgWarning)
            try:
                cfg = parse_cfg(text)
            except DetectPruneError:
                continue
            assert parse_cfg(cfg.text()) == cfg, repr(text)
            if case % 10 == 0:
                save_cfg(cfg, tmp_path / "a.cfg")
                assert load_cfg(tmp_path / "a.cfg") == cfg, repr(text)
            read += 1
    assert read > 300


def test_unknown_keys_are_kept_written_back_and_warned_of_once():
    with pytest.warns(CfgWarning) as caught:
        cfg = parse_cfg("[net]\nwidth=32\nfancy=on\n[convolutional]\nfliters=3\n", "x.cfg")
    (warning,) = caught
    for part in ("x.cfg", "line 3", "'fancy'", "line 5", "'fliters'", "filters"):
        assert part in str(warning.message)
    assert "fancy=on\n" in cfg.text()
    with pytest.warns(CfgWarning):
        assert parse_cfg(cfg.text()) == cfg


def test_a_second_net_option_does_not_count_but_is_kept():
    with pytest.warns(CfgWarning, match="line 3: 'batch' stands twice, line 2 counts"):
        cfg = parse_cfg("[net]\nbatch=1\nbatch=64\n")
    assert cfg.net.int("batch") == 1
    assert "batch=64" in cfg.text()


def test_anchors_without_a_comma_between_two_are_two():
    with pytest.warns(CfgWarning, match="line 3: a comma is missing in anchors"):
        cfg = parse_cfg("[net]\n[yolo]\nanchors = 1,2, 61,45    61,45\n")
    assert cfg.layers[0].pairs("anchors") == ((1, 2), (61, 45), (61, 45))


def test_a_key_in_many_sections_is_warned_of_once():
    with pytest.warns(CfgWarning) as caught:
        parse_cfg("[net]\n" + "[convolutional]\nfilters=3\nfancy=1\n" * 40 + "[route]\nlayers=0\nfancy=1\n")
    (warning,) = caught
    assert str(warning.message) == (
        "cfg: line 4: nothing here reads 'fancy' of a [convolutional] and on 39 other lines; "
        "line 124: nothing here reads 'fancy' of a [route]"
    )


def test_of_a_training_key_that_stands_twice_the_first_counts():
    with pytest.warns(CfgWarning, match="line 5: 'jitter' stands twice, line 4 counts"):
        cfg = parse_cfg("[net]\n[yolo]\nclasses=2\njitter=.1\njitter=.3\n")
    assert cfg.layers[0].float("jitter") == 0.1


@pytest.mark.parametrize(
    "text, line, what",
    [
        ("", None, "empty"),
        ("# only a comment\n", None, "empty"),
        ("width=3\n[net]\n", 1, "before the first section"),
        ("[convolutional]\nfilters=1\n", 1, "expected [net]"),
        ("[net]\n\n[net]\n", 3, "second [net]"),
        ("[net]\n[convolutionl]\n", 2, "is convolutional meant?"),
        ("[net]\n[route\n", 2, "section header"),
        ("[net]\n[Gaussian_yolo]\n", 2, "not supported"),
        ("[net]\n[crnn]\n", 2, "not supported"),
        ("[net]\n[contrastive]\n", 2, "not supported"),
        ("[net]\n[region]\n", 2, "not supported"),
        ("[net]\nwidth 416\n", 2, "neither"),
        ("[net]\nwidth=\n", 2, "neither"),
        ("[net]\n# \x0c# a form feed and \u2028# are no line ends\nwidth=\n", 3, "neither"),
        ("[net]\n=416\n", 2, "neither"),
        ("[net]\nwidth=4l6\n", 2, "'4l6' is not a whole number"),
        ("[net]\nwidth=416.0\n", 2, "not a whole number"),
        ("[net]\nwidth=" + "9" * 5000 + "\n", 2, "not a whole number"),
        ("[net]\nwidth=1_000\n", 2, "not a whole number"),
        ("[net]\nwidth=４１６\n", 2, "not a whole number"),
        ("[net]\nmomentum=nan\n", 2, "not a number"),
        ("[net]\nmomentum=1e999\n", 2, "not a number"),
        ("[net]\nsteps=100,,200\n", 2, "'' is not a whole number"),
        ("[net]\n[route]\nlayers=-1 61\n", 3, "'-1 61' is not a whole number"),
        ("[net]\n[yolo]\nclasses=2\nanchors=1,2,3\n", 4, "3 numbers"),
        ("[net]\n[yolo]\nanchors=1,2,x,4\n", 3, "'x' is not a number"),
        ("[net]\n[convolutional]\nfilters=1\nsize=3\nfilters=2\n", 5, "line 3 of the same"),
    ],
)
def test_refused(text, line, what):
    with pytest.raises(DetectPruneError) as caught:
        parse_cfg(text, "bad.cfg")
    assert caught.value.line == line
    assert what in str(caught.value)
    assert str(caught.value).startswith("bad.cfg:")
    assert len(str(caught.value)) < 300


def test_files(tmp_path):
    cfg = parse_cfg(TEXT)
    save_cfg(cfg, tmp_path / "new" / "a.cfg")
    again = load_cfg(tmp_path / "new" / "a.cfg")
    assert again == cfg and again.path == tmp_path / "new" / "a.cfg"
    with pytest.raises(DetectPruneError, match=r"missing\.cfg: no such file; a Darknet cfg was expected"):
        load_cfg(tmp_path / "missing.cfg")
    (tmp_path / "binary.cfg").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DetectPruneError, match="not a text file"):
        load_cfg(tmp_path / "binary.cfg")


def test_a_comment_may_be_in_any_encoding_and_nothing_else(tmp_path):
    file = tmp_path / "a.cfg"
    file.write_bytes(b"[net]\n# Gr\xf6\xdfe\nwidth=64 ; \xc4\nheight=64\n")
    assert load_cfg(file).input_size == (64, 64)
    file.write_bytes(b"[net]\nwidth=64\nh\xf6he=64\n")
    with pytest.raises(DetectPruneError, match=r"a\.cfg:3: not a text file"):
        load_cfg(file)


def test_another_input_size_leaves_the_cfg_as_it_was():
    cfg = parse_cfg(TEXT)
    assert cfg.with_input_size(96, 64).input_size == (96, 64)
    assert cfg.input_size == (416, 320)
    assert "width=96\nheight=64\n" in cfg.with_input_size(96, 64).text()


@pytest.mark.parametrize("width", [0, -416, 10**9])
def test_absurd_input_sizes_are_refused(width):
    with pytest.raises(DetectPruneError, match=r":2: width=.*out of range"):
        _ = parse_cfg(f"[net]\nwidth={width}\nheight=32\n", "x.cfg").input_size
