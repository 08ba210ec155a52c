import errno
from contextlib import closing

import numpy as np
import pytest

from detect_prune.errors import DetectPruneError
from detect_prune.report.tensorboard import EventWriter


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_scalars_and_pictures_are_read_back(tmp_path):
    picture = np.zeros((8, 12, 3), np.uint8)
    with closing(EventWriter(tmp_path)) as writer:
        for step in range(3):
            writer.scalars({"loss": 3.0 - step, "kept/layer 0": 0.5}, step)
        writer.picture("val/boxes", picture, 2)
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert events.Tags()["scalars"] == ["loss", "kept/layer 0"] or len(events.Tags()["scalars"]) == 2
    image = events.Images("val/boxes")[0]
    assert (image.width, image.height, image.step) == (12, 8, 2)


def test_a_writer_that_is_not_used_leaves_no_file(tmp_path):
    EventWriter(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_replaces_what_was_written_after_its_checkpoint(tmp_path):
    with closing(EventWriter(tmp_path)) as writer:
        for step in range(10):
            writer.scalars({"loss": 1.0}, step)
    with closing(EventWriter(tmp_path, purge_step=6)) as writer:
        for step in range(6, 12):
            writer.scalars({"loss": 2.0}, step)
    events = read(tmp_path).Scalars("loss")
    assert [e.step for e in events] == list(range(12)), "no step twice, none lost"
    assert [e.value for e in events] == [1.0] * 6 + [2.0] * 6


def test_a_folder_whose_name_is_no_utf8_is_one_sentence(tmp_path):
    with (
        closing(EventWriter(tmp_path / "l\udcfc")) as writer,
        pytest.raises(DetectPruneError, match="can't be written"),
    ):
        writer.scalars({"loss": 2.0}, 0)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(EventWriter(tmp_path)) as writer:
        writer.scalars({"loss": 2.0}, 0)
        calls = {
            "add_scalar": lambda: writer.scalars({"loss": 1.0}, 1),
            "add_image": lambda: writer.picture("a", np.zeros((8, 8, 3), np.uint8), 1),
            "close": writer.close,
        }
        for method, call in calls.items():
            with monkeypatch.context() as patched, pytest.raises(DetectPruneError, match="written: No space left"):
                patched.setattr(writer._writer, method, full)
                call()
