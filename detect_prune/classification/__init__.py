"""Classification networks of the pruning papers, and their score."""

from detect_prune.classification.accuracy import Accuracy, accuracy
from detect_prune.classification.architectures import ARCHITECTURES, Architecture, find_architecture, load_pretrained
from detect_prune.classification.distance import logit_distance
from detect_prune.classification.lenet import LeNet5
from detect_prune.classification.resnet import ResNetCifar

__all__ = [
    "ARCHITECTURES",
    "Accuracy",
    "Architecture",
    "LeNet5",
    "ResNetCifar",
    "accuracy",
    "find_architecture",
    "load_pretrained",
    "logit_distance",
]
