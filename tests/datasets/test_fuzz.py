"""Thousands of damaged data files: what is not read is refused by a sentence that names the file, and a text's line."""

import gzip
import io
import json
import math
import re
import sys
import tarfile
from functools import partial

import numpy as np
import pytest
from fuzz import WORDS, case, limits, mutate_bytes, mutate_text, outcome
from pictures import FORMATS, encode
from PIL import Image

from detect_prune.datasets import load_data
from detect_prune.datasets.class_folders import read_class_folders
from detect_prune.datasets.coco import read_coco
from detect_prune.datasets.descriptor import read_names
from detect_prune.datasets.mnist import read_mnist
from detect_prune.datasets.picture import CorruptPicture, decode_picture
from detect_prune.datasets.voc import parse_xml

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits on time and memory are Linux's")

WITHOUT_LINE = re.compile(
    r"is missing|is empty|no class name|no picture|none of its|nested too deep|the data set|no box on any"
)
"""What is wrong with a file as a whole, or is not there, has no line."""


@pytest.fixture(autouse=True)
def bounded():
    with limits():
        yield


def fuzz_text(kind, cases, path, act, exact=False):
    """Damages `path` again and again; `exact`: each line stands for itself, so the error names a damaged one."""
    text = path.read_text()
    refused = 0
    for number in range(cases):
        data, touched = mutate_text(case(kind, number), text)
        path.write_bytes(data)
        error = outcome(kind, number, act)
        if error is None:
            continue
        refused += 1
        name = f"case({kind!r}, {number}): {error}"
        if error.line is None:
            assert WITHOUT_LINE.search(str(error)), name
        elif exact and error.file == path:
            assert error.line in touched, name
        elif error.file == path:
            assert 1 <= error.line <= data.count(b"\n") + data.count(b"\r") + 1, name
    path.write_text(text)
    act()
    assert cases / 10 < refused < cases, "the damage is too mild, or everything is refused"


def test_coco_as_text(coco_folder):
    file = coco_folder / "train.json"
    fuzz_text("coco", 2000, file, lambda: read_coco(coco_folder / "train", file))


HOSTILE = [
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    math.nan,
    math.inf,
    -1e300,
    1.5,
    "",
    "x",
    "\ud800",
    "\0",
    "../x",
    [],
    [[]],
    {},
]
HOSTILE += ["/dev/zero", "x" * 5000, [1, 2, 3], [1, 2, 3, math.nan], [0, 0, -5, -5], {"counts": [1], "size": [1, 1]}]


def places(data):
    """The paths of all values of a json document."""
    yield ()
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from ((key, *rest) for rest in places(value))


def test_coco_value_by_value(coco_folder):
    file = coco_folder / "train.json"
    text = file.read_text()
    whole = json.loads(text)
    paths = [path for path in places(whole) if path]
    refused = 0
    for number, (path, value) in enumerate((path, value) for path in paths for value in [*HOSTILE, KeyError]):
        data = json.loads(text)
        parent = data
        for key in path[:-1]:
            parent = parent[key]
        if value is KeyError:
            del parent[path[-1]]
        else:
            parent[path[-1]] = value
        file.write_text(json.dumps(data, indent=1))
        error = outcome("coco value", number, lambda: read_coco(coco_folder / "train", file))
        if error is None:
            continue
        refused += 1
        # The record itself is named, or one that refers to it or clashes with it.
        others = r"is not the id of any|is used twice|can't be found|is missing|is no list|is empty"
        assert len(path) < 2 or f"{path[0]}[{path[1]}]" in str(error) or re.search(others, str(error)), (path, error)
        assert error.line is not None or WITHOUT_LINE.search(str(error)), (path, error)
    assert refused > 1000


def test_xml(voc_folder):
    file = voc_folder / "VOC2007" / "Annotations" / "000001.xml"
    fuzz_text("xml", 1500, file, lambda: load_data(voc_folder / "set.yaml"))


def test_each_value_of_an_xml_names_its_line(voc_folder):
    file = voc_folder / "VOC2007" / "Annotations" / "000002.xml"
    text = file.read_text()
    values = [match.span(1) for match in re.finditer(r">([^<>\s]+)<", text)]
    refused = 0
    for number, (begin, end) in enumerate(values):
        line = text.count("\n", 0, begin) + 1
        for word in WORDS:
            file.write_text(text[:begin] + word + text[end:])
            error = outcome("xml value", number, lambda: load_data(voc_folder / "set.yaml", splits=("train",)))
            if error is not None and (refused := refused + 1):
                assert (error.file, error.line) == (file, line), (word, error)
    assert refused > 300


def test_entities_are_not_expanded(tmp_path):
    laughs = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">\n' for n in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY a0 "ha">\n{laughs}]>\n<annotation>&a11;</annotation>'
    file = tmp_path / "a.xml"
    for number, text in enumerate((bomb, bomb.replace("<!DOCTYPE", '<?xml version="1.0"?>\n<!DOCTYPE'))):
        file.write_text(text)
        error = outcome("bomb", number, lambda: parse_xml(file))
        assert "entities" in str(error) and error.line is not None


def test_image_sets(voc_folder):
    file = voc_folder / "VOC2007" / "ImageSets" / "Main" / "train.txt"
    fuzz_text("image set", 600, file, lambda: load_data(voc_folder / "set.yaml"), exact=True)


