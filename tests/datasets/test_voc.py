import re

import pytest

from detect_prune.datasets import load_data
from detect_prune.datasets.voc import parse_xml, read_voc
from detect_prune.errors import DetectPruneError

NAMES = ("cat", "dog")


def test_boxes_are_darknets(voc_folder):
    dataset, warnings = read_voc(voc_folder, ["VOC2007/train"], NAMES)
    assert len(dataset) == 2 and not warnings
    truth = dataset[0]
    # scripts/voc_label.py: centre = (min + max) / 2 - 1, size = max - min
    centre, size = ((11 + 31) / 2 - 1, (6 + 26) / 2 - 1), (31 - 11, 26 - 6)
    expected = [centre[0] - size[0] / 2, centre[1] - size[1] / 2, centre[0] + size[0] / 2, centre[1] + size[1] / 2]
    assert truth.boxes[0].tolist() == expected
    assert truth.boxes[1].tolist() == [0, 0, 59, 39]
    assert truth.labels.tolist() == [1, 0] and truth.difficult.tolist() == [False, True]
    assert not truth.crowd.any() and truth.areas.tolist() == [400, 59 * 39]


def test_a_picture_that_comes_twice_is_told(voc_folder):
    dataset, warnings = read_voc(voc_folder, ["VOC2007/train", "VOC2007/val"], NAMES)
    assert len(dataset) == 3
    (said,) = warnings
    assert "more than once count as often (1 too many, the first is 000002.jpg)" in said


def test_a_set_of_difficult_objects_alone_is_refused(voc_folder):
    for file in (voc_folder / "VOC2007" / "Annotations").iterdir():
        text = re.sub("<difficult>.</difficult>", "", file.read_text())
        file.write_text(text.replace("</object>", "<difficult>1</difficult></object>"))
    message = r"set\.yaml:3: the train set has no box on any of its 2 pictures but 4 difficult objects, which do not"
    with pytest.raises(DetectPruneError, match=message):
        load_data(voc_folder / "set.yaml")
    # They may be scored, where nothing is trained: val --difficult keep.
    assert load_data(voc_folder / "set.yaml", splits=("val",)).val.difficult_count == 2


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-16", "utf-8", "utf-8-sig", None])
def test_an_annotation_says_how_it_is_encoded(tmp_path, encoding):
    head = "" if encoding is None else f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n'
    (tmp_path / "a.xml").write_bytes(f"{head}<a><name>Gr\u00f6\u00dfe</name></a>".encode(encoding or "utf-8"))
    assert parse_xml(tmp_path / "a.xml").children[0].text == "Gr\u00f6\u00dfe"


@pytest.mark.parametrize("said", ["gb2312", "utf-16", "us-ascii", "iso-8859-1", "undefined", "nothing", "cp500"])
def test_an_annotation_that_is_utf8_is_read_as_that_whatever_it_says(tmp_path, said):
    head = f'<?xml version="1.0" encoding="{said}"?>\n'
    (tmp_path / "a.xml").write_bytes(f"{head}<a><name>Gr\u00f6\u00dfe</name></a>".encode())
    assert parse_xml(tmp_path / "a.xml").children[0].text == "Gr\u00f6\u00dfe"


@pytest.mark.parametrize("said", ["gb2312", "undefined", "nothing", "utf-8", "utf-16"])
def test_an_annotation_that_is_not_what_it_says_is_one_sentence(tmp_path, said):
    head = f'<?xml version="1.0" encoding="{said}"?>\n'.encode()
    (tmp_path / "a.xml").write_bytes(head + b"<a><name>\xb1\xf0</name></a>")
    with pytest.raises(DetectPruneError, match=r"a\.xml(:\d)?: (this xml is not UTF-8, and can't be read|broken xml)"):
        parse_xml(tmp_path / "a.xml")


def test_a_folder_without_years_and_one_with_a_devkit(voc_folder):
    assert len(read_voc(voc_folder / "VOC2007", ["train"], NAMES)[0]) == 2
    (voc_folder / "VOCdevkit").mkdir()
    (voc_folder / "VOC2007").rename(voc_folder / "VOCdevkit" / "VOC2007")
    assert len(load_data(voc_folder / "set.yaml").train) == 2


