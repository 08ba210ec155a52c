"""Batches for training and scoring: the same ones whatever the number of workers, and from any batch of an epoch on.

Training batches are made in processes: augmentation is Python's work. Scoring batches are made in threads: decoding and
resizing are OpenCV's, which lets go of Python's lock, and a thread starts at once and copies nothing between processes.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detect_prune.datasets.augment import Augmentation, Sample, albumentations_transform, augment_sample
from detect_prune.datasets.detection_set import DetectionSet
from detect_prune.datasets.letterbox import Fit, Placement
from detect_prune.datasets.picture import CorruptPicture, read_picture
from detect_prune.datasets.share import WHOLE, Share
from detect_prune.errors import Notice
from detect_prune.numbers import counted
from detect_prune.structures import Truth

CACHE_BYTES = 300_000_000
"""A training set whose decoded pictures fit in this is kept in memory: reading JPEGs is half of the work."""
AHEAD_BYTES = 1_000_000_000
"""Scoring batches are made ahead until they take so much, whatever the number of threads."""


@dataclass
class Batch:
    """Pictures at the network's size and what is in them.

    A picture that can't be read is left out and named in `skipped`, so B may be smaller than asked for, and even 0.
    """

    pictures: Tensor
    """(B, 3, H, W) RGB: uint8, or float32 in 0..1 where pictures were resized as Darknet does it."""
    targets: Tensor
    """(M, 6) float32: position in the batch, label, x1, y1, x2, y2 in pixels of the network's input.

    Crowd regions and difficult objects are none."""
    indices: list[int]
    """Position of each picture in the data set."""
    placements: list[Placement]
    """Where each stored picture lies in the network's input; empty in training, where augmentation moves it."""
    skipped: list[str] = field(default_factory=list)
    """One sentence for each picture that was left out."""

    def __len__(self) -> int:
        return len(self.indices)


