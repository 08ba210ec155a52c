"""A run's folder belongs to one process at a time."""

import errno

import pytest
from held import held_elsewhere
from toy import run

from detect_prune.engine.lock import lock_folder
from detect_prune.errors import DetectPruneError


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    pytest.importorskip("fcntl")
    folder = tmp_path / "run"
    with held_elsewhere(folder), pytest.raises(DetectPruneError, match="another process is at work"):
        lock_folder(folder)
    lock_folder(folder).close()


def test_a_disk_that_locks_nothing_is_no_other_process(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock_folder(tmp_path).close()


def test_one_process_may_go_on_with_its_own_run(tmp_path):
    with lock_folder(tmp_path):
        lock_folder(tmp_path).close()


def test_a_run_that_could_not_begin_holds_nothing(tmp_path):
    pytest.importorskip("fcntl")
    run(tmp_path, method="dense", ratio=None)
    with pytest.raises(DetectPruneError, match="other settings") as kept:  # as a notebook keeps the last error
        run(tmp_path, method="dense", ratio=None, seed=1, resume=True)
    with held_elsewhere(tmp_path):
        assert kept.value.__traceback__ is not None


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DetectPruneError, match="file"):
        lock_folder(tmp_path / "file" / "run")