@pytest.mark.parametrize(
    "old, new, line, message",
    [
        ("<name>dog</name>", "<name>cow</name>", 4, 'the class "cow"'),
        ("<name>dog</name>", "", 3, 'the class ""'),
        ("<xmin>11</xmin>", "<xmin>eleven</xmin>", 6, '<xmin> is "eleven"'),
        ("<xmin>11</xmin>", "<xmin>nan</xmin>", 6, '<xmin> is "nan"'),
        ("<xmin>11</xmin>", "<xmin>1e300</xmin>", 6, '<xmin> is "1e300"'),
        ("<xmin>11</xmin>", "", 6, "<bndbox> has no <xmin>"),
        ("<xmin>11</xmin>", "<xmin>1_1</xmin>", 6, '<xmin> is "1_1"'),
        ("<width>60</width>", "", 2, "<size> has no <width>"),
        ("<width>60</width>", "<width>60.5</width>", 2, '<width> is "60.5"; a whole number'),
        ("<width>60</width>", "<width>-60</width>", 2, '<width> is "-60"'),
        ("<difficult>0<", "<difficult>yes<", 5, '<difficult> is "yes"; 0 or 1'),
        ("<name>dog</name>", "<name>dog</name>\n<name>cat</name>", 5, "<object> has a second <name>"),
        ("    <part>", "    <bndbox></bndbox><part>", 7, "<object> has a second <bndbox>"),
        ("    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>\n", "", 9, "no <bndbox>"),
        ("</annotation>", "", 15, "broken xml"),
        ("</object>", "</objekt>", 8, "broken xml"),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]>\n<annotation>', 1, "entities"),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>\n<annotation>', 1, "entities"),
    ],
)
def test_errors_name_the_line(voc_folder, old, new, line, message):
    file = voc_folder / "VOC2007" / "Annotations" / "000002.xml"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DetectPruneError, match=re.escape(f"{file}:{line}: ") + ".*" + re.escape(message)):
        read_voc(voc_folder, ["VOC2007/val"], NAMES)


def test_zero_sizes_are_read_from_the_picture(voc_folder):
    file = voc_folder / "VOC2007" / "Annotations" / "000002.xml"
    file.write_text(file.read_text().replace(">60</width>", ">0</width>"))
    assert read_voc(voc_folder, ["VOC2007/val"], NAMES)[0][0].width == 60


def test_missing_things_are_named(voc_folder):
    sets = voc_folder / "VOC2007" / "ImageSets" / "Main"
    with pytest.raises(DetectPruneError, match=r"test\.txt: no such image set; the folder has train, val"):
        read_voc(voc_folder, ["VOC2007/test"], NAMES)
    with pytest.raises(DetectPruneError, match="no such folder"):
        read_voc(voc_folder, ["VOC2012/train"], NAMES)
    (sets / "train.txt").write_text("000001\n\n000077\n")
    with pytest.raises(DetectPruneError, match=re.escape(f"{sets / 'train.txt'}:3: there is no picture 000077")):
        read_voc(voc_folder, ["VOC2007/train"], NAMES)
    (voc_folder / "VOC2007" / "Annotations" / "000002.xml").unlink()
    with pytest.raises(DetectPruneError, match=r"val\.txt:1: .*000002\.xml"):
        read_voc(voc_folder, ["VOC2007/val"], NAMES)


def test_image_sets_are_read_strictly(voc_folder):
    year = voc_folder / "VOC2007"
    train = year / "ImageSets" / "Main" / "train.txt"
    train.write_bytes(b"\xef\xbb\xbf000001\r\n\r\n 000002 -1\r\n")
    assert len(read_voc(voc_folder, ["VOC2007/train"], NAMES)[0]) == 2
    for line in ("000002 2", "000002 1 1", "000001 000002"):
        train.write_text(f"000001\n{line}\n")
        with pytest.raises(DetectPruneError, match=re.escape(f'{train}:2: "{line}" found')):
            read_voc(voc_folder, ["VOC2007/train"], NAMES)
    train.write_text("000001\n")
    (year / "JPEGImages" / "000001.png").write_bytes((year / "JPEGImages" / "000001.jpg").read_bytes())
    with pytest.raises(
        DetectPruneError, match=r"train\.txt:1: there is more than one picture \(000001\.jpg, 000001\.png\)"
    ):
        read_voc(voc_folder, ["VOC2007/train"], NAMES)


