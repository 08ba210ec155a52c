"""The table of official files: what can be computed is computed again."""

import hashlib
import re

import pytest

from detect_prune.darknet import load_cfg
from detect_prune.darknet.plan import plan_network
from detect_prune.errors import DetectPruneError
from detect_prune.official import DATA, WEIGHTS, find_weights_file
from detect_prune.resources import find_resource

HEADER = 20
ARCHIVES = {archive.name: archive.official for data in DATA.values() for archive in data.archives}
BACKBONE_OF = {"darknet53": "yolov3"}


@pytest.mark.parametrize("name", WEIGHTS)
def test_sizes_are_those_of_the_networks(name):
    """`darknet partial x.cfg x.weights x.conv.N N` keeps the layers before the Nth."""
    network, _, layers = name.removesuffix(".weights").partition(".conv.")
    steps = plan_network(load_cfg(find_resource("cfg", BACKBONE_OF.get(network, network))))
    floats = sum(step.floats for step in steps[: int(layers) if layers else None])
    assert WEIGHTS[name].file.size == HEADER + 4 * floats


@pytest.mark.parametrize("official", [*WEIGHTS.values(), *ARCHIVES.values()], ids=lambda official: official.file.name)
def test_rows_are_well_formed(official):
    file = official.file
    lengths = {"sha512": 128, "sha256": 64, "sha1": 40}
    if file.digest is not None:
        kind, value = file.digest.split(":")
        assert re.fullmatch(rf"[0-9a-f]{{{lengths[kind]}}}", value)
    assert bool(official.digest_source) == (file.digest is not None), "a digest has a source"
    assert file.urls and all(re.fullmatch(rf"https?://\S+/{re.escape(file.name)}", url) for url in file.urls)


def test_no_digest_stands_twice():
    digests = [official.file.digest for official in [*WEIGHTS.values(), *ARCHIVES.values()] if official.file.digest]
    assert len(set(digests)) == len(digests) >= 15


def test_the_digest_of_the_tiny_weights(real_data):
    content = (real_data / "weights/yolov4-tiny/yolov4-tiny.weights").read_bytes()
    assert WEIGHTS["yolov4-tiny.weights"].file.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_data_sets_name_descriptors_that_exist(data):
    text = find_resource("data", data.descriptor).read_text()
    assert f"path: ../datasets/{data.folder}\n" in text


@pytest.mark.parametrize("data", [data for data in DATA.values() if data.folder == "voc"])
def test_voc_is_fetched_as_far_as_its_descriptor_reads_it_and_no_farther(data):
    text = find_resource("data", data.descriptor).read_text()
    archive_of = {"VOC2007/trainval": "VOCtrainval_06-Nov-2007.tar", "VOC2007/test": "VOCtest_06-Nov-2007.tar"}
    archive_of["VOC2012/trainval"] = "VOCtrainval_11-May-2012.tar"
    read = re.findall(r"VOC20\d\d/\w+", "".join(re.findall(r"^(?:train|val): .*$", text, re.M)))
    assert {archive_of[split] for split in read} == {archive.name for archive in data.archives}


def test_names_with_and_without_their_ending():
    assert find_weights_file("yolov4") is find_weights_file("yolov4.weights") is WEIGHTS["yolov4.weights"]
    assert find_weights_file("yolov4.conv.137").file.name == "yolov4.conv.137"
    with pytest.raises(DetectPruneError, match=r"'yolov9'; there are yolov4\.weights.*the data coco"):
        find_weights_file("yolov9")
