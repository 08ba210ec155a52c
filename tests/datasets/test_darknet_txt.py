import re
import shutil

import numpy as np
import pytest
from PIL import Image

from detect_prune.datasets import load_data
from detect_prune.datasets.darknet_txt import label_folder, read_lists
from detect_prune.errors import DetectPruneError


@pytest.mark.parametrize("file", ["set.yaml", "obj.data"])
def test_reads_lists_and_labels(darknet_folder, file):
    data = load_data(darknet_folder / file)
    assert data.names == ("cat", "dog") and data.format == "darknet" and data.category_ids == (1, 2)
    assert len(data.train) == 3 and len(data.val) == 1
    assert np.allclose(data.train[0].boxes, [[15, 10, 45, 30], [12, 6, 18, 14]], atol=1e-4)
    assert data.train[0].labels.tolist() == [0, 1]
    assert np.allclose(data.train[1].boxes, [[42, 10, 60, 30]], atol=1e-4)  # clipped
    assert len(data.train[2].boxes) == 0
    assert any("1 picture without a label file" in w for w in data.warnings)
    assert any("clipped" in w for w in data.warnings)


@pytest.mark.parametrize("name", ["JPEGImages", "images"])
def test_labels_may_have_a_folder_of_their_own(darknet_folder, name):
    (darknet_folder / name).mkdir()
    (darknet_folder / "obj").rename(darknet_folder / name / "train2017")
    (darknet_folder / "labels" / "train2017").mkdir(parents=True)
    for text in list((darknet_folder / name / "train2017").glob("*.txt")):
        text.rename(darknet_folder / "labels" / "train2017" / text.name)
    for entry in ("train.txt", "valid.txt"):
        text = (darknet_folder / entry).read_text()
        # absolute paths, as Darknet's own scripts write them
        (darknet_folder / entry).write_text(text.replace("obj/", f"{darknet_folder}/{name}/train2017/"))
    assert load_data(darknet_folder / "set.yaml").train.box_count == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("0 0.5 0.5 0.5\n", '"0 0.5 0.5 0.5" found'),
        ("0 0.5 0.5 0.5 0.5 1\n", "found"),
        ("cat 0.5 0.5 0.5 0.5\n", "found"),
        ("0 0.5 x 0.5 0.5\n", "found"),
        ("2 0.5 0.5 0.5 0.5\n", "class 2 found; there are 2 classes"),
        ("-1 0.5 0.5 0.5 0.5\n", "class -1 found"),
        ("0 30 20 10 10\n", "shares"),
        ("0 nan 0.5 0.5 0.5\n", "shares"),
        ("1_0 0.5 0.5 0.5 0.5\n", "found"),
        ("0 0.5 0.5 0.5_1 0.5\n", "shares"),
        ("1.0 0.5 0.5 0.5 0.5\n", "found"),
    ],
)
def test_bad_labels_name_the_line(darknet_folder, text, message):
    labels = darknet_folder / "obj" / "1.txt"
    labels.write_text("1 0.5 0.5 0.1 0.1\n\n" + text)
    with pytest.raises(DetectPruneError, match=re.escape(f"{labels}:3: ") + ".*" + re.escape(message)):
        load_data(darknet_folder / "set.yaml")


def test_bad_lists(darknet_folder):
    train = darknet_folder / "train.txt"
    train.write_text("obj/0.png\nobj/9.png\n")
    with pytest.raises(DetectPruneError, match=re.escape(f"{train}:2: 1 of the 2 pictures")):
        load_data(darknet_folder / "set.yaml")
    train.write_text("obj/2.png\n")
    with pytest.raises(DetectPruneError, match="none of its 1 pictures has labels"):
        load_data(darknet_folder / "set.yaml")
    train.write_text("\n")
    with pytest.raises(DetectPruneError, match=r"set\.yaml:3: the train set is empty"):
        load_data(darknet_folder / "set.yaml")
    train.unlink()
    with pytest.raises(
        DetectPruneError, match=r"set\.yaml:3: no such file, a list of pictures, or folder of them: .*train\.txt"
    ):
        load_data(darknet_folder / "set.yaml")


def test_a_folder_stands_for_its_pictures(darknet_folder):
    (darknet_folder / "set.yaml").write_text(
        "format: darknet\npath: .\ntrain: obj\nval: valid.txt\nnames: {0: cat, 1: dog}\n"
    )
    data = load_data(darknet_folder / "set.yaml")
    assert [path.name for path in map(data.train.path, range(3))] == ["0.png", "1.png", "2.png"]
    assert data.names == ("cat", "dog") and data.train.box_count == 3


