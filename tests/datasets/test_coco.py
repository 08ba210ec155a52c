import contextlib
import io
import json
import os
import re

import numpy as np
import pytest
from pycocotools.coco import COCO

from detect_prune.datasets.coco import read_coco
from detect_prune.errors import DetectPruneError


def test_reads_what_is_there(coco_folder):
    dataset, category_ids, warnings = read_coco(coco_folder / "train", coco_folder / "train.json")
    assert dataset.names == ("car", "no", "tooth") and category_ids == (3, 7, 90)
    first, second, third = dataset
    assert [t.image_id for t in dataset] == [10, 11, 12]
    assert first.boxes.tolist() == [[50, 30, 60, 40], [0, 0, 60, 40]]
    assert first.labels.tolist() == [0, 1] and first.crowd.tolist() == [False, True]
    assert first.areas.tolist() == [100, 9]  # the clipped box's where the file has none
    assert len(second.boxes) == 0
    assert third.boxes.tolist() == [[5, 6, 25, 16]] and third.areas.tolist() == [123] and third.labels.tolist() == [2]
    assert len(warnings) == 2 and all(w.startswith("train.json: 1 box") for w in warnings)


def test_agrees_with_pycocotools(real_data):
    file = real_data / "coco" / "annotations" / "instances_val2017.json"
    dataset, category_ids, warnings = read_coco(real_data / "coco" / "images" / "val2017", file)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    assert category_ids == tuple(sorted(coco.getCatIds())) and len(dataset) == 128 and not warnings
    assert list(dataset.names) == [coco.cats[i]["name"] for i in category_ids]
    for truth in dataset:
        theirs = coco.loadAnns(coco.getAnnIds(truth.image_id))
        boxes = np.array([a["bbox"] for a in theirs]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(truth.boxes, boxes, atol=0.02)
        assert [category_ids[label] for label in truth.labels] == [a["category_id"] for a in theirs]
        assert truth.crowd.tolist() == [bool(a["iscrowd"]) for a in theirs]
        assert np.allclose(truth.areas, [a["area"] for a in theirs])
        assert truth.path.is_file()


def test_what_tools_write_is_read(coco_folder):
    """Whole numbers with a point, and paths with backslashes."""
    file = coco_folder / "train.json"
    text = file.read_text()
    data = json.loads(text)
    (coco_folder / "train" / "sub").mkdir()
    name = data["images"][0]["file_name"]
    (coco_folder / "train" / name).rename(coco_folder / "train" / "sub" / name)
    data["images"][0]["file_name"] = f"sub\\{name}"
    data["images"][0]["id"] = float(data["images"][0]["id"])
    data["annotations"][0] |= {"id": 1.0, "iscrowd": 0.0}
    file.write_text(json.dumps(data))
    dataset, _, _ = read_coco(coco_folder / "train", file)
    assert dataset.path(0) == coco_folder / "train" / "sub" / name and dataset[0].image_id == 10


def change(data, path, value):
    *parents, last = path
    for step in parents:
        data = data[step]
    if value is KeyError:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    "path, value, message",
    [
        (["images"], KeyError, '"images" is missing'),
        (["annotations"], {}, '"annotations" is no list'),
        (["annotations"], KeyError, '"annotations" is missing'),
        (["images"], [], "empty"),
        (["categories"], [], '"categories" is empty'),
        (["images", 1], 7, r"images\[1\]: an object"),
        (["images", 1, "id"], "x", r"images\[1\]: \"id\""),
        (["images", 1, "id"], 10, r"images\[1\]: id 10 is used twice"),
        (["images", 2, "file_name"], "none.jpg", "none.jpg"),
        (["images", 2, "file_name"], KeyError, r"images\[2\]: \"file_name\" is missing"),
        (["images", 0, "width"], -3, r"images\[0\]: the size"),
        (["images", 0, "width"], 10**30, r"images\[0\]: \"width\""),
        (["annotations", 3, "image_id"], 999, r"annotations\[3\]: image_id 999"),
        (["annotations", 3, "category_id"], 4, r"annotations\[3\]: category_id 4"),
        (["annotations", 0, "bbox"], [1, 2, 3], r"annotations\[0\]: \"bbox\""),
        (["annotations", 0, "bbox"], [1, 2, 3, float("nan")], r"annotations\[0\]: \"bbox\""),
        (["annotations", 0, "bbox"], [1, 2, 3, 10**400], r"annotations\[0\]: \"bbox\""),
        (["annotations", 0, "area"], "big", r"annotations\[0\]: \"area\""),
        (["annotations", 0, "area"], -4, r"annotations\[0\]: \"area\""),
        (["annotations", 2, "iscrowd"], 2, r"annotations\[2\]: \"iscrowd\" is 2; 0 or 1"),
        (["annotations", 2, "iscrowd"], "1", r"annotations\[2\]: \"iscrowd\""),
        (["categories", 1, "id"], 90, r"categories\[1\]: id 90 is used twice"),
        (["categories", 1, "name"], "a\ud800", r"categories\[1\]: \"name\""),
        (["images", 1, "file_name"], "1\0.jpg", r"images\[1\]: \"file_name\""),
        (["images", 1, "height"], None, r"images\[1\]: \"height\" is missing"),
    ],
)
def test_wrong_entries_are_named(coco_folder, path, value, message):
    file = coco_folder / "train.json"
    data = json.loads(file.read_text())
    change(data, path, value)
    file.write_text(json.dumps(data, indent=1))
    with pytest.raises(DetectPruneError, match=message) as caught:
        read_coco(coco_folder / "train", file)
    assert caught.value.file == file
    if len(path) > 1:  # the record begins on the line that is named
        lines = file.read_text().split("\n")
        begins = [number for number, line in enumerate(lines, 1) if line in ("  {", "  7,")]
        own = [number for number in begins if number > lines.index(f' "{path[0]}": [')]
        assert caught.value.line == own[path[1]]


