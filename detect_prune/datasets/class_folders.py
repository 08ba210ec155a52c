"""Data sets kept as folders of class folders, train/CLASS/*.jpg and test/CLASS/*.jpg, on disk or inside one tar."""

import hashlib
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from detect_prune.datasets.cache import cache_folder, cached_folder
from detect_prune.datasets.picture import PICTURE_SUFFIXES, CorruptPicture, decode_picture, read_picture
from detect_prune.errors import DetectPruneError
from detect_prune.files import list_folder, open_binary, write_json
from detect_prune.numbers import counted
from detect_prune.transfer import digest_of

_SPLITS = ("train", "test")
_ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2")
_LARGEST = 128
"""Sides above this are not for a loader that keeps the whole set in memory."""

_LARGEST_FILE = 16_000_000
"""Bytes of a file in an archive. A picture of the largest size takes 50,000 uncompressed; metadata may come along."""

Split = tuple[Tensor, Tensor]


def is_class_folder_set(path: Path) -> bool:
    """Whether `path` is a folder with train and test folders, a tar, or a folder with one tar in it."""
    return all(os.path.isdir(path / split) for split in _SPLITS) or _archive(path) is not None


def read_class_folders(path: Path) -> tuple[str, tuple[str, ...], Split, Split, list[str]]:
    """Reads and decodes the set, or takes it decoded from the cache, where it lies under a key of its content.

    Returns:
        Its name (that of the folder), the class names in alphabetical order, train and test as (images (N, 3, H, W)
        uint8 RGB, labels (N,) int64), each in the order of the paths; a sentence for each split in which pictures could
        not be read and were left out.

    Raises:
        DetectPruneError: no such set, no pictures, some of another size, a class in test only.
    """
    archive = _archive(path)
    if archive is None and not is_class_folder_set(path):
        raise DetectPruneError(
            "the folders train/CLASS and test/CLASS, or one tar of them, were expected here", file=path
        )
    source = archive or path
    key = digest_of(archive) if archive else _key_of_folder(path)
    folder = cached_folder(
        cache_folder() / f"class-folders-v2-{key[:24]}", lambda target: _decode(source, archive is not None, target)
    )
    about = json.loads((folder / "about.json").read_text())
    splits = [
        tuple(torch.from_numpy(np.load(folder / f"{split}-{kind}.npy")) for kind in ("images", "labels"))
        for split in _SPLITS
    ]
    name = path.name if os.path.isdir(path) else path.name.split(".")[0]
    return name or path.resolve().name, tuple(about["classes"]), *splits, about["warnings"]


def _archive(path: Path) -> Path | None:
    if os.path.isfile(path):
        return path if path.name.endswith(_ARCHIVES) else None
    if not os.path.isdir(path) or any(os.path.isdir(path / split) for split in _SPLITS):
        return None
    names = list_folder(path, "class folders")
    found = [name for name in names if name.endswith(_ARCHIVES) and not name.startswith("cifar-10-python")]
    return path / found[0] if len(found) == 1 else None


def _key_of_folder(path: Path) -> str:
    digest = hashlib.sha256(os.fsencode(path.resolve()))
    for file in _files(path):
        try:
            status = file.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:  # a link to nowhere, say: reading it will say so
            state = str(error.errno)
        digest.update(os.fsencode(f"\n{file.relative_to(path)} {state}"))
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    folders = [path / split / label for split in _SPLITS for label in list_folder(path / split, "class folders")]
    files = [folder / name for folder in folders if os.path.isdir(folder) for name in list_folder(folder, "pictures")]
    return sorted(file for file in files if file.suffix.lower() in PICTURE_SUFFIXES)


def _decode(source: Path, is_archive: bool, target: Path) -> None:
    found: dict[str, list[tuple[str, str, np.ndarray]]] = {split: [] for split in _SPLITS}
    broken: dict[str, list[str]] = {split: [] for split in _SPLITS}
    shape = None
    for split, label, name, read in _in_archive(source) if is_archive else _in_folder(source):
        try:
            picture = read()
        except CorruptPicture as error:
            broken[split].append(str(error))
            continue
        shape = shape or picture.shape
        if picture.shape != shape or max(shape) > _LARGEST:
            raise DetectPruneError(
                f"{name} is {picture.shape[1]} x {picture.shape[0]}, the first picture {shape[1]} x {shape[0]}; "
                f"all have to be of one size, of {_LARGEST} pixels at most",
                file=source,
            )
        found[split].append((label, name, picture))
    classes = sorted({label for label, _, _ in found["train"]})
    for split, entries in found.items():
        if not entries:
            raise DetectPruneError(
                f"the data set is empty: there is no picture that can be read in {split}/CLASS", file=source
            )
        strange = {label for label, _, _ in entries} - set(classes)
        if strange:
            raise DetectPruneError(f"{split} has the class {min(strange)}, which train does not have", file=source)
        entries.sort(key=lambda entry: entry[:2])
        np.save(target / f"{split}-images.npy", np.stack([picture for _, _, picture in entries]).transpose(0, 3, 1, 2))
        np.save(target / f"{split}-labels.npy", np.array([classes.index(label) for label, _, _ in entries], np.int64))
    warnings = [
        f"{counted(len(reasons), 'picture')} of {split} left out: {'; '.join(sorted(reasons)[:3])}"
        for split, reasons in broken.items()
        if reasons
    ]
    write_json(target / "about.json", {"classes": classes, "warnings": warnings})


_Entry = tuple[str, str, str, Callable[[], np.ndarray]]
"""Split, class, file name, and what reads the picture (or raises CorruptPicture)."""


def _in_folder(folder: Path) -> Iterator[_Entry]:
    for file in _files(folder):
        yield file.parts[-3], file.parts[-2], file.name, partial(read_picture, file)


def _in_archive(archive: Path) -> Iterator[_Entry]:
    """Streams through the tar once; nothing is unpacked to disk."""
    with open_binary(archive, "tar of class folders") as file:
        try:
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for member in tar:
                    yield from _entry(tar, member, archive)
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise DetectPruneError(f"broken or cut off archive ({error})", file=archive) from None
        except OSError as error:  # bz2 and gzip say so when their bytes make no sense
            reason = error.strerror or error
            raise DetectPruneError(f"the archive can't be read: {reason}", file=archive) from None


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> Iterator[_Entry]:
    # Looked at even for what is passed over: a stream has to be unpacked up to its end, and zeros pack a thousandfold.
    if not 0 <= member.size <= _LARGEST_FILE:
        limit = f"{_LARGEST_FILE} at most were expected of a small picture"
        raise DetectPruneError(f"{member.name[:80]} in it has {member.size} bytes; {limit}", file=archive)
    name = PurePosixPath(member.name)
    if member.isdir() or name.suffix.lower() not in PICTURE_SUFFIXES:
        return
    if len(name.parts) < 3 or name.parts[-3] not in _SPLITS:
        return
    split, label = name.parts[-3:-1]
    where = f"{archive}/{name}"
    if label == "..":
        raise DetectPruneError(f"{name} in it is in no class folder", file=archive)
    data = tar.extractfile(member).read() if member.isreg() else None
    yield split, label, name.name, partial(_read_member, data, where)


def _read_member(data: bytes | None, where: str) -> np.ndarray:
    if data is None:
        raise CorruptPicture("this is a link, not a file", file=where)
    return decode_picture(data, where)
