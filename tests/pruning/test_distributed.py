"""Two gloo processes hold the same Z, U and mask, and those of one process with the same global batch."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("distributed_run.py")


def under_torchrun(folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, str(SCRIPT), str(folder)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def in_this_process(folder):
    # As torchrun has it: with more threads sums are rounded otherwise, and where `lamp` counts in float32 that shows.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(SCRIPT))["main"](folder)
    finally:
        torch.set_num_threads(threads)
    return torch.load(folder / "0.pt", weights_only=True)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_hold_the_same_and_what_one_would(tmp_path):
    first, second = under_torchrun(tmp_path)
    alone = in_this_process(tmp_path)
    assert first["rho"] == second["rho"] == pytest.approx(alone["rho"], rel=1e-9)
    for kind in ("z", "u", "masks", "weights"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), (kind, name)
    assert sum(int(mask.sum()) for mask in first["masks"].values()) == 43050
    for name, mask in alone["masks"].items():
        assert torch.equal(first["masks"][name], mask), name
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-9, atol=1e-12)
