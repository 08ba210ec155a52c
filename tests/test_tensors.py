"""Files of tensors: whole or not there, the same bytes each time, and never unpickled."""

import io
import pickle
import resource

import pytest
import torch

from detect_prune import tensors
from detect_prune.classification import LeNet5
from detect_prune.errors import DetectPruneError
from detect_prune.tensors import load_state, read_tensors, write_tensors


def test_a_pickle_is_refused_in_one_sentence(tmp_path, recwarn):
    file = tmp_path / "stranger.pt"
    file.write_bytes(pickle.dumps({"call": print}, protocol=4))
    with pytest.raises(DetectPruneError, match=r"stranger\.pt: not a checkpoint: it is cut off"):
        read_tensors(file, "checkpoint")
    assert not recwarn.list


def test_tensors_are_the_same_bytes_whenever_they_are_written(tmp_path):
    state = {"weight": torch.arange(6.0).view(2, 3), "step": 3}
    for name in ("a.pt", "b.pt"):
        write_tensors(tmp_path / name, state)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert torch.equal(read_tensors(tmp_path / "a.pt", "checkpoint")["weight"], state["weight"])


def test_a_disk_that_fills_up_while_tensors_are_written_is_one_sentence(tmp_path):
    path = tmp_path / "last.pt"
    write_tensors(path, torch.zeros(3))
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(DetectPruneError, match=r"last\.pt: can't be written: File too large"):
            write_tensors(path, torch.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_ctrl_c_while_tensors_are_written_stays_one(tmp_path, monkeypatch, after):
    class Interrupted(io.FileIO):
        writes = 0

        def write(self, data):
            self.writes += 1
            if self.writes == after + 1:
                raise KeyboardInterrupt
            return super().write(data)

    monkeypatch.setattr(tensors, "open", Interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path / "last.pt", [torch.zeros(1000)] * 5)
    assert not list(tmp_path.iterdir())


def test_a_file_whose_keys_are_no_texts_holds_no_state(tmp_path):
    torch.save({1: torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(DetectPruneError, match="holds no state_dict"):
        load_state(LeNet5(), tmp_path / "x.pt")
