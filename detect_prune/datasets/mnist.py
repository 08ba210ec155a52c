"""MNIST's idx files (http://yann.lecun.com/exdb/mnist), plain or gzipped, read directly."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detect_prune.datasets.download import download
from detect_prune.errors import DetectPruneError

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""Of the .gz files as published; only what is downloaded is held against them, since gzipping again changes them."""


def read_mnist(root: Path) -> list[tuple[Tensor, Tensor]]:
    """Train and test: images (N, 1, 28, 28) uint8 and labels (N,) int64.

    The four files are looked for in `root`, root/mnist and root/MNIST/raw, with and without .gz, and downloaded to
    root/mnist if none of them is there.

    Raises:
        DetectPruneError: a file is missing, cut off, or something else.
    """
    folder = _find(root)
    splits = []
    for split in ("train", "t10k"):
        image_file, label_file = (_existing(folder, f"{split}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if images.shape[1:] != (28, 28):
            raise DetectPruneError(
                f"pictures of {images.shape[2]} x {images.shape[1]} found; 28 x 28 was expected", file=image_file
            )
        if len(images) != len(labels):
            raise DetectPruneError(f"{len(labels)} labels for {len(images)} pictures", file=label_file)
        if len(labels) == 0:
            raise DetectPruneError("the data set is empty", file=image_file)
        if labels.max() > 9:
            raise DetectPruneError(f"label {labels.max()} found; 0 to 9 was expected", file=label_file)
        splits.append((torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()))
    return splits


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an idx file of unsigned bytes: magic 0, 0, 8, dimensions; the sizes as big-endian int32; the bytes.

    Raises:
        DetectPruneError: cut off, too long, another kind of file.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DetectPruneError(f"broken or cut off gzip file ({error})", file=path) from None
    except OSError as error:
        raise DetectPruneError(f"can't be read: {error.strerror}", file=path) from None
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes([0, 0, 8, dimensions]):
        raise DetectPruneError(
            f"this is no idx file of bytes with {dimensions} dimensions (it begins with {data[:4].hex(' ')})", file=path
        )
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    expected = head + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise DetectPruneError(
            f"{len(data)} bytes found; {expected} were expected for {' x '.join(map(str, shape))}", file=path
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape).copy()


def _find(root: Path) -> Path:
    for folder in (root, root / "mnist", root / "MNIST" / "raw"):
        if any((folder / f"{name}{end}").is_file() for name in _MD5 for end in ("", ".gz")):
            return folder
    folder = root / "mnist"
    for name, md5 in _MD5.items():
        download(tuple(f"{mirror}{name}.gz" for mirror in _MIRRORS), folder / f"{name}.gz", md5)
    return folder


def _existing(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DetectPruneError("this file of MNIST's four is missing (also without .gz)", file=folder / f"{name}.gz")
