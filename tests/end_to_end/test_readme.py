"""What README and docs/admm.md show in Python is run here, word for word."""

import importlib
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import write_coco

from detect_prune.darknet import write_weights
from detect_prune.tasks import build
from detect_prune.tasks.detector import load
from detect_prune.tasks.recipes import classification_recipe, detection_recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = [
    block
    for page in ("README.md", "docs/admm.md")
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
]


def shortened(recipe):
    """What is shown is that it runs; how well is measured elsewhere."""
    return recipe.with_options(**{phase: {"epochs": 2} for phase in ("dense", "admm", "retrain")})


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole_recipe = build.detection_recipe
    monkeypatch.setattr(build, "detection_recipe", lambda **kind: shortened(whole_recipe(**kind)))
    write_coco(tmp_path / "squares", pictures=2).rename(tmp_path / "mine.yaml")
    text = (tmp_path / "mine.yaml").read_text().replace("path: .", "path: squares")
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "weights").mkdir()
    write_weights(load("yolov4-tiny.cfg"), tmp_path / "weights/yolov4-tiny.weights")
    cv2.imwrite(str(tmp_path / "dog.jpg"), np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))


def test_four_ways_are_shown():
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("number", range(4))
def test_what_is_shown_works(number, here, capsys):
    exec(compile(BLOCKS[number], f"block {number}", "exec"), {})
    assert capsys.readouterr().out


def test_global_admm_takes_fewer_than_ten_lines_of_anyone_s_loop():
    lines = [line for line in BLOCKS[0].splitlines() if re.search(r"admm|ADMM|masks", line) and "print" not in line]
    assert len(lines) < 10


def test_the_lengths_that_are_told_are_the_recipes():
    def lengths(recipe):
        return recipe.dense.epochs, recipe.admm.epochs, recipe.retrain.epochs

    real, small, large = (detection_recipe(sample=a, large=b) for a, b in ((False, False), (True, False), (True, True)))
    fresh, trained = (classification_recipe("resnet56", pretrained=kind) for kind in (False, True))
    for name, told, recipes in (
        ("detector, real data", r"(\d+) \| (\d+) \| (\d+)", [real]),
        ("detector, built-in set", r"(\d+) \((\d+) .*?\) \| (\d+) \((\d+)\) \| (\d+) \((\d+)\)", [small, large]),
        ("LeNet-5", r"(\d+) \| (\d+) \| (\d+)", [classification_recipe("lenet5")]),
        ("ResNets", r"(\d+) \(.*: (\d+)\) \| ((\d+)) \| ((\d+))", [fresh, trained]),
    ):
        (row,) = re.findall(rf"^\| {name} \| {told} \|", README, re.MULTILINE)
        assert [int(number) for number in row] == [n for phase in zip(*map(lengths, recipes)) for n in phase], name


def test_every_command_that_is_shown_is_one():
    """Every word is an option or a value that the command's parser takes."""
    lines = re.findall(r"(?:python |detect-prune )((?:prune|train|val|detect|sweep|download)\b.*)", README)
    assert len(lines) >= 10
    for line in lines:
        command, *words = shlex.split(re.split(r"[`#]", line)[0].replace("...", "x"))
        parser = importlib.import_module(f"detect_prune.cli.{command.removesuffix('.py')}").build_parser()
        parser.parse_args(words)
