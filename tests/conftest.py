"""What every test may ask for."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers in every run of a test, whichever tests ran before it: a failure can be seen again."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def gpu() -> torch.device:
    """A GPU that can do what a run on it may ask for; the test is skipped where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data and weights; the test is skipped where nobody says that there is one."""
    folder = os.environ.get("DETECT_PRUNE_TEST_DATA")
    if folder is None:
        pytest.skip("DETECT_PRUNE_TEST_DATA is not set: no real data")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"DETECT_PRUNE_TEST_DATA names {path}, which is not a folder")
    return path


@pytest.fixture
def terminal():
    """SIGHUP ends a process, as in a terminal: under nohup it is ignored, and in all that the tests start as well."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
