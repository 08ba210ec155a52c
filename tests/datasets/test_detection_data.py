import json
import re

import pytest
import yaml

from detect_prune.datasets import data_available, load_data
from detect_prune.datasets.descriptor import read_names
from detect_prune.errors import DetectPruneError
from detect_prune.resources import packaged_folder


def test_real_coco(real_data):
    data = load_data("coco.yaml", real_data / "coco")
    assert (len(data.train), len(data.val), len(data.names), data.format) == (337, 128, 80, "coco")
    assert data.names == read_names(packaged_folder("data") / "coco.names")
    assert not data.is_sample and data.name == "coco" and data.category_ids[-1] == 90


@pytest.mark.parametrize("file", sorted(packaged_folder("data").glob("*.yaml")), ids=lambda path: path.name)
def test_packaged_descriptors_are_sound(file, tmp_path):
    assert yaml.safe_load(file.read_text())["format"] in ("coco", "voc")
    assert not data_available(file, tmp_path / "none") and data_available(file, tmp_path)
    with pytest.raises(DetectPruneError, match=r"no such (file|folder)"):
        load_data(file, tmp_path)


def test_path_is_relative_to_the_file_and_root_overrides(coco_folder, tmp_path, monkeypatch):
    file = coco_folder / "sub" / "set.yaml"
    file.parent.mkdir()
    file.write_text((coco_folder / "set.yaml").read_text().replace("path: .", "path: ../../coco"))
    assert data_available(file) and len(load_data(file).val) == 3
    file.write_text(file.read_text().replace("../../coco", "gone"))
    assert not data_available(file)
    with pytest.raises(DetectPruneError, match=re.escape(f"{file}:2: the data folder {coco_folder}/sub/gone does not")):
        load_data(file)
    assert len(load_data(file, coco_folder).val) == 3
    with pytest.raises(DetectPruneError, match="nowhere: the data folder does not exist"):
        load_data(file, tmp_path / "nowhere")


def test_the_built_in_set_is_not_looked_for_in_a_folder(tmp_path):
    with pytest.raises(DetectPruneError, match="drawn on the spot: it is not looked for in a folder"):
        load_data("sample", tmp_path)


def test_one_split_alone(coco_folder, voc_folder):
    (coco_folder / "train.json").unlink()
    data = load_data(coco_folder / "set.yaml", splits=("val",))
    assert len(data.train) == 0 and len(data.val) == 3 and data.names == ("car", "no", "tooth")
    file = voc_folder / "set.yaml"
    file.write_text(file.read_text().replace("train: [VOC2007/train]\n", ""))
    assert len(load_data(file, splits=("val",)).val) == 1
    with pytest.raises(DetectPruneError, match="the key train is missing"):
        load_data(file)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("format: coco", "format: yolo", "1: format is yolo; one of coco, voc, darknet"),
        ("format: coco\n", "", "the key format is missing"),
        ("format: coco", "format: [coco]", "1: format is"),
        ("path: .", "path: []", "2: path has to be one folder"),
        ("path: .", "path: .\nclasses: 3", "3: unknown key classes"),
        ("path: .", "path: .\nnc: 3", "3: unknown key nc"),
        (
            "format: coco\npath: .",
            "path: .\nnc: 3\nnames: {0: cat}",
            "If this is one of Ultralytics': say format: darknet",
        ),
        ("path: .", "path: .\npath: b", "3: the key path stands here a second time"),
        ("path: .\n", "", "the key path is missing"),
        ("path: .", "path: 'x", "not valid yaml"),
        ("path: .", "path: *x", "2: not valid yaml"),
        ("path: .", "path: .\n? [a]\n: b", "3: a plain key"),
        ("path: .", 'path: "a\\0b"', "2: a zero byte"),
        ("{images: val, annotations: val.json}", "val", "4: val has to be"),
        ("{images: val, annotations: val.json}", "{images: val}", "4: val has to be"),
        ("{images: val, annotations: val.json}", "{images: val, annotations: {a: b}}", "4: a text, a list"),
        ("path: .", "path: \x01", "2: not valid yaml"),
        ("path: .", "path: !env DATA", "2: the tag !env has no meaning"),
        ("{images: val, ", "{images: val, images: train, ", "4: a key stands here a second time"),
        ("images: val", "images: none", "4: no such folder of pictures: "),
        ("val.json", "none.json", "4: no such file of annotations: "),
        ("format", "[" * 1500 + "format", "nested too deep"),
    ],
)
def test_bad_descriptors_name_the_line(coco_folder, old, new, message):
    file = coco_folder / "set.yaml"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DetectPruneError, match=re.escape(f"{file}") + ":.*" + re.escape(message)):
        load_data(file)


@pytest.mark.parametrize("text", ["", "just text", "- a\n- b\n"])
def test_what_is_no_descriptor(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DetectPruneError, match=r"a\.yaml:1: a descriptor has keys"):
        load_data(tmp_path / "a.yaml")