def test_a_name_that_ends_in_a_number_is_that_picture(voc_folder):
    year = voc_folder / "VOC2007"
    for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (year / folder / f"000001 1.{ending}").write_bytes((year / folder / f"000001.{ending}").read_bytes())
        (year / folder / f"photo (0).{ending}").write_bytes((year / folder / f"000001.{ending}").read_bytes())
    (year / "ImageSets" / "Main" / "train.txt").write_text("000001 1\nphoto (0)\n000002 -1\n000001 1 1\n")
    dataset, _ = read_voc(voc_folder, ["VOC2007/train"], NAMES)
    names = [dataset.path(index).stem for index in range(4)]
    assert names == ["000001 1", "photo (0)", "000002", "000001 1"]


def test_an_entry_may_have_its_ending_and_what_lies_where_is_told(voc_folder):
    assert len(read_voc(voc_folder, ["VOC2007/train.txt"], NAMES)[0]) == 2
    with pytest.raises(DetectPruneError, match=r"VOC2012/ImageSets/Main: no such folder; .*train\.txt.*JPEGImages"):
        read_voc(voc_folder, ["VOC2012/train"], NAMES)


def test_difficult_objects_are_told(voc_folder):
    assert "train: 2 of 4 boxes are marked difficult, and not learnt" in load_data(voc_folder / "set.yaml").warnings


def test_a_corrupt_picture_whose_size_is_needed_is_left_out_and_named(voc_folder):
    file = voc_folder / "VOC2007" / "Annotations" / "000002.xml"
    file.write_text(file.read_text().replace(">60</width>", ">0</width>"))
    (voc_folder / "VOC2007" / "JPEGImages" / "000002.jpg").write_bytes(b"nothing")
    dataset, warnings = read_voc(voc_folder, ["VOC2007/train"], NAMES)
    assert len(dataset) == 1 and dataset.box_count == 2
    assert (
        len(warnings) == 1
        and "train.txt:2: left out" in warnings[0]
        and "000002.jpg: this is no picture" in warnings[0]
    )


def test_text_in_a_million_pieces_takes_no_square_of_time(tmp_path):
    (tmp_path / "a.xml").write_text("<a>" + "x\n" * 300_000 + "</a>")
    assert len(parse_xml(tmp_path / "a.xml").text) == 599_999


def test_deep_xml_does_not_recurse(tmp_path):
    (tmp_path / "a.xml").write_text("<a>" * 50_000 + "</a>" * 50_000)
    assert parse_xml(tmp_path / "a.xml").tag == "a"


def test_real_voc(real_data):
    data = load_data("voc.yaml", real_data / "voc")
    assert (len(data.train), len(data.val)) == (1500, 496)
    # Darknet's log of this split counts 1,209 objects that are not difficult.
    assert sum(int((~truth.difficult).sum()) for truth in data.val) == 1209
    assert data.names[0] == "aeroplane" and data.names[14] == "person" and len(data.names) == 20


def test_real_bccd_drops_its_two_empty_boxes(real_data):
    data = load_data("bccd.yaml", real_data / "bccd")
    assert (len(data.train), len(data.val), data.names) == (292, 72, ("RBC", "WBC", "Platelets"))
    assert len(data.warnings) == 1 and "2 boxes without area" in data.warnings[0]
    for truth in data.train:
        assert (truth.boxes >= 0).all() and (truth.boxes[:, 2:] <= (truth.width, truth.height)).all()


def test_an_ending_may_be_in_capitals(voc_folder):
    pictures = voc_folder / "VOC2007" / "JPEGImages"
    (pictures / "000001.jpg").rename(pictures / "000001.JPG")
    assert len(read_voc(voc_folder, ["VOC2007/train"], NAMES)[0]) == 2


def test_a_set_of_one_class_has_a_second_column(voc_folder):
    file = voc_folder / "VOC2007" / "ImageSets" / "Main" / "dog_train.txt"
    for column in ("1", "-1", "0"):
        file.write_text(f"000001 {column:>2}\n000002  1\n")
        assert len(read_voc(voc_folder, ["VOC2007/dog_train"], NAMES)[0]) == 2
