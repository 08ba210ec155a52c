"""Classification networks of the pruning papers, and their score."""

from detect_prune.classification.lenet import LeNet5

__all__ = ["LeNet5"]
