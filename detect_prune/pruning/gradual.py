"""Gradual global magnitude pruning: masks that are tightened while the network trains."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detect_prune.pruning.constraints import Constraint, require_constraint
from detect_prune.pruning.importance import Importance, make_importance
from detect_prune.pruning.masks import Masks
from detect_prune.pruning.one_shot import best_support
from detect_prune.pruning.prunable import prunable_weights
from detect_prune.pruning.saved_state import describe, require_made_for, require_state
from detect_prune.pruning.schedule import cubic, whole_updates

_FAINT = 1e-15
"""Smaller than a trained weight is, and its square is not zero in float32. (float16's least number is larger.)"""


@dataclass(frozen=True)
class Tightened:
    """What an update of GradualMagnitude did."""

    update: int
    """From 1."""
    kept: dict[str, float]
    """Share of each layer's weights that is left."""
    overall: float
    """Share of all weights that is left."""
    bound: tuple[str, ...]
    """Layers that the floor kept from losing more."""

    def scalars(self) -> dict[str, float]:
        return {"kept": self.overall}

    def headline(self) -> dict[str, float]:
        return self.scalars()

    def per_layer(self) -> dict[str, dict[str, float]]:
        return {"kept": self.kept}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which it can be made again."""
        return asdict(self)

    def __str__(self) -> str:
        floor = f", floor binds in {', '.join(self.bound)}" if self.bound else ""
        return f"update {self.update}: {self.overall:.2%} of the weights are left{floor}"


class GradualMagnitude:
    """Masks that are tightened while the network trains (Zhu and Gupta 2017, arXiv 1710.01878): at each update the
    weights that rank lowest now go for good, along the cubic of their equation 1, from none to the whole removal.

    Args:
        model: any network, on the device and in the memory format where it will be trained. Frozen layers are pruned
            like others, unlike by ADMM, which can't move their weights.
        constraint: what is left at the end.
        updates: how often the masks are tightened.
        importance: what a weight is worth beside its square: raw, normalised, lamp, or an object (see importance.py).
        include, exclude: glob patterns of layers, see prunable_weights.

    Raises:
        ValueError: a bad pattern or number of updates, or an importance that is measured from gradients.
    """

    ready = True

    def __init__(
        self,
        model: nn.Module,
        constraint: Constraint,
        *,
        updates: int = 40,
        importance: str | Importance = "raw",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ):
        self.weights = prunable_weights(model, include, exclude)
        self.constraint, self.updates, self.done = require_constraint(constraint), whole_updates(updates), 0
        self.report: Tightened | None = None
        self.importance = make_importance(importance)
        if self.importance.observes:
            raise ValueError("gradual magnitude pruning ranks by the weights alone: raw, normalised or lamp")
        self.masks = Masks(
            self.weights, {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        )

    def attach(self, optimizer: Optimizer) -> None:
        """Holds what has been removed so far through every step of this optimizer, and lets go of any other."""
        self.masks.detach()
        self.masks.attach(optimizer)

    def drop_gradients(self) -> None:
        """See Masks.drop_gradients."""
        self.masks.drop_gradients()

    @torch.no_grad()
    def update(self) -> Tightened:
        """Tightens the masks.

        Raises:
            Diverged: the weights are not finite.
            ValueError: all planned updates are done.
        """
        if self.done >= self.updates:
            raise ValueError(f"all {self.updates} planned updates are done; nothing more is to be removed")
        self._tighten(cubic((self.done + 1) / self.updates))
        self.done += 1
        counts = self.masks.kept()
        kept = {name: left / total for name, (left, total) in counts.items()}
        overall = sum(left for left, _ in counts.values()) / self.masks.n_total
        self.report = Tightened(self.done, kept, overall, self.masks.bound)
        return self.report

    def _tighten(self, progress: float) -> None:
        selection = best_support(self._ranked(), self.constraint, self.importance, progress)
        masks, self.masks.bound = selection.named(self.weights)
        # Where costs differ, what is left of the budget would buy back cheap ones.
        self.masks.replace({name: mask & self.masks[name] for name, mask in masks.items()})

    def _ranked(self) -> dict[str, Tensor]:
        """The weights; what is still there and zero by chance is worth more than what is gone, with which it would tie:
        the constraint might choose the latter, and both would be lost."""
        ranked: dict[str, Tensor] = dict(self.weights)
        if self.report is not None:  # else nothing is gone yet
            for name, weight in self.weights.items():
                faint = self.masks[name] & (weight == 0)
                if faint.any():
                    kind = torch.finfo(weight.dtype)
                    ranked[name] = weight.masked_fill(faint, max(_FAINT, kind.tiny * kind.eps))
        return ranked

    @torch.no_grad()
    def cut(self, optimizer: Optimizer | None = None) -> Masks:
        """The masks as the last update left them; where updates are missing, tightened to the whole removal first.

        Raises:
            Diverged: the weights are not finite.
        """
        if self.done < self.updates:
            self._tighten(1.0)
        self.masks.detach()
        self.masks.apply()
        if optimizer is not None:
            self.masks.attach(optimizer)
        return self.masks

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values. Loaded with the weights of the same moment, all goes on to the bit."""
        report = self.report.as_dict() if self.report is not None else None
        return {
            "made_for": self._made_for(),
            "masks": self.masks.state_dict(),
            "done": self.done,
            "updates": self.updates,
            "report": report,
        }

    def _made_for(self) -> list[str]:
        return [describe(self.constraint), describe(self.importance)]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where state_dict was called; the attached optimizer stays attached.

        Raises:
            ValueError: it is no such state, or belongs to another network, constraint or importance, or another number
                of updates.
        """
        require_state(state, ("made_for", "masks", "done", "updates", "report"))
        require_made_for(state, self.updates, self._made_for())
        self.masks.load_state_dict(state["masks"])
        self.done = state["done"]
        self.report = Tightened(**state["report"]) if state["report"] is not None else None