def test_darknet_labels(darknet_folder):
    file = darknet_folder / "obj" / "0.txt"
    file.write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.1 0.2\n0 0.125 0.5 0.25 0.75\n")
    fuzz_text("labels", 1000, file, lambda: load_data(darknet_folder / "set.yaml"), exact=True)


def test_darknet_lists(darknet_folder):
    file = darknet_folder / "train.txt"
    fuzz_text("list", 600, file, lambda: load_data(darknet_folder / "set.yaml"), exact=True)


def test_data_files(darknet_folder):
    fuzz_text("data file", 600, darknet_folder / "obj.data", lambda: load_data(darknet_folder / "obj.data"))


def test_names(darknet_folder):
    file = darknet_folder / "obj.names"
    file.write_text("".join(f"class {number}\n" for number in range(20)))
    fuzz_text("names", 300, file, lambda: read_names(file))


@pytest.mark.parametrize("folder", ["coco_folder", "voc_folder", "darknet_folder"])
def test_descriptors(folder, request):
    file = request.getfixturevalue(folder) / "set.yaml"
    fuzz_text(f"yaml {folder}", 300, file, lambda: load_data(file))


def test_a_yaml_of_aliases_does_not_grow(coco_folder):
    file = coco_folder / "set.yaml"
    aliases = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]\n" for n in range(1, 12))
    file.write_text("b0: &b0 [x]\n" + aliases + file.read_text())
    assert outcome("aliases", 0, lambda: load_data(file)) is not None


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_mnist(tmp_path, end):
    files = {}
    for split in ("train", "t10k"):
        files[f"{split}-images-idx3-ubyte"] = idx(np.arange(4 * 784, dtype=np.uint8).reshape(4, 28, 28))
        files[f"{split}-labels-idx1-ubyte"] = idx(np.arange(4, dtype=np.uint8))
    pack = gzip.compress if end else bytes
    for name, data in files.items():
        (tmp_path / f"{name}{end}").write_bytes(pack(data))
    for number in range(500):
        rng = case("idx", number)
        name = rng.choice(list(files))
        path = tmp_path / f"{name}{end}"
        whole = pack(files[name])
        # Half of the gzipped ones are damaged inside, where the checksum does not notice.
        path.write_bytes(pack(mutate_bytes(rng, files[name])) if rng.random() < 0.5 else mutate_bytes(rng, whole))
        error = outcome("idx" + end, number, lambda: read_mnist(tmp_path))
        # The labels' file is compared with the pictures', and may be the one to be named.
        assert error is None or error.file.name.split("-")[0] == name.split("-")[0]
        path.write_bytes(whole)


def test_a_gzip_bomb_is_not_blown_up(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((1, 28, 28), np.uint8))))
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx(np.zeros((1, 28, 28), np.uint8)))
        for _ in range(1000):
            file.write(bytes(1_000_000))
    assert "784 bytes were expected behind the header, more" in str(outcome("gzip", 0, lambda: read_mnist(tmp_path)))


def encoded(form, **options):
    x, y = np.meshgrid(np.linspace(0, 255, 60), np.linspace(0, 255, 40))
    return encode(Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8)), form, **options)


def add(tar, name, data, **changes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data) if member.isreg() else None)


@pytest.mark.parametrize("mode", ["", "gz", "bz2", "xz"])
@pytest.mark.usefixtures("cache")
def test_archives(tmp_path, mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{mode}", format=tarfile.PAX_FORMAT) as tar:
        for split in ("train", "test"):
            for label in ("cat", "dög" * 40):  # a long name and one that is not ASCII take headers of their own
                add(tar, f"set/{split}/{label}/0.png", encoded("PNG"))
    whole = file.getvalue()
    path = tmp_path / f"set.tar{mode and '.'}{mode}"
    for number in range(250):
        path.write_bytes(mutate_bytes(case(f"tar {mode}", number), whole))
        error = outcome(f"tar {mode}", number, lambda: read_class_folders(path))
        assert error is None or error.file == path
    path.write_bytes(whole)
    assert read_class_folders(path)[1] == ("cat", "dög" * 40)


@pytest.mark.usefixtures("cache")
def test_archives_with_strange_members(tmp_path):
    path = tmp_path / "set.tar"

    def read_with(name, data=b"", **changes):
        with tarfile.open(path, "w") as tar:
            for split in ("train", "test"):
                add(tar, f"{split}/cat/0.png", encoded("PNG"))
            add(tar, name, data, **changes)
        return outcome(name, 0, lambda: read_class_folders(path))

    assert "in no class folder" in str(read_with("train/../1.png", encoded("PNG")))
    assert "/etc/1.png" not in str(read_with("/etc/1.png", encoded("PNG")))
    assert "has 17000000 bytes" in str(read_with("train/cat/1.png", bytes(17_000_000)))
    assert read_with("train/cat/1.png", type=tarfile.SYMTYPE, linkname="/etc/passwd") is None
    assert "this is a link" in read_class_folders(path)[4][0]
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("form, options", FORMATS)
def test_pictures(form, options, capfd):
    whole = encoded(form, **options)
    kind = f"{form} {options}"
    read = 0
    for number in range(500):
        data = mutate_bytes(case(kind, number), whole)
        error = outcome(kind, number, partial(decode_picture, data, "a.picture"))
        read += error is None
        assert error is None or isinstance(error, CorruptPicture)
    assert read < 450
    capfd.readouterr()  # the decoders' own words on what they see
