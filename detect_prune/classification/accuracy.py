"""The score of a classification network."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Accuracy:
    """How many pictures were named rightly."""

    correct: int
    total: int
    loss: float
    """Mean cross-entropy in nats."""

    @property
    def top1(self) -> float:
        """Share of pictures whose highest logit is the right one, 0..1."""
        return self.correct / self.total

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2%} ({self.correct:,} of {self.total:,}), loss {self.loss:.4f}"


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Scores a network in evaluation mode and puts it back into the mode that its root was in.

    Args:
        batches: ((B, C, H, W) pictures as the network wants them, (B,) labels), on the network's device.

    Raises:
        ValueError: there is not one picture.
    """
    training = model.training
    model.eval()
    correct = total = 0
    loss = 0.0
    with torch.no_grad():
        for pictures, labels in batches:
            logits = model(pictures).float()
            correct += int((logits.argmax(1) == labels).sum())
            total += len(labels)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    model.train(training)
    if not total:
        raise ValueError("there are no pictures to score the network on")
    return Accuracy(correct, total, loss / total)
