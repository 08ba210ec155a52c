"""Detection and classification data: read, checked, augmented, batched."""

from detect_prune.datasets.augment import Augmentation
from detect_prune.datasets.batches import Batch, Batches, train_batches, val_batches
from detect_prune.datasets.detection_data import SAMPLE, DetectionData, data_available, load_data
from detect_prune.datasets.detection_set import DetectionSet
from detect_prune.datasets.letterbox import Fit, Placement
from detect_prune.datasets.picture import CorruptPicture, read_picture

__all__ = [
    "SAMPLE",
    "Augmentation",
    "Batch",
    "Batches",
    "CorruptPicture",
    "DetectionData",
    "DetectionSet",
    "Fit",
    "Placement",
    "data_available",
    "load_data",
    "read_picture",
    "train_batches",
    "val_batches",
]
