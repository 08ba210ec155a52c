"""A detector and a data set so small that a whole run takes seconds."""

import pytest
from tiny import TINY_CFG, write_coco


@pytest.fixture
def tiny_cfg(tmp_path):
    path = tmp_path / "tiny.cfg"
    path.write_text(TINY_CFG)
    return path


@pytest.fixture
def tiny_data(tmp_path):
    return write_coco(tmp_path / "squares")
