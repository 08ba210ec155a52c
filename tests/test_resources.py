"""Names are looked up as given, then in the working folder, then in the package."""

import pytest

from detect_prune.errors import DetectPruneError
from detect_prune.resources import find_resource, packaged_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["yolov4.cfg", "yolov4"])
def test_the_order_of_the_places(here, name):
    assert find_resource("cfg", name) == packaged_folder("cfg") / "yolov4.cfg"
    (here / "cfg").mkdir()
    (here / "cfg" / "yolov4.cfg").touch()
    assert find_resource("cfg", name).resolve() == here / "cfg" / "yolov4.cfg"
    (here / "yolov4.cfg").touch()
    assert find_resource("cfg", name).resolve() == here / "yolov4.cfg"


def test_the_ending_of_the_kind_is_added_and_no_other(here):
    assert find_resource("data", "coco").name == "coco.yaml"
    assert find_resource("data", "coco.names").name == "coco.names"
    with pytest.raises(DetectPruneError):
        find_resource("cfg", "coco")


def test_a_dot_in_a_name_is_no_ending(here):
    (here / "cfg").mkdir()
    (here / "cfg" / "tiny-0.8.cfg").touch()
    assert find_resource("cfg", "tiny-0.8").name == "tiny-0.8.cfg"


def test_what_is_missing_is_named_with_what_there_is(here):
    with pytest.raises(DetectPruneError, match=r"nothing\.cfg: no such file.*yolov4-tiny\.cfg"):
        find_resource("cfg", "nothing.cfg")
    with pytest.raises(DetectPruneError, match="no such file"):
        find_resource("cfg", "x" * 5000)


@pytest.mark.parametrize("kind", ["cfg", "data"])
@pytest.mark.parametrize("name", ["", ".", "/"])
def test_what_is_no_name_is_refused(here, kind, name):
    with pytest.raises(DetectPruneError, match="is not the name of a file"):
        find_resource(kind, name)