def test_sizes_may_be_missing(coco_folder):
    file = coco_folder / "train.json"
    data = json.loads(file.read_text())
    for image in data["images"]:
        del image["width"], image["height"]
    file.write_text(json.dumps(data))
    assert read_coco(coco_folder / "train", file)[0][0].width == 60


def test_null_stands_for_what_may_be_missing(coco_folder):
    file = coco_folder / "train.json"
    before = read_coco(coco_folder / "train", file)[0][0]
    data = json.loads(file.read_text())
    for one in data["annotations"]:
        if not one["iscrowd"]:
            one["iscrowd"] = one["area"] = None
    file.write_text(json.dumps(data))
    after = read_coco(coco_folder / "train", file)[0][0]
    assert after.crowd.tolist() == before.crowd.tolist() and (after.boxes == before.boxes).all()


def test_a_corrupt_picture_whose_size_is_needed_is_left_out_and_named(coco_folder):
    file = coco_folder / "train.json"
    data = json.loads(file.read_text())
    del data["images"][0]["width"], data["images"][0]["height"]
    file.write_text(json.dumps(data))
    (coco_folder / "train" / "0.jpg").write_bytes(b"nothing")
    dataset, _, warnings = read_coco(coco_folder / "train", file)
    assert [truth.image_id for truth in dataset] == [11, 12] and [len(truth.boxes) for truth in dataset] == [0, 1]
    assert "images[0] is left out" in warnings[0] and "0.jpg: this is no picture" in warnings[0]


def test_lists_may_come_in_any_order_and_an_annotation_needs_no_id(coco_folder):
    file = coco_folder / "train.json"
    data = json.loads(file.read_text())
    before = read_coco(coco_folder / "train", file)
    for annotation in data["annotations"]:
        del annotation["id"]
    more = {"info": {"a": [{}, 1.5e3]}, "licenses": [[], 2, None]}
    file.write_text(json.dumps(dict(reversed({**more, **data}.items()))))
    after = read_coco(coco_folder / "train", file)
    assert before[1:] == after[1:] and before[0].names == after[0].names
    for one, other in zip(before[0], after[0], strict=True):
        assert one.path == other.path and one.boxes.tolist() == other.boxes.tolist()
        assert one.labels.tolist() == other.labels.tolist() and one.crowd.tolist() == other.crowd.tolist()


def test_an_id_that_is_there_twice_is_told(coco_folder):
    file = coco_folder / "train.json"
    data = json.loads(file.read_text())
    data["annotations"][2]["id"] = 1
    file.write_text(json.dumps(data))
    _, _, warnings = read_coco(coco_folder / "train", file)
    assert warnings[0] == "train.json: 1 annotations have the id of another one (1): kept"


def test_a_file_name_that_is_not_utf8(coco_folder):
    file = coco_folder / "train.json"
    name = os.fsdecode(b"\xff.jpg")
    os.rename(coco_folder / "train" / "1.jpg", coco_folder / "train" / name)
    file.write_text(file.read_text().replace("1.jpg", json.dumps(name)[1:-1]))
    assert read_coco(coco_folder / "train", file)[0][1].path.is_file()


def test_cut_off_json_names_the_line(coco_folder):
    file = coco_folder / "train.json"
    lines = file.read_text().split("\n")
    file.write_text("\n".join(lines[:20]))
    with pytest.raises(DetectPruneError, match=re.escape(f"{file}:20: not valid json") + ".*cut off"):
        read_coco(coco_folder / "train", file)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '{"images": ' + "9" * 5000 + "}", ""])
def test_strange_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DetectPruneError, match=r"a\.json"):
        read_coco(tmp_path, tmp_path / "a.json")
    with pytest.raises(DetectPruneError, match="no such file"):
        read_coco(tmp_path, tmp_path / "none.json")
