"""What a detector's raw tensors mean: boxes, their suppression, the training loss, and the scores against the truth."""

from detect_prune.detection.coco import CocoResult, coco_metrics
from detect_prune.detection.darknet_map import DarknetMap, darknet_map
from detect_prune.detection.decode import decode
from detect_prune.detection.detect import detect
from detect_prune.detection.distance import head_distance
from detect_prune.detection.loss import YoloLoss
from detect_prune.detection.voc import VocResult, voc_metrics

__all__ = [
    "CocoResult",
    "DarknetMap",
    "VocResult",
    "YoloLoss",
    "coco_metrics",
    "darknet_map",
    "decode",
    "detect",
    "head_distance",
    "voc_metrics",
]
