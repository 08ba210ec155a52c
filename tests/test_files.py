"""Whole files or none, and every failure in one sentence that names its file."""

import errno
import json
import os
import stat

import pytest

from detect_prune import files
from detect_prune.errors import DetectPruneError
from detect_prune.files import (
    atomic_path,
    first_file,
    make_folder,
    read_json,
    read_text,
    remove_unfinished,
    require_disk_space,
    require_writable,
    write_json,
    write_text,
)


def test_what_is_written_is_read_back_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "grün\n")
    assert read_text(path, "text") == "grün\n"
    write_text(path, "second")
    assert path.read_bytes() == b"second" and list(path.parent.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_refuses_nan_before_it_touches_the_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"a": [1, None]}


def test_a_file_in_the_place_of_a_folder_and_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for refuse in (write_text, lambda path, _: require_writable(path)):
        with pytest.raises(DetectPruneError, match="file: this folder can't be made"):
            refuse(tmp_path / "file" / "a.txt", "")
        with pytest.raises(DetectPruneError, match=r"folder: this is a folder"):
            refuse(tmp_path / "folder", "")
    with pytest.raises(DetectPruneError, match="can't be made"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(DetectPruneError, match="can't be made"):
        require_disk_space(tmp_path / "file", 1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    # Whoever runs the tests as root may write anywhere, so the refusal is played.
    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    for write in (lambda: write_text(tmp_path / "a.txt", ""), lambda: require_writable(tmp_path / "a.txt")):
        with pytest.raises(DetectPruneError, match=r"a\.txt: can't be written: Permission denied"):
            write()


def test_a_full_disk_is_named_and_a_broken_connection_is_left_to_its_caller(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(DetectPruneError, match=r"a\.txt: can't be written: No space left"), atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ConnectionResetError), atomic_path(path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_said_in_megabytes(tmp_path):
    require_disk_space(tmp_path / "new", 1)
    with pytest.raises(DetectPruneError, match=r"new: the disk has \d+ MB free, and this run needs about 10+ MB"):
        require_disk_space(tmp_path / "new", 10**21)


@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), require_writable])
def test_what_is_no_file_is_not_replaced_by_one(tmp_path, write):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(DetectPruneError, match=f"{name}: this is no regular file; the name of a file"):
            write(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_file_is_written(tmp_path, there):
    target = tmp_path / "elsewhere" / "a.txt"
    if there:
        write_text(target, "old")
    (tmp_path / "link.txt").symlink_to(target)
    require_writable(tmp_path / "link.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink() and target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_name_that_is_not_utf_8_can_be_written_about(tmp_path):
    write_text(tmp_path / "a.txt", "caf\udce9.png")
    assert (tmp_path / "a.txt").read_text() == "caf\\udce9.png"


def test_require_writable_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / "new" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "no such file; a recipe was expected here"),
        (lambda path: path.mkdir(), "this is a folder; a recipe"),
        (lambda path: path.write_bytes(b"ab\xff"), r"byte 2 is not UTF-8"),
        (lambda path: os.mkfifo(path), "this is no regular file; a recipe"),
    ],
)
def test_what_can_not_be_read(tmp_path, make, message):
    make(tmp_path / "a")
    with pytest.raises(DetectPruneError, match=rf"a(:\d+)?: .*{message}"):
        read_text(tmp_path / "a", "recipe")


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path):
    (tmp_path / "a").write_bytes("ä\r\nb\n".encode() + b"c\xe4")
    with pytest.raises(DetectPruneError, match=r"a:3: .*byte 7 is not UTF-8"):
        read_text(tmp_path / "a", "recipe")


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfx")
    assert read_text(tmp_path / "a", "text") == "x"


def test_what_a_kill_leaves_half_written_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "pictures").mkdir()
    kept = [tmp_path / ".lock", tmp_path / "last.pt", tmp_path / "pictures" / "a.jpg"]
    for path in kept:
        path.touch()
    killed = [atomic_path(path) for path in kept[1:]]  # never left
    left = [each.__enter__() for each in killed]
    (tmp_path / "inner" / "pictures").mkdir(parents=True)
    elsewhere = tmp_path / "inner" / f"{files.UNFINISHED}x.pt"  # of another run, which may be at work
    elsewhere.touch()
    (tmp_path / f"{files.UNFINISHED}scratch").mkdir()
    (tmp_path / f"{files.UNFINISHED}scratch" / "pruned.weights").touch()
    assert all(path.exists() for path in left)
    for folder in (tmp_path, tmp_path / "pictures", tmp_path / "not there"):
        remove_unfinished(folder)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*kept, elsewhere])


def test_what_is_no_json_is_one_sentence(tmp_path):
    file = tmp_path / "a.json"
    for text in ("", "{", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(DetectPruneError, match=r"a\.json: not valid JSON .*; damaged, or no list of things$"):
            read_json(file, "list of things")
    file.write_text('{"a": 1}')
    assert read_json(file, "list of things", object_pairs_hook=list) == [("a", 1)]


def test_the_first_file_is_no_folder_and_no_name_too_long(tmp_path):
    (tmp_path / "a").write_text("")
    assert first_file([tmp_path / ("x" * 300), tmp_path, tmp_path / "a", tmp_path / "b"]) == tmp_path / "a"
    assert first_file([tmp_path / "b"]) is None
