"""`val` from its options to what it prints and writes."""

import json
import re

import numpy as np
import pytest
from tiny import TINY_CFG, write_coco

from detect_prune.cli.main import main
from detect_prune.darknet import write_weights
from detect_prune.datasets import load_data
from detect_prune.tasks import scoring
from detect_prune.tasks.detector import load

COCO = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A network of two classes that finds something everywhere, and pictures with boxes of two classes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.cfg").write_text(TINY_CFG)
    model = load("tiny.cfg")
    head = model.layers[2].conv.bias.data.view(2, 7)
    head[:, 4:] = 0.5
    write_weights(model, "tiny.weights")
    write_coco(tmp_path / "squares", classes=2)
    (tmp_path / "a.json").write_text('{"images": []}')
    return tmp_path


def val(here, capsys, *options, data="squares/tiny.yaml") -> tuple[str, dict]:
    assert main(["val", "--cfg", "tiny.cfg", "--data", str(data), "--json", "scores.json", *options]) == 0
    return capsys.readouterr().out, json.loads((here / "scores.json").read_text())


def test_coco_is_the_default_and_its_numbers_stand_at_the_top_level(here, capsys):
    text, values = val(here, capsys)
    assert [name for name in values if name in COCO] == COCO
    assert {row["name"] for row in values["classes"]} == {"red", "green"} and values["pictures"] == 8
    assert values["protocol"]["name"] == "coco" and values["protocol"]["resize"] == "opencv"
    assert "COCO's AP over IoU .50:.95 on 8 pictures" in text and f"AP50 {values['AP50']:.3f}" in text


def test_darknet_map_prints_darknets_lines_and_writes_the_same(here, capsys):
    text, values = val(here, capsys, "--protocol", "darknet-map")
    rows = re.findall(r"class_id = (\d), name = (\w+), ap = ([\d.]+)%   \t \(TP = (\d+), FP = (\d+)\)", text)
    assert [(int(tp), int(fp)) for _, _, _, tp, fp in rows] == [(row["TP"], row["FP"]) for row in values["classes"]]
    assert [float(ap) for _, _, ap, _, _ in rows] == [round(100 * row["AP"], 2) for row in values["classes"]]
    assert f"mean average precision (mAP@0.50) = {values['mAP']:.6f}" in text
    assert values["mAP"] == pytest.approx(np.mean([row["AP"] for row in values["classes"]]))
    assert values["TP"] + values["FN"] == values["truths"] > 0 < values["detections"]
    assert values["protocol"]["resize"] == "darknet" and values["protocol"]["score_threshold"] == 0.005


def test_darknet_valid_has_cocos_numbers(here, capsys):
    _, values = val(here, capsys, "--protocol", "darknet-valid")
    assert [name for name in values if name in COCO] == COCO
    assert values["protocol"]["resize"] == "darknet" and values["protocol"]["unit"] == "pixel"


def test_options_go_before_the_protocol(here, capsys):
    _, values = val(
        here,
        capsys,
        "--protocol",
        "darknet-map",
        "--resize",
        "opencv",
        "--score",
        ".3",
        "--nms-iou",
        ".7",
        "--letterbox",
    )
    used = values["protocol"]
    assert (used["resize"], used["score_threshold"], used["iou_threshold"], used["letterbox"]) == (
        "opencv",
        0.3,
        0.7,
        True,
    )
    plain = val(here, capsys, "--protocol", "darknet-map")[1]
    assert values["detections"] != plain["detections"] and not plain["protocol"]["letterbox"]


def test_ways_to_take_ap(here, capsys):
    for ap, words in (
        ("area", "Area-Under-Curve"),
        ("11-point", "11 Recall-points"),
        ("101-point", "101 Recall-points"),
    ):
        text, values = val(here, capsys, "--protocol", "darknet-map", "--ap", ap)
        assert f"used {words}" in text and values["ap"] == ap


@pytest.fixture
def voc(here):
    """The same squares as VOC has them, every other one difficult."""
    folder = here / "voc"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    data = load_data(here / "squares/tiny.yaml", splits=("val",))
    for truth in data.val:
        (folder / f"JPEGImages/{truth.path.stem}.jpg").write_bytes(truth.path.read_bytes())
        sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), (truth.boxes[0] + 1).astype(int)))
        box = "".join(f"<{name}>{side}</{name}>" for name, side in sides.items())
        (folder / f"Annotations/{truth.path.stem}.xml").write_text(
            f"<annotation><size><width>{truth.width}</width><height>{truth.height}</height></size><object>"
            f"<name>{data.names[truth.labels[0]]}</name><difficult>{truth.image_id % 2}</difficult>"
            f"<bndbox>{box}</bndbox></object></annotation>"
        )
    (folder / "ImageSets/Main/val.txt").write_text("".join(f"{truth.path.stem}\n" for truth in data.val))
    names = ", ".join(data.names)
    (folder / "set.yaml").write_text(f"format: voc\npath: .\ntrain: [val]\nval: [val]\nnames: [{names}]\n")
    return folder / "set.yaml"


def test_vocs_own_numbers_stand_beside_cocos(here, voc, capsys):
    text, values = val(here, capsys, data=voc)
    assert {"AP", "voc", "voc 11-point"} < set(values) and "difficult objects: ignore" in text
    assert sum(row["truths"] for row in values["voc"]["classes"]) == 4
    _, kept = val(here, capsys, "--difficult", "keep", "--ap", "101-point", data=voc)
    assert {"voc", "voc 11-point", "voc 101-point"} & set(kept) == {"voc 101-point"}
    assert sum(row["truths"] for row in kept["voc 101-point"]["classes"]) == 8


