"""From a name or a descriptor to a data set that is ready for training and scoring."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from detect_prune.datasets.coco import read_coco
from detect_prune.datasets.darknet_txt import read_data_file, read_lists
from detect_prune.datasets.descriptor import Descriptor, read_descriptor, read_names
from detect_prune.datasets.detection_set import DetectionSet, DetectionSetBuilder
from detect_prune.datasets.sample import sample_folder
from detect_prune.datasets.voc import find_devkit, find_image_set, read_voc
from detect_prune.errors import DetectPruneError
from detect_prune.numbers import counted
from detect_prune.resources import find_resource

SAMPLE = "sample"
"""What names the built-in set where a descriptor could stand."""
SPLITS = ("train", "val")


@dataclass
class DetectionData:
    """Pictures to train on, pictures to score on, and what is in them. A split that was not asked for is empty."""

    names: tuple[str, ...]
    train: DetectionSet
    val: DetectionSet
    name: str
    """Name of the descriptor, for tables and folders."""
    format: str
    category_ids: tuple[int, ...]
    """The id that COCO's files have for each class; 1, 2, 3, ... in other formats."""
    is_sample: bool = False
    warnings: list[str] = field(default_factory=list)
    """Sentences on boxes that were clipped or dropped, pictures that were left out, and what else was passed over."""

    @cached_property
    def digest(self) -> str:
        """What tells these pictures from others, see DetectionSet.digest; made once: COCO takes half a second."""
        return f"{self.train.digest()}-{self.val.digest()}"


def load_data(
    name_or_path: str | Path,
    root: str | Path | None = None,
    splits: tuple[str, ...] = SPLITS,
) -> DetectionData:
    """Loads a data set.

    Args:
        name_or_path: `sample` for the built-in set (drawn into the cache on first use), else a descriptor: a yaml file,
            looked up as given, in ./data and in the package, or a Darknet `.data` file.
        root: folder of the data, instead of the one that the descriptor names; the built-in set takes none.
        splits: `("val",)` scores a set whose training pictures are not there.

    Raises:
        DetectPruneError: anything is missing or wrong; names the file, and the line of a text.
    """
    if str(name_or_path) == SAMPLE:
        if root is not None:
            raise DetectPruneError(f"the built-in set is drawn on the spot: it is not looked for in a folder ({root})")
        folder = sample_folder()
        values = {split: {"images": split, "annotations": f"{split}.json"} for split in SPLITS}
        descriptor = Descriptor(folder / SAMPLE, {"format": "coco", **values}, {})
    else:
        file = find_resource("data", name_or_path)
        descriptor = _descriptor(file, root, splits)
        folder = descriptor.folder(root)
        if not os.path.isdir(folder):
            if root is not None:
                raise DetectPruneError("the data folder does not exist", file=folder)
            raise descriptor.wrong("path", f"the data folder {folder} does not exist; --data-root names another")
    read = {"coco": _read_coco, "voc": _read_voc, "darknet": _read_darknet}[descriptor.format]
    found = {split: read(descriptor, folder, split) for split in splits}
    for split, (dataset, _, warnings) in found.items():
        if len(dataset) == 0:
            why = f"no picture of it can be used: {warnings[0]}" if warnings else "it lists no picture"
            raise descriptor.wrong(split, f"the {split} set is empty: {why}")
        crowds = dataset.crowd_count
        # Where nothing is trained, difficult objects may be what is scored.
        difficult = dataset.difficult_count if "train" in splits else 0
        if dataset.box_count == crowds + difficult:
            kinds = ((crowds, "crowd region"), (difficult, "difficult object"))
            others = [counted(number, kind) for number, kind in kinds if number]
            but = f" but {' and '.join(others)}, which do not count" if others else ""
            raise descriptor.wrong(split, f"the {split} set has no box on any of its {len(dataset)} pictures{but}")
    names, category_ids = _same_classes(descriptor, found)
    empty_classes = _without_boxes(names, [dataset for dataset, _, _ in found.values()]) if len(found) > 1 else []
    empty = DetectionSetBuilder(names).finish()
    return DetectionData(
        names,
        *(found[split][0] if split in found else empty for split in SPLITS),
        name=descriptor.file.stem,
        format=descriptor.format,
        category_ids=category_ids,
        is_sample=str(name_or_path) == SAMPLE,
        warnings=[
            *descriptor.warnings,
            *empty_classes,
            *(each for split, (dataset, _, told) in found.items() for each in (*told, *_not_counted(split, dataset))),
        ],
    )


