import zipfile

import numpy as np
import pytest

from detect_prune.errors import DetectPruneError
from detect_prune.export.sizes import zip_size


@pytest.mark.parametrize("length", [0, 1, 100_000, 3_000_000])
def test_zip_size_is_that_of_a_real_zip(tmp_path, length):
    path = tmp_path / "pruned.weights"
    values = np.random.default_rng(0).standard_normal(length // 4).astype(np.float32)
    values[np.random.default_rng(1).random(len(values)) < 0.8] = 0
    path.write_bytes(values.tobytes() + b"x" * (length % 4))
    with zipfile.ZipFile(tmp_path / "real.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.write(path, path.name)
    assert zip_size(path) == (tmp_path / "real.zip").stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pruned.weights", "real.zip"], "nothing else is left on disk"


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "none.weights", tmp_path):
        with pytest.raises(DetectPruneError, match=str(path)):
            zip_size(path)
