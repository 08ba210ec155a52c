"""What several rooms of the engine's tests start from."""

import pytest
from toy import run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run."""
    return run(tmp_path_factory.mktemp("whole") / "run")
