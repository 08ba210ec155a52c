"""How far a classifier's answers are from another's: what distillation makes small."""

from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 4.0
"""Divides all logits: a trained network is so sure of its first class that little is left to see of the others."""


def logit_distance(logits: Tensor, goal: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of two networks' softened classes, averaged over pictures; 0 where they agree.

    Times the square of the temperature, which keeps the gradient as long as that of a cross entropy (Hinton, Vinyals
    and Dean 2015, arXiv 1503.02531).

    Args:
        logits: (B, classes); gradients go here.
        goal: the teacher's, likewise; no gradients go there.
    """
    softened = (F.log_softmax(values.float() / TEMPERATURE, 1) for values in (logits, goal.detach()))
    return TEMPERATURE**2 * F.kl_div(*softened, log_target=True, reduction="batchmean")
