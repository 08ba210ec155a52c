"""What a detector's raw tensors mean: boxes, their suppression, the training loss, and the scores against the truth."""

from detect_prune.detection.coco import CocoResult, coco_metrics
from detect_prune.detection.decode import decode
from detect_prune.detection.loss import YoloLoss
from detect_prune.detection.nms import detect
from detect_prune.detection.voc import VocResult, voc_metrics

__all__ = ["CocoResult", "VocResult", "YoloLoss", "coco_metrics", "decode", "detect", "voc_metrics"]
