"""Global weight pruning by ADMM for YOLO/Darknet detectors, and for any other torch network.

from detect_prune import GlobalADMM                       # into your own training loop
from detect_prune import load                             # a Darknet network that predicts boxes
from detect_prune import detection_task, prune            # the whole job
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DetectPruneError": "detect_prune.errors",
    "GlobalADMM": "detect_prune.pruning",
    "Masks": "detect_prune.pruning",
    "NotFinite": "detect_prune.engine.task",
    "Stopped": "detect_prune.engine.stop",
    "classification_task": "detect_prune.tasks.build",
    "detection_task": "detect_prune.tasks.build",
    "load": "detect_prune.tasks.detector",
    "prune": "detect_prune.engine.pipeline",
    "train": "detect_prune.engine.pipeline",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `GlobalADMM` alone should not bring in OpenCV and pycocotools.
    if name not in _HOMES:
        raise AttributeError(f"module 'detect_prune' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
