"""CIFAR-10's python archive (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detect_prune.datasets.download import download
from detect_prune.errors import DetectPruneError
from detect_prune.files import first_file
from detect_prune.transfer import digest_of

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ARCHIVE = "cifar-10-python.tar.gz"
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_MD5 = "c58f30108f718f92721af3b95e74349a"


def find_cifar10(root: Path) -> Path | None:
    """The archive in `root` or root/cifar10."""
    return first_file((root / _ARCHIVE, root / "cifar10" / _ARCHIVE))


def read_cifar10(root: Path) -> list[tuple[Tensor, Tensor]]:
    """Train and test: images (N, 3, 32, 32) uint8 RGB and labels (N,) int64.

    The archive is looked for in `root` and root/cifar10, and downloaded to root/cifar10 if it is not there. It holds
    pickles: of those nothing is made but arrays and plain values.

    Raises:
        DetectPruneError: the archive is missing and can't be downloaded, or is another file.
    """
    archive = find_cifar10(root)
    if archive is None:
        archive = root / "cifar10" / _ARCHIVE
        download((_URL,), archive, _MD5)
    found = digest_of(archive, "md5")
    if found != _MD5:
        raise DetectPruneError(
            f"md5 {found} found; {_MD5} was expected, so the archive is damaged or another one",
            file=archive,
        )
    try:
        with tarfile.open(archive) as tar:
            parts = [_read_part(tar, f"data_batch_{number}") for number in range(1, 6)]
            test = _read_part(tar, "test_batch")
    except pickle.UnpicklingError as error:
        raise DetectPruneError(f"what it holds is not CIFAR-10: {error}", file=archive) from None
    train = torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
    return [train, test]


class _ArraysOnly(pickle.Unpickler):
    """A pickle can name anything that can be imported, and call it. An md5 keeps out no forged one."""

    def find_class(self, module: str, name: str) -> Any:
        wanted = {
            "numpy.core.multiarray": ("_reconstruct",),  # as the published files say
            "numpy._core.multiarray": ("_reconstruct",),  # since numpy 2
            "numpy": ("ndarray", "dtype"),
        }
        if name not in wanted.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module, name)


def _read_part(tar: tarfile.TarFile, name: str) -> tuple[Tensor, Tensor]:
    part = _ArraysOnly(tar.extractfile(f"cifar-10-batches-py/{name}"), encoding="bytes").load()
    images = np.ascontiguousarray(part[b"data"]).reshape(-1, 3, 32, 32)
    return torch.from_numpy(images), torch.tensor(part[b"labels"])
