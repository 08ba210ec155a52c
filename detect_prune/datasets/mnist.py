"""MNIST's idx files (http://yann.lecun.com/exdb/mnist), plain or gzipped, read directly."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from detect_prune.datasets.download import download
from detect_prune.errors import DetectPruneError
from detect_prune.files import first_file, open_binary

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""Of the .gz files as published; only what is downloaded is held against them, since gzipping again changes them."""

_MOST_ITEMS = 1_000_000
"""MNIST has 60,000, and the largest set in its form 814,255 (EMNIST)."""


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
        images, labels = read_idx(image_file, (28, 28)), read_idx(label_file, ())
        if len(images) != len(labels):
            raise DetectPruneError(f"{len(labels)} labels for {len(images)} pictures", file=label_file)
        if len(labels) == 0:
            raise DetectPruneError("the data set is empty", file=image_file)
        if labels.max() > 9:
            raise DetectPruneError(f"label {labels.max()} found; 0 to 9 was expected", file=label_file)
        splits.append((torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()))
    return splits


def read_idx(path: Path, item: tuple[int, ...]) -> np.ndarray:
    """Reads an idx file of unsigned bytes: magic 0, 0, 8, dimensions; the sizes as big-endian int32; the bytes.

    The sizes are looked at before the bytes are read: a gzipped file grows a thousandfold.

    Args:
        path: the file; gzipped if its name ends in .gz.
        item: the shape of one item, () or (height, width).

    Returns:
        (N, *item) uint8.

    Raises:
        DetectPruneError: cut off, too long, another kind of file, items of another shape.
    """
    with open_binary(path, "MNIST file (idx)") as file:
        try:
            with gzip.open(file) if path.suffix == ".gz" else file as content:
                return _read_items(content, path, item)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DetectPruneError(f"broken or cut off gzip file ({error})", file=path) from None
        except OSError as error:
            raise DetectPruneError(f"can't be read: {error.strerror}", file=path) from None


def _read_items(content: IO[bytes], path: Path, item: tuple[int, ...]) -> np.ndarray:
    dimensions = 1 + len(item)
    head = content.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
        raise DetectPruneError(
            f"this is no idx file of bytes with {dimensions} dimensions (it begins with {head[:4].hex(' ')})", file=path
        )
    count, *shape = struct.unpack(f">{dimensions}I", head[4:])
    if tuple(shape) != item:
        found, expected = (" x ".join(map(str, sides)) for sides in (reversed(shape), reversed(item)))
        raise DetectPruneError(f"pictures of {found} found; {expected} was expected", file=path)
    if count > _MOST_ITEMS:
        raise DetectPruneError(f"the header says {count} items; {_MOST_ITEMS} at most are read", file=path)
    expected = count * math.prod(item)
    data = content.read(expected + 1)
    if len(data) != expected:
        found = f"only {len(data)}" if len(data) < expected else "more"
        raise DetectPruneError(f"{expected} bytes were expected behind the header, {found} are there", file=path)
    return np.frombuffer(data, np.uint8).reshape(count, *item).copy()


def _find(root: Path) -> Path:
    for folder in (root, root / "mnist", root / "MNIST" / "raw"):
        if first_file(folder / f"{name}{end}" for name in _MD5 for end in ("", ".gz")):
            return folder
    folder = root / "mnist"
    for name, md5 in _MD5.items():
        download(tuple(f"{mirror}{name}.gz" for mirror in _MIRRORS), folder / f"{name}.gz", md5)
    return folder


def _existing(folder: Path, name: str) -> Path:
    if found := first_file((folder / name, folder / f"{name}.gz")):
        return found
    raise DetectPruneError("this file of MNIST's four is missing (also without .gz)", file=folder / f"{name}.gz")