def test_darknet_drops_difficult_objects_unless_told(here, voc, capsys):
    counts = {
        rule: val(here, capsys, "--protocol", "darknet-map", *options, data=voc)[1]
        for rule, options in {"usual": [], **{r: ["--difficult", r] for r in ("drop", "ignore", "keep")}}.items()
    }
    assert counts["usual"] == counts["drop"]
    assert [counts[rule]["truths"] for rule in ("drop", "ignore", "keep")] == [4, 4, 8]
    assert counts["ignore"]["detections"] < counts["drop"]["detections"]


def test_a_set_without_a_readable_picture_is_an_error(here, capsys):
    for path in (here / "squares" / "val").glob("*.png"):
        path.write_bytes(b"")
    assert main(["val", "--cfg", "tiny.cfg", "--data", "squares/tiny.yaml"]) == 2
    assert "none of the 8 pictures could be read" in capsys.readouterr().err


def test_help_tells_the_protocols_and_their_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["val", "--help"])
    text = capsys.readouterr().out
    for words in ("darknet detector map", "darknet detector valid", "default: opencv for coco, darknet for the other"):
        assert words in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    "words",
    [
        *(["--score", "7"], ["--score", "-.1"], ["--score", "nan"], ["--nms-iou", "9"], ["--batch", "0"]),
        *([option, ""] for option in ("--json", "--weights", "--data-root")),
    ],
)
def test_options_out_of_range(here, capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(["val", "--cfg", "tiny.cfg", "--data", "squares/tiny.yaml", *words])
    assert stop.value.code == 2 and f"error: {words[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--ap", "area"], "--ap is for VOC's data and for --protocol darknet-map; 'tiny' is of the format coco"),
        (["--ap", "area", "--protocol", "darknet-valid"], "--ap is for VOC's data"),
        (["--difficult", "keep"], "--difficult is for VOC's data; 'tiny' is of the format coco"),
        (["--difficult", "keep", "--protocol", "darknet-map"], "--difficult is for VOC's data"),
        (["--json", "squares"], "squares: this is a folder"),
        (["--json", "n" * 300], f"{'n' * 300}: can't be written: File name too long"),
        (["--imgsz", "100000"], "an input of 100000x100000 pixels; sides of 1 to 8192 were expected"),
        (["--batch", "1000000000"], "--batch 1000000000 is more pictures at once than the 4096"),
        (["--cfg", ""], "'' is not the name of a file"),
        (["--cfg", "nope.cfg"], "nope.cfg: no such file"),
        (["--cfg", "squares"], "squares: this is a folder; the name of a .cfg file was expected"),
        (["--data", "a.json"], "a.json: this is an annotation file; --data takes a descriptor"),
        (["--weights", "squares"], "squares: this is a folder; the name of a weights file was expected"),
    ],
)
def test_what_can_not_be_meant_is_refused_before_the_work(here, capsys, words, said):
    assert main(["val", "--cfg", "tiny.cfg", "--data", "squares/tiny.yaml", *words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {said}") and printed.err.count("\n") == 1 and "scoring" not in printed.out


def test_classes_that_have_other_names_beside_the_cfg_are_told(here, capsys):
    names = load_data("squares/tiny.yaml").names
    words = ["val", "--cfg", "tiny.cfg", "--data", "squares/tiny.yaml", "--device", "cpu"]
    (here / "tiny.names").write_text(f"zebra\n{names[1]}\n")
    assert main(words) == 0
    assert "1 of 2 classes have other names in tiny.names: class 0 is 'zebra'" in capsys.readouterr().out
    (here / "tiny.names").write_text(f"{names[1]}\n{names[0]}\n")
    assert main(words) == 2
    assert "tiny.names: the data has these classes in another order" in capsys.readouterr().err


def test_how_it_looks_is_what_was_asked_for_and_not_only_what_is_written(here, capsys, monkeypatch):
    seen, find_all = {}, scoring.find_all

    def watched(*given, **options):
        seen.update(options)
        return find_all(*given, **options)

    monkeypatch.setattr(scoring, "find_all", watched)
    _, values = val(here, capsys, "--nms", "plain", "--letterbox", "--batch", "3", "--workers", "2")
    assert seen == {"batch": 3, "workers": 2, "letterbox": True, "nms": "plain"}
    assert values["protocol"]["nms"] == "plain" and values["protocol"]["letterbox"]
    assert [values[name] for name in ("cfg", "weights", "data")] == ["tiny.cfg", "tiny.weights", "squares/tiny.yaml"]


def test_the_data_may_lie_elsewhere(here, capsys):
    (here / "squares" / "tiny.yaml").rename(here / "tiny.yaml")
    assert val(here, capsys, "--data-root", "squares", data="tiny.yaml")[1]["pictures"] == 8


def test_what_of_the_data_does_not_count_is_told(here, capsys):
    file = here / "squares" / "val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [40, 10, 20, 20]  # of pictures that are 48 wide
    file.write_text(json.dumps(content))
    (here / "squares" / "val" / "3.png").write_bytes(b"")
    text, values = val(here, capsys)
    assert "clipped" in text and "left out: " in text and "3.png" in text
    assert values["pictures"] == 7 and len(values["skipped"]) == 1
