"""Small pictures with one label each: MNIST, CIFAR-10, folders of class folders. Whole sets, as tensors in memory."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from detect_prune.datasets.cifar import CIFAR10_CLASSES, find_cifar10, read_cifar10
from detect_prune.datasets.class_folders import is_class_folder_set, read_class_folders
from detect_prune.datasets.mnist import read_mnist
from detect_prune.datasets.share import WHOLE, Share
from detect_prune.errors import DetectPruneError

DEFAULT_ROOT = Path("datasets")
_PADDING = 4


@dataclass
class LabelledPictures:
    """One split."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Eight hexadecimal digits that change with the pictures and labels."""
        found = zlib.crc32(self.labels.contiguous().numpy())
        return f"{zlib.crc32(self.images.contiguous().numpy(), found):08x}"


@dataclass
class ClassificationData:
    """A data set of small pictures."""

    name: str
    """`mnist`, `cifar10`, or the name of the folder or archive, so that no other set passes for CIFAR-10."""
    classes: tuple[str, ...]
    train: LabelledPictures
    test: LabelledPictures
    warnings: list[str] = field(default_factory=list)
    """Sentences on pictures that could not be read and were left out."""

    @cached_property
    def digest(self) -> str:
        """What tells these pictures from others, see LabelledPictures.digest; made once, since it reads all of them."""
        return f"{self.train.digest()}-{self.test.digest()}"


def load_classification(name_or_path: str | Path, root: str | Path | None = None) -> ClassificationData:
    """Loads a data set of small pictures.

    Args:
        name_or_path: `mnist`, `cifar10`, or a folder (or a tar of it) with train/CLASS/*.jpg and test/CLASS/*.jpg.
        root: where the files of `mnist` and `cifar10` are looked for, and downloaded to if they are not there;
            ./datasets if not given. One that is given may, for `cifar10`, also be a folder of class folders, or hold a
            tar of them, if the published archive is not there.

    Raises:
        DetectPruneError: files are missing and can't be downloaded, cut off, of another size or kind, or empty.
    """
    folder = DEFAULT_ROOT if root is None else Path(root)
    if root is not None and not os.path.exists(folder):
        raise DetectPruneError("the data folder does not exist", file=folder)
    if str(name_or_path) == "mnist":
        train, test = (LabelledPictures(*split) for split in read_mnist(folder))
        return ClassificationData("mnist", tuple("0123456789"), train, test)
    path = Path(name_or_path)
    if str(name_or_path) == "cifar10":
        # In ./datasets a tar may be anything.
        if root is None or find_cifar10(folder) is not None or not is_class_folder_set(folder):
            train, test = (LabelledPictures(*split) for split in read_cifar10(folder))
            return ClassificationData("cifar10", CIFAR10_CLASSES, train, test)
        path = folder
    if not os.path.exists(path):  # unlike Path.exists, not upset by a name that is too long
        raise DetectPruneError(
            "no such data set: mnist, cifar10, or a folder with train/CLASS and test/CLASS was expected", file=path
        )
    name, classes, train, test, warnings = read_class_folders(path)
    return ClassificationData(name, classes, LabelledPictures(*train), LabelledPictures(*test), warnings)


def in_grey(data: ClassificationData) -> ClassificationData:
    """The set with one channel, if all of its pictures are in shades of grey, which class folders have in three; else
    as it is."""
    splits = (data.train, data.test)
    if any(not torch.equal(split.images[:, :1].expand_as(split.images), split.images) for split in splits):
        return data
    train, test = (LabelledPictures(split.images[:, :1].contiguous(), split.labels) for split in splits)
    return replace(data, train=train, test=test)


def held_out(data: ClassificationData, count: int) -> ClassificationData:
    """The set with `count` of its training pictures in place of the test pictures; they are not trained on any more.

    What is chosen by the score on them was not chosen by the test pictures. They are drawn at random, the same ones
    every time; a network whose weights were trained before may have seen them.

    Raises:
        DetectPruneError: there are not so many.
    """
    train = data.train
    if not 0 < count < len(train):
        raise DetectPruneError(
            f"{count:,} pictures can't be held out: {data.name} has {len(train):,} pictures to train on"
        )
    held = torch.zeros(len(train), dtype=torch.bool)
    held[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]] = True
    rest, test = (LabelledPictures(train.images[part], train.labels[part]) for part in (~held, held))
    return ClassificationData(f"{data.name} ({count:,} held out)", data.classes, rest, test, data.warnings)


def crop_and_flip(
    images: Tensor,
    generator: torch.Generator,
    wanted: slice = slice(None),
    device: torch.device | str = "cpu",
) -> Tensor:
    """CIFAR's usual augmentation: 4 zeros on each side, cropped at random to the old size, mirrored in half the cases.

    Args:
        images: (B, C, H, W) uint8.
        generator: where the draws come from, on the CPU: they are the same whatever the device.
        wanted: which of the pictures are returned; what is drawn for each does not depend on it.
        device: where that is done, and where the result is.
    """
    count, _, height, width = images.shape
    top, left = (torch.randint(2 * _PADDING + 1, (count, 1), generator=generator)[wanted] for _ in range(2))
    flip = torch.rand(count, 1, generator=generator)[wanted] < 0.5
    count = len(flip)
    padded = functional.pad(images[wanted].to(device, non_blocking=True), (_PADDING,) * 4)
    rows = top + torch.arange(height)  # (B, H)
    columns = torch.arange(width).expand(count, width)
    columns = left + torch.where(flip, width - 1 - columns, columns)  # (B, W)
    rows, columns = (place.to(device, non_blocking=True) for place in (rows[:, :, None], columns[:, None, :]))
    # Indexing with the channels kept whole: (B, H, W, C) comes out, since the slice stands between the indices.
    picked = padded[torch.arange(count, device=device)[:, None, None], :, rows, columns]
    return picked.permute(0, 3, 1, 2).contiguous()


def classification_batches(
    split: LabelledPictures,
    batch: int,
    seed: int,
    epoch: int,
    start: int = 0,
    augment: bool = False,
    share: Share = WHOLE,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch in an order drawn from (seed, epoch), from batch `start` on; the last may be smaller.

    Args:
        augment: `crop_and_flip`, drawn from (seed, epoch, number of the batch).
        share: the part of each batch that is wanted; it may be empty where the last batch is small.
        device: where the batches are wanted. A GPU augments them itself: on the CPU that would hold up the training.

    Yields:
        Images (B, C, H, W) uint8 and labels (B,) int64.
    """
    order = torch.randperm(len(split), generator=_generator(seed, epoch))
    for number in range(start, -(-len(order) // batch)):
        chosen = order[number * batch : (number + 1) * batch]
        part = share.part(len(chosen))
        if augment:
            images = crop_and_flip(split.images[chosen], _generator(seed, epoch, number), wanted=part, device=device)
        else:
            images = split.images[chosen[part]].to(device, non_blocking=True)
        # Not waited for: training would only queue the backward pass once the forward pass has ended.
        yield images, split.labels[chosen[part]].to(device, non_blocking=True)


def _generator(*key: int) -> torch.Generator:
    # numpy's seed sequence mixes the numbers, so that neighbouring keys have unrelated draws.
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(seed)
