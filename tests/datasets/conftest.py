"""Small data sets written on the spot, in each format."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where decoded sets are kept meanwhile."""
    monkeypatch.setenv("DETECT_PRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write_picture() -> Callable[..., Path]:
    """write_picture(path, width, height, seed=0): a smooth random picture, so that JPEG keeps it nearly as it is."""

    def write(path: Path, width: int = 60, height: int = 40, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
        return path

    return write


@pytest.fixture
def coco_folder(tmp_path, write_picture) -> Path:
    """Category ids with holes, out of order; a crowd region, a picture without boxes, a box that reaches out."""
    folder = tmp_path / "coco"
    for name in ("train", "val"):
        for number in range(3):
            write_picture(folder / name / f"{number}.jpg", 60, 40, seed=number)
        data = {
            "images": [{"id": 10 + n, "file_name": f"{n}.jpg", "width": 60, "height": 40} for n in range(3)],
            "categories": [{"id": 90, "name": "tooth"}, {"id": 3, "name": "car"}, {"id": 7, "name": "no"}],
            "annotations": [
                {"id": 1, "image_id": 12, "category_id": 90, "bbox": [5, 6, 20, 10], "area": 123.0, "iscrowd": 0},
                {"id": 2, "image_id": 10, "category_id": 3, "bbox": [50, 30, 30, 30], "iscrowd": 0},
                {"id": 3, "image_id": 10, "category_id": 7, "bbox": [0, 0, 60, 40], "area": 9.0, "iscrowd": 1},
                {"id": 4, "image_id": 10, "category_id": 7, "bbox": [5, 5, 0, 9], "area": 0, "iscrowd": 0},
            ],
        }
        (folder / f"{name}.json").write_text(json.dumps(data, indent=1))
    (folder / "set.yaml").write_text(
        "format: coco\npath: .\n"
        "train: {images: train, annotations: train.json}\n"
        "val: {images: val, annotations: val.json}\n"
    )
    return folder


VOC_XML = """<annotation>
  <size><width>60</width><height>40</height><depth>3</depth></size>
  <object>
    <name>dog</name>
    <difficult>0</difficult>
    <bndbox><xmin>11</xmin><ymin>6</ymin><xmax>31</xmax><ymax>26</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
  </object>
  <object>
    <name>cat</name>
    <difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>
  </object>
</annotation>
"""


@pytest.fixture
def voc_folder(tmp_path, write_picture) -> Path:
    """VOC2007 with two annotated pictures: a plain and a difficult object in each."""
    folder = tmp_path / "voc"
    year = folder / "VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (year / name).mkdir(parents=True)
    for stem in ("000001", "000002"):
        write_picture(year / "JPEGImages" / f"{stem}.jpg")
        (year / "Annotations" / f"{stem}.xml").write_text(VOC_XML)
    (year / "ImageSets/Main/train.txt").write_text("000001\n000002\n")
    (year / "ImageSets/Main/val.txt").write_text("000002  1\n")
    (folder / "set.yaml").write_text(
        "format: voc\npath: .\ntrain: [VOC2007/train]\nval: VOC2007/val\nnames: [cat, dog]\n"
    )
    return folder


@pytest.fixture
def darknet_folder(tmp_path, write_picture) -> Path:
    """Darknet's lists: labels beside the pictures, one picture without a label file."""
    folder = tmp_path / "darknet"
    for number in range(3):
        write_picture(folder / "obj" / f"{number}.png", 60, 40, seed=number)
    (folder / "obj" / "0.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.1 0.2\n")
    (folder / "obj" / "1.txt").write_text("1 0.9 0.5 0.4 0.5\n")
    (folder / "train.txt").write_text("obj/0.png\nobj/1.png\nobj/2.png\n")
    (folder / "valid.txt").write_text("obj/1.png\n")
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "obj.data").write_text(
        "classes = 2\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\nbackup = backup\n"
    )
    (folder / "set.yaml").write_text("format: darknet\npath: .\ntrain: train.txt\nval: valid.txt\nnames: obj.names\n")
    return folder