@pytest.mark.parametrize("crowds", [0, 2])
def test_a_set_without_an_object_is_refused(coco_folder, crowds):
    """Nothing can be found or missed on it: AP is not even 0. A crowd region is no object."""
    content = json.loads((coco_folder / "val.json").read_text())
    content["annotations"] = [{**one, "iscrowd": 1} for one in content["annotations"][:1] * crowds]
    for number, one in enumerate(content["annotations"]):
        one["id"] = number + 1
    (coco_folder / "val.json").write_text(json.dumps(content))
    said = f" but {crowds} crowd regions, which do not count$" if crowds else "$"
    with pytest.raises(
        DetectPruneError, match=r"set\.yaml:4: the val set has no box on any of its \d+ pictures" + said
    ):
        load_data(coco_folder / "set.yaml")


def test_train_and_val_must_agree(coco_folder):
    file = coco_folder / "val.json"
    file.write_text(file.read_text().replace("tooth", "teeth"))
    with pytest.raises(DetectPruneError, match=r"set\.yaml:4: train and val have different categories"):
        load_data(coco_folder / "set.yaml")


@pytest.mark.parametrize(
    "text, message",
    [("", "there is no class name"), ("a\n\nb\n", ":2: an empty class name"), ("a\nb\na\n", ':3: the class name "a"')],
)
def test_bad_names(tmp_path, text, message):
    (tmp_path / "a.names").write_text(text)
    with pytest.raises(DetectPruneError, match=message):
        read_names(tmp_path / "a.names")


def test_names_in_a_file_or_a_list(voc_folder):
    file = voc_folder / "set.yaml"
    (voc_folder / "own.names").write_text("cat\ndog\nyes\n")
    file.write_text(file.read_text().replace("[cat, dog]", "own.names"))
    assert load_data(file).names == ("cat", "dog", "yes")
    file.write_text(file.read_text().replace("own.names", "voc.names"))
    assert len(load_data(file).names) == 20  # the packaged file
    file.write_text(file.read_text().replace("voc.names", "[cat, cat]"))
    with pytest.raises(DetectPruneError, match=r"set\.yaml:5: the class name"):
        load_data(file)


@pytest.mark.parametrize("place", ["my.names", "names/my.names", "data/my.names"])
def test_names_may_lie_in_the_working_folder(darknet_folder, tmp_path, monkeypatch, place):
    here = tmp_path / "here"
    (here / place).parent.mkdir(parents=True)
    (here / place).write_text("cat\ndog\n")
    file = darknet_folder / "set.yaml"
    file.write_text(file.read_text().replace("obj.names", place))
    with pytest.raises(DetectPruneError, match=rf"set\.yaml:5: there is no file of class names {place}"):
        load_data(file)
    monkeypatch.chdir(here)
    assert load_data(file).names == ("cat", "dog")


def test_what_of_the_boxes_does_not_count_and_which_class_has_none_is_told(coco_folder):
    for split in ("train", "val"):
        file = coco_folder / f"{split}.json"
        data = json.loads(file.read_text())
        data["categories"].append({"id": 0, "name": "pets"})  # as Roboflow writes it
        file.write_text(json.dumps(data))
    data = load_data(coco_folder / "set.yaml")
    assert data.names[0] == "pets"
    assert any(each.startswith("train: 1 of 3 boxes are crowd regions") for each in data.warnings)
    (said,) = (each for each in data.warnings if each.startswith("no box of "))
    assert "'pets'" in said and f"of {len(data.names)} classes" in said


def test_a_checkout_of_any_name_has_its_data_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from detect_prune import resources

    for name in ("detect_prune", "other"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "datasets" / "coco").mkdir(parents=True)
        (tmp_path / name / "data" / "coco.yaml").write_bytes((packaged_folder("data") / "coco.yaml").read_bytes())
        monkeypatch.setattr(resources, "_PACKAGE", tmp_path / name / "detect_prune")
        assert data_available("coco.yaml")


def test_an_empty_first_line_is_no_name_either(tmp_path):
    (tmp_path / "a.names").write_text("\na\nb\n")
    with pytest.raises(DetectPruneError, match=":1: an empty class name"):
        read_names(tmp_path / "a.names")


def test_of_several_files_of_names_the_data_s_own_counts(darknet_folder, tmp_path, monkeypatch):
    file = tmp_path / "sets" / "set.yaml"
    file.parent.mkdir()
    file.write_text((darknet_folder / "set.yaml").read_text().replace("path: .", f"path: {darknet_folder}"))
    for place in ("sets", "here/data"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "obj.names").write_text("one\ntwo\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load_data(file).names == ("cat", "dog")
    for folder in (darknet_folder, tmp_path / "sets"):
        (folder / "obj.names").unlink()
    assert load_data(file).names == ("one", "two"), "./data comes last but for the package"


def test_numbered_names_have_to_be_in_order(darknet_folder):
    file = darknet_folder / "set.yaml"
    file.write_text(file.read_text().replace("obj.names", "{1: dog, 0: cat}"))
    with pytest.raises(DetectPruneError, match=r"set\.yaml:5: names has to be a list of class names"):
        load_data(file)