def test_where_the_first_picture_is_gone_the_others_are_found_all_the_same(darknet_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(darknet_folder)
    (tmp_path / "lists").mkdir()
    text = (darknet_folder / "train.txt").read_text()
    (tmp_path / "lists" / "train.txt").write_text(text)
    (darknet_folder / "obj" / "0.png").unlink()
    with pytest.raises(DetectPruneError, match=r"1 of the 3 pictures .*; the first is obj/0\.png"):
        read_lists([tmp_path / "lists" / "train.txt"], ("cat", "dog"))


def test_pictures_that_viewers_turn_are_told(darknet_folder):
    """Labels are shares of a size that they don't tell."""
    turned = Image.new("RGB", (60, 40))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(darknet_folder / "obj" / "0.jpg", exif=exif)
    Image.new("RGB", (60, 40)).save(darknet_folder / "obj" / "1.jpg")
    (darknet_folder / "train.txt").write_text("obj/0.jpg\nobj/1.jpg\n")
    data = load_data(darknet_folder / "set.yaml")
    (said,) = (warning for warning in data.warnings if "EXIF" in warning)
    assert said.startswith("train.txt: 1 picture with a mark to be shown turned")


def test_a_picture_that_is_listed_twice_is_told(darknet_folder):
    train = darknet_folder / "train.txt"
    train.write_text(train.read_text() + "obj/0.png\n")
    data = load_data(darknet_folder / "set.yaml")
    assert any(
        said == "train.txt: pictures that are listed more than once count as often (1 too many, the first is 0.png)"
        for said in data.warnings
    )


def test_what_darknet_would_score_by_and_is_not_read_is_told(darknet_folder):
    (darknet_folder / "obj.data").write_text(
        "classes=2\ntrain=train.txt\nvalid=train.txt\nnames=obj.names\ndifficult=other.txt\neval=coco\n"
    )
    said = load_data(darknet_folder / "obj.data").warnings
    assert [one for one in said if "obj.data" in one] == [
        "obj.data:5: difficult is not read; Darknet's own scores follow it"
    ]


def test_a_set_of_corrupt_pictures_says_so(darknet_folder):
    for picture in (darknet_folder / "obj").glob("*.png"):
        picture.write_bytes(b"nothing")
    with pytest.raises(DetectPruneError, match=r"set is empty: no picture of it can be used: train\.txt:1: left out"):
        load_data(darknet_folder / "set.yaml")


def test_a_corrupt_picture_is_left_out_and_named(darknet_folder):
    (darknet_folder / "obj" / "2.png").write_bytes(b"nothing")
    data = load_data(darknet_folder / "set.yaml")
    assert len(data.train) == 2 and any("train.txt:3: left out" in w and "2.png" in w for w in data.warnings)


@pytest.mark.parametrize(
    "text, message",
    [
        ("train = train.txt\nnames = obj.names\n", "obj.data: the line valid = FILE is missing"),
        ("train = train.txt\nvalid = gone.txt\nnames = obj.names\n", "obj.data:2: valid = gone.txt"),
        ("train = train.txt\ntrain = valid.txt\n", "obj.data:2: the key train stands here a second time"),
        (
            "classes = 3\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\n",
            "obj.data:1: classes is 3, but",
        ),
        ("classes = two\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\n", "obj.data:1: classes is two"),
        ("# a comment\ntrain train.txt\n", 'obj.data:2: "train train.txt" found; key = value'),
    ],
)
def test_bad_data_files(darknet_folder, text, message):
    (darknet_folder / "obj.data").write_text(text)
    with pytest.raises(DetectPruneError, match=re.escape(message)):
        load_data(darknet_folder / "obj.data")


def test_lists_made_on_windows(darknet_folder):
    (darknet_folder / "train.txt").write_bytes(b"\xef\xbb\xbfobj\\0.png\r\n\r\nobj\\1.png \r\n")
    (darknet_folder / "obj" / "0.txt").write_bytes(b"\xef\xbb\xbf0 0.5 0.5 0.5 0.5\r\n\r\n")
    (darknet_folder / "obj.names").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n\r\n")
    data = load_data(darknet_folder / "set.yaml")
    assert data.names == ("cat", "dog") and [len(truth.boxes) for truth in data.train] == [1, 1]


def test_unknown_keys_of_a_data_file_are_told(darknet_folder):
    file = darknet_folder / "obj.data"
    file.write_text(file.read_text() + "clases = 3\n")
    assert "obj.data:6: unknown key clases" in load_data(file).warnings


def test_comments_of_a_data_file(darknet_folder):
    file = darknet_folder / "obj.data"
    file.write_text(f"# a remark\n; another\n{file.read_text()}")
    assert len(load_data(file).train) == 3


def test_the_folder_that_was_named_goes_before_the_file_s(darknet_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(darknet_folder, other)
    (other / "train.txt").write_text("obj/0.png\n")
    assert len(load_data(darknet_folder / "obj.data", other).train) == 1
    dataset, _ = read_lists([other / "train.txt"], ("cat", "dog"), darknet_folder)
    assert dataset.path(0) == darknet_folder / "obj" / "0.png"


def test_of_two_folders_called_images_the_inner_one_has_labels_beside_it(tmp_path):
    for folder in ("images/a/labels/b", "labels/a/images/b"):
        (tmp_path / folder).mkdir(parents=True)
    assert label_folder(tmp_path / "images/a/images/b") == tmp_path / "images/a/labels/b"


def test_links_to_folders_are_followed_and_none_twice(darknet_folder, tmp_path):
    (darknet_folder / "obj").rename(tmp_path / "elsewhere")
    (darknet_folder / "all").mkdir()
    (darknet_folder / "all" / "obj").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(darknet_folder / "all")
    file = darknet_folder / "set.yaml"
    file.write_text("format: darknet\npath: .\ntrain: all\nval: all\nnames: obj.names\n")
    assert len(load_data(file).train) == 3
