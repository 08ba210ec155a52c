"""CIFAR-10's python archive (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detect_prune.datasets.download import download, md5_of
from detect_prune.errors import DetectPruneError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ARCHIVE = "cifar-10-python.tar.gz"
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_MD5 = "c58f30108f718f92721af3b95e74349a"


def find_cifar10(root: Path) -> Path | None:
    """The archive in `root` or root/cifar10."""
    return next((path for path in (root / _ARCHIVE, root / "cifar10" / _ARCHIVE) if os.path.isfile(path)), None)


def read_cifar10(root: Path) -> list[tuple[Tensor, Tensor]]:
    """Train and test: images (N, 3, 32, 32) uint8 RGB and labels (N,) int64.

    The archive is looked for in `root` and root/cifar10, and downloaded to root/cifar10 if it is not there. It holds
    pickles, which could run anything; so it is opened only if it is, byte for byte, the published one.

    Raises:
        DetectPruneError: the archive is missing and can't be downloaded, or is another file.
    """
    archive = find_cifar10(root)
    if archive is None:
        archive = root / "cifar10" / _ARCHIVE
        download((_URL,), archive, _MD5)
    found = md5_of(archive)
    if found != _MD5:
        raise DetectPruneError(
            f"md5 {found} found; {_MD5} was expected, so the archive is damaged or another one and is not opened",
            file=archive,
        )
    with tarfile.open(archive) as tar:
        parts = [_read_part(tar, f"data_batch_{number}") for number in range(1, 6)]
        test = _read_part(tar, "test_batch")
    train = torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
    return [train, test]


def _read_part(tar: tarfile.TarFile, name: str) -> tuple[Tensor, Tensor]:
    part = pickle.load(tar.extractfile(f"cifar-10-batches-py/{name}"), encoding="bytes")
    images = np.ascontiguousarray(part[b"data"]).reshape(-1, 3, 32, 32)
    return torch.from_numpy(images), torch.tensor(part[b"labels"])
