"""Archives are unpacked below their folder, or not at all."""

import io
import os
import tarfile
import zipfile

import pytest

from detect_prune.errors import DetectPruneError
from detect_prune.official.archives import unpack

FILES = {"VOCdevkit/VOC2007/a.xml": b"<a/>", "VOCdevkit/b.txt": b"b" * 5000, "c": b""}


def make_zip(path, files=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.mkdir("VOCdevkit")
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def make_tar(path, files=FILES):
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("VOCdevkit")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


MAKERS = [make_zip, make_tar]


def content_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", MAKERS)
def test_everything_is_unpacked_and_a_second_time_nothing(tmp_path, make):
    told = []
    assert unpack(make(tmp_path / "x"), tmp_path / "out", told.append) == 3
    assert content_of(tmp_path / "out") == FILES and told == [1, 2, 3]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out" / "VOCdevkit" / "b.txt").write_bytes(b"half")
    told.clear()
    unpack(tmp_path / "x", tmp_path / "out", told.append)
    assert content_of(tmp_path / "out") == FILES and told == [3], "only what was not whole"
    other = tmp_path / "out" / "VOCdevkit" / "VOC2007" / "a.xml"
    assert other.stat().st_mtime_ns == before[other]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["../out2/x", "/etc/x", "a/../../x", "..", "C:x", "a\\..\\..\\x"])
def test_nothing_lands_outside(tmp_path, make, name):
    archive = make(tmp_path / "x", {"good": b"1", name: b"2"})
    with pytest.raises(DetectPruneError, match="outside its folder; nothing was unpacked"):
        unpack(archive, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x", "w") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DetectPruneError, match="'link' in this archive is a link or a device"):
        unpack(tmp_path / "x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_damaged_is_named(tmp_path, make):
    content = make(tmp_path / "x", {"a": os.urandom(50_000)}).read_bytes()
    flipped = content[:20_000] + bytes(1000) + content[21_000:]  # a tar's content has no checksum of its own
    for damaged in (b"", b"no archive", content[: len(content) // 2], *([flipped] if make is make_zip else [])):
        (tmp_path / "x").write_bytes(damaged)
        with pytest.raises(DetectPruneError, match=r"/x: this archive can't be unpacked .*damaged\?"):
            unpack(tmp_path / "x", tmp_path / "out")
        assert not content_of(tmp_path / "out")


def test_room_is_asked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 5003}))
    with pytest.raises(DetectPruneError, match="to unpack x"):
        unpack(make_zip(tmp_path / "x"), tmp_path / "out")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 5004}))
    unpack(tmp_path / "x", tmp_path / "out")
