"""Classification networks of the pruning papers."""

from detect_prune.classification.architectures import ARCHITECTURES, Architecture, find_architecture
from detect_prune.classification.distance import logit_distance
from detect_prune.classification.lenet import LeNet5
from detect_prune.classification.resnet import ResNetCifar

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "LeNet5",
    "ResNetCifar",
    "find_architecture",
    "logit_distance",
]