def _not_counted(split: str, dataset: DetectionSet) -> list[str]:
    """Sentences on boxes that are neither learnt nor, unless a person asks for it, scored."""
    crowd = "crowd regions (iscrowd 1, which some tools write for every mask), neither learnt nor scored"
    kinds = ((dataset.crowd_count, crowd), (dataset.difficult_count, "marked difficult, and not learnt"))
    boxes = counted(dataset.box_count, "box", "boxes")
    return [f"{split}: {number:,} of {boxes} are {kind}" for number, kind in kinds if number]


def _without_boxes(names: tuple[str, ...], sets: list[DetectionSet]) -> list[str]:
    """A sentence on classes that no box has: each costs the network an output."""
    counts = sum(dataset.class_counts for dataset in sets)
    empty = [name for name, count in zip(names, counts) if not count]
    if not empty:
        return []
    shown = ", ".join(f"'{name}'" for name in empty[:3]) + (" and others" if len(empty) > 3 else "")
    return [f"no box of {len(empty)} of {counted(len(names), 'class', 'classes')}: {shown}"]


def data_available(name_or_path: str | Path, root: str | Path | None = None) -> bool:
    """Whether the folder that a descriptor names (or `root` instead) is there."""
    file = find_resource("data", name_or_path)
    return os.path.isdir(_descriptor(file, root, ()).folder(root))


_Split = tuple[DetectionSet, tuple[int, ...], list[str]]
"""Pictures, category ids, warnings."""


def _descriptor(file: Path, root: str | Path | None, splits: tuple[str, ...]) -> Descriptor:
    """A .data file becomes the descriptor that says the same."""
    if file.suffix != ".data":
        return read_descriptor(file, splits)
    data = read_data_file(file, None if root is None else Path(root), splits)
    values = {key: str(path.absolute()) for key, (path, _) in data.files.items()}
    lines = {key: line for key, (_, line) in data.files.items()}
    if data.classes:
        names = read_names(data.files["names"][0])
        classes, line = data.classes
        if classes != len(names):
            message = f"classes is {classes}, but {values['names']} has {len(names)} names"
            raise DetectPruneError(message, file=file, line=line)
    return Descriptor(file, {"format": "darknet", "path": ".", **values}, lines, tuple(data.warnings))


def _read_coco(descriptor: Descriptor, folder: Path, split: str) -> _Split:
    entry = descriptor.values[split]
    if not isinstance(entry, dict) or set(entry) != {"images", "annotations"}:
        raise descriptor.wrong(split, f"{split} has to be {{images: FOLDER, annotations: FILE.json}}")
    images, annotations = folder / entry["images"], folder / entry["annotations"]
    if not os.path.isdir(images):
        raise descriptor.wrong(split, f"no such folder of pictures: {images}")
    if not os.path.isfile(annotations):
        raise descriptor.wrong(split, f"no such file of annotations: {annotations}")
    return read_coco(images, annotations)


def _read_voc(descriptor: Descriptor, folder: Path, split: str) -> _Split:
    names = descriptor.names(folder)
    devkit, entries = find_devkit(folder), descriptor.texts(split)
    for entry in entries:
        try:
            find_image_set(devkit, entry)
        except DetectPruneError as error:
            raise descriptor.wrong(split, str(error)) from None
    dataset, warnings = read_voc(devkit, entries, names)
    return dataset, tuple(range(1, len(names) + 1)), warnings


def _read_darknet(descriptor: Descriptor, folder: Path, split: str) -> _Split:
    names = descriptor.names(folder)
    lists = [folder / entry for entry in descriptor.texts(split)]
    for path in lists:
        if not os.path.exists(path):
            raise descriptor.wrong(split, f"no such file, a list of pictures, or folder of them: {path}")
    dataset, warnings = read_lists(lists, names, folder)
    return dataset, tuple(range(1, len(names) + 1)), warnings


def _same_classes(descriptor: Descriptor, found: dict[str, _Split]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    (names, ids), *others = [(dataset.names, category_ids) for dataset, category_ids, _ in found.values()]
    for other_names, other_ids in others:
        if (other_names, other_ids) != (names, ids):
            strange = sorted(set(zip(names, ids)) ^ set(zip(other_names, other_ids)))
            raise descriptor.wrong(
                "val", f"train and val have different categories: {strange[0]} is only in one of them"
            )
    return names, ids