class Batches(Protocol):
    """A sized iterable of `Batch`; every `iter` starts at the same batch and gives the same ones."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class _TrainBatches:
    """Batches from number `start` on, made in this process or in `workers` others."""

    def __init__(self, maker: "_BatchMaker", start: int, workers: int):
        self._maker, self._start, self._workers = maker, start, workers

    def __len__(self) -> int:
        return max(0, len(self._maker) - self._start)

    def __iter__(self) -> Iterator[Batch]:
        workers = _with_room(self._workers, self._maker.batch_bytes // 4)  # bytes, and not floats
        # A spawned worker inherits nothing: what is made here would only be made once more.
        if workers and multiprocessing.get_start_method() == "fork":
            self._maker.warm_up()
        # A worker makes whole batches: what it makes depends on nothing but the batch's number.
        numbers = range(self._start, len(self._maker))
        loader = DataLoader(
            self._maker,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            worker_init_fn=_start_worker,
            # Its own generator: else every iteration draws from torch's global one, and a resumed run differs.
            generator=torch.Generator(),
        )
        return iter(loader)


def _with_room(workers: int, size: int) -> int:
    """As many of the workers as have room for their batches in shared memory, of `size` bytes each: two that wait, and
    the one that is used. A container often has 64 MB of it, and a worker that finds none loses its batch, for which the
    main process would wait for ever.

    Runs of a sweep that go on beside each other share it (RUNS_TOGETHER). So do the processes of torchrun on one
    machine; each is asked for the size of the whole batch, of which it makes its share.
    """
    if not workers or not os.path.isdir(_SHARED_MEMORY):
        return workers
    free = shutil.disk_usage(_SHARED_MEMORY).free // int(os.environ.get(RUNS_TOGETHER, "1"))
    wanted = 3 * max(1, size)
    most = min(workers, free // wanted)
    if most < workers:
        # The same words whatever is free, for that differs from epoch to epoch: Python then tells it once.
        warnings.warn(
            f"{_SHARED_MEMORY} has no room for the batches of {counted(workers, 'worker')}, {wanted / 1e6:.0f} MB for "
            "each: fewer are used (docker's --shm-size says how much a container has)",
            Notice,
            stacklevel=2,
        )
    return most


_SHARED_MEMORY = "/dev/shm"
RUNS_TOGETHER = "DETECT_PRUNE_RUNS_TOGETHER"
"""The environment variable in which a sweep tells its runs how many go on beside each other."""


class _ValBatches:
    """All batches, in order, made when they are asked for or ahead by `workers` threads."""

    def __init__(self, maker: "_BatchMaker", workers: int):
        self._maker, self._workers = maker, workers

    def __len__(self) -> int:
        return len(self._maker)

    def __iter__(self) -> Iterator[Batch]:
        if self._workers == 0:
            yield from (self._maker[number] for number in range(len(self)))
            return
        wanted = threading.Event()
        wanted.set()
        ahead: deque[Future[Batch]] = deque()
        # One being made by each thread and one that is ready, as far as memory goes.
        most = min(self._workers + 1, max(1, AHEAD_BYTES // self._maker.batch_bytes))
        pool = ThreadPoolExecutor(min(self._workers, most), "batches")
        with _one_opencv_thread():
            try:
                for number in range(len(self)):
                    ahead.append(pool.submit(self._maker.make, number, wanted.is_set))
                    if len(ahead) > most:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:  # whoever stops in the middle waits for one picture a thread, not for what was only planned
                wanted.clear()
                pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """OpenCV without threads of its own: beside ours and the network's they only get in the way."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def train_batches(
    dataset: DetectionSet,
    fit: Fit,
    batch: int,
    seed: int,
    epoch: int,
    start: int = 0,
    workers: int = 0,
    augment: Augmentation | bool = True,
    share: Share = WHOLE,
) -> Batches:
    """The batches of one epoch, in an order drawn from (seed, epoch), each picture changed by (seed, epoch, its index).

    Args:
        fit: to the network's input; as bytes.
        batch: pictures a batch; what is left over at the end of an epoch is left out (an epoch has at least one batch).
        start: number of the first batch, to go on in the middle of an epoch.
        workers: processes; 0 does the work in this one. The batches are the same.
        augment: True for the defaults, False for pictures as they are.
        share: the part of each batch that is made: together the parts have the pictures of the whole batch.
    """
    augmentation = Augmentation() if augment is True else augment or None
    order = np.random.default_rng([seed, epoch]).permutation(len(dataset))
    whole = max(batch, len(order) // batch * batch)
    key = (seed, epoch)
    maker = _BatchMaker(dataset, order[:whole], fit, batch, augmentation, key, share)
    return _TrainBatches(maker, start, workers)


def val_batches(dataset: DetectionSet, fit: Fit, batch: int, workers: int = 0) -> Batches:
    """All pictures in their order, unchanged but for the size.

    Args:
        fit: to the network's input.
        batch: pictures a batch; the last one may have fewer.
        workers: threads that make batches ahead; 0 makes each when it is asked for. The batches are the same.
    """
    return _ValBatches(_BatchMaker(dataset, np.arange(len(dataset)), fit, batch), workers)


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads beside them only get in the way
    # Ctrl-C, and a kill of the group, is for the main process, which finishes its step and saves. Workers that died
    # of it would take that away from it. In a group of their own they hear of it when it stops them, or is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):  # Windows has no such groups
        os.setpgid(0, 0)


class _BatchMaker(Dataset):
    """maker[number] is the whole batch of that number."""

    def __init__(
        self,
        dataset: DetectionSet,
        order: np.ndarray,
        fit: Fit,
        batch: int,
        augmentation: Augmentation | None = None,
        key: tuple[int, int] | None = None,
        share: Share = WHOLE,
    ):
        """`key` is (seed, epoch) in training, None in scoring."""
        self.dataset, self.order, self.fit, self.batch = dataset, order, fit, batch
        self.augmentation, self.key, self.share = augmentation, key, share
        self.cached = key is not None and dataset.decoded_bytes <= CACHE_BYTES

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch)

    @property
    def batch_bytes(self) -> int:
        """Of a batch's pictures at most: Darknet's resizing makes floats."""
        width, height = self.fit.size
        return min(self.batch, max(1, len(self.order))) * width * height * 3 * 4

    def __getitem__(self, number: int) -> Batch:
        return self.make(number)

    def make(self, number: int, wanted: Callable[[], bool] = lambda: True) -> Batch:
        """The batch of that number; of no use where `wanted`, asked before each picture, has come to say no."""
        pictures, targets, indices, placements, skipped = [], [], [], [], []
        whole = self.order[number * self.batch : (number + 1) * self.batch]
        for index in whole[self.share.part(len(whole))].tolist():
            if not wanted():
                break
            try:
                picture, boxes, labels, placement = self._make(index)
            except CorruptPicture as error:
                skipped.append(str(error))
                continue
            rows = np.concatenate(
                [np.full((len(boxes), 1), len(pictures)), labels[:, None], boxes], 1, dtype=np.float32
            )
            targets.append(rows)
            pictures.append(picture)
            indices.append(index)
            if placement is not None:
                placements.append(placement)
        width, height = self.fit.size
        planes = np.empty((len(pictures), 3, height, width), pictures[0].dtype if pictures else np.uint8)
        for plane, picture in zip(planes, pictures):
            plane[:] = cv2.split(picture)  # a fifth of the time of numpy's transpose
        return Batch(
            torch.from_numpy(planes),
            torch.from_numpy(np.concatenate([np.zeros((0, 6), np.float32), *targets])),
            indices,
            placements,
            skipped,
        )

    def warm_up(self) -> None:
        """Does once, before workers are forked from this process, what each of them would do again every epoch."""
        if self.augmentation:
            for move in (False, True):
                albumentations_transform(self.augmentation, move)
        if self.cached:
            for index in range(len(self.dataset)):
                try:
                    self._load(index)
                except CorruptPicture:  # whoever needs it will hear of it
                    continue

    def _make(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Placement | None]:
        if self.augmentation is not None:
            return *augment_sample(self._load, index, len(self.dataset), self.fit, self.augmentation, self.key), None
        picture, boxes, labels = self._load(index)
        picture, placement = self.fit(picture)
        return picture, placement.forward(boxes), labels, placement

    def _load(self, index: int) -> Sample:
        truth = self.dataset[index]
        pictures = self.dataset.decoded
        picture = pictures.get(index)
        if picture is None:
            picture = _read_as_listed(truth)
            if self.cached:
                pictures[index] = picture
        # VOC's difficult objects are no targets, as in the labels that Darknet trains on.
        wanted = ~(truth.crowd | truth.difficult)
        return picture, truth.boxes[wanted], truth.labels[wanted]


def _read_as_listed(truth: Truth) -> np.ndarray:
    picture = read_picture(truth.path)
    height, width = picture.shape[:2]
    if (width, height) != (truth.width, truth.height):
        turned = (height, width) == (truth.width, truth.height)
        upright = " (annotated as its EXIF mark turns it? store it upright: mogrify -auto-orient)" if turned else ""
        raise CorruptPicture(
            f"the picture is {width} x {height}, but its annotation says {truth.width} x {truth.height}, "
            f"so where its boxes lie is unknown{upright}",
            file=truth.path,
        )
    return picture
