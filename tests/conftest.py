"""What every test may ask for."""

import os
from pathlib import Path

import pytest


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
