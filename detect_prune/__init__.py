"""Global weight pruning by ADMM for YOLO/Darknet detectors."""

__version__ = "0.1.0"
