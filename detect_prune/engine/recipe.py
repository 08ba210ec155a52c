"""How long and at what rates a network is trained: the phases around one cut."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from detect_prune.errors import DetectPruneError
from detect_prune.numbers import counted
from detect_prune.pruning import Method


@dataclass(frozen=True)
class Phase:
    """How one stretch of training runs. The rate warms up linearly, then falls along a cosine to `final_lr`."""

    epochs: int
    lr: float
    optimizer: str = "sgd"
    """`sgd` (Nesterov momentum) or `adamw`."""
    momentum: float = 0.9
    """Momentum of SGD, or the first beta of AdamW."""
    weight_decay: float = 0.0
    """Of every parameter of two or more dimensions, never of a bias or of batch norm, as in Darknet."""
    warmup: float = 0.05
    """Share of the phase's steps in which the learning rate rises."""
    final_lr: float = 0.02
    ema: float = 0.0
    """Decay of the exponential moving average whose weights end the phase; 0 for none."""
    clip: float = 0.0
    """Largest norm of the whole gradient (the penalty is added after it); 0 for none."""
    dropout: float | None = None
    """Probability of the network's nn.Dropout modules; None for the one that they are built with."""
    distill: float = 0.0
    """Weight, in the loss, of how far the answers are from the dense network's; 0 for none."""

    def __str__(self) -> str:
        words = [
            f"{counted(self.epochs, 'epoch')} of {self.optimizer}",
            f"rate {self.lr:g}",
            f"warmed up over {100 * self.warmup:g} % of the steps",
            f"falling to {100 * self.final_lr:g} % of it",
        ]
        rest = ("momentum", "weight_decay", "ema", "clip", "distill")
        words += [f"{name.replace('_', ' ')} {value:g}" for name in rest if (value := getattr(self, name))]
        if self.dropout is not None:
            words.append(f"dropout {self.dropout:g}")
        return ", ".join(words)

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise DetectPruneError(f"unknown optimizer '{self.optimizer}'; expected sgd or adamw")
        limits = {
            "epochs": self.epochs >= 1,
            "lr": 0 < self.lr < math.inf,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup": 0 <= self.warmup <= 1,
            "final_lr": 0 <= self.final_lr <= 1,
            "ema": 0 <= self.ema < 1,
            "clip": 0 <= self.clip < math.inf,
            "dropout": self.dropout is None or 0 <= self.dropout < 1,
            "distill": 0 <= self.distill < math.inf,
        }
        wrong = [f"{name} {getattr(self, name)}" for name, holds in limits.items() if not holds]
        if wrong:
            raise DetectPruneError(f"a phase can't be trained with {', '.join(wrong)}")


LEAST_UPDATES = 30
"""With fewer, W and Z have not met at the cut."""


@dataclass(frozen=True)
class Recipe:
    """The three stretches of training around one cut."""

    dense: Phase
    admm: Phase
    """In which ADMM, or the rival that stands in for it, prunes. Its weight decay acts on what ADMM does not hold; a
    rival without ADMM has the decay and the dropout of `retrain`."""
    retrain: Phase
    updates: int = 40
    """Z and U updates in the ADMM phase, at equal distances. At least so many where `steps_per_update` is given, and
    never more than the phase has steps (`for_set`)."""
    steps_per_update: int | None = None
    """Where given, a phase that is long enough for more than `updates` has one in so many steps; but not with ADMM
    whose removal grows, or does not, unlike the recipe's `gradual`."""
    gradual: bool = False
    """Whether ADMM's removal grows over its updates, by whatever ratio, unless the caller says otherwise."""
    importance: str | None = None
    """What a weight is worth to ADMM, unless the caller says otherwise; None for the method's own."""

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise DetectPruneError(f"a recipe has at least one update of what prunes, not {self.updates}")
        if self.steps_per_update is not None and self.steps_per_update < 1:
            raise DetectPruneError(f"there is at least one step to an update, not {self.steps_per_update}")
        if self.dense.distill:
            raise DetectPruneError("the dense phase can't distill: there is no dense network yet to learn from")

    def for_set(self, steps_per_epoch: int) -> "Recipe":
        """The recipe with enough epochs of ADMM for LEAST_UPDATES updates, however small the set is, and with the
        number of updates that it will make: schedules of rho and of the ratio end with the last one. The number is
        what there is room for where `steps_per_update` is given and this is more, and never above the phase's steps.
        """
        needed = -(-min(self.updates, LEAST_UPDATES) // steps_per_epoch)
        admm = replace(self.admm, epochs=max(self.admm.epochs, needed))
        steps = admm.epochs * steps_per_epoch
        room = steps // self.steps_per_update if self.steps_per_update else 0
        return replace(self, admm=admm, updates=min(max(self.updates, room), steps))

    @property
    def epochs_after_dense(self) -> int:
        """What every method is given, whether it prunes during them or before."""
        return self.admm.epochs + self.retrain.epochs

    def phases(self, method: Method, train_dense: bool) -> dict[str, Phase]:
        """What a run of this method trains, by name. Whoever does not prune while training has those epochs for
        retraining."""
        phases = {"dense": self.dense} if train_dense else {}
        if method.prunes == "while training":
            pruning = self.admm
            if not method.uses_admm:
                # Only ADMM's penalty is at odds with decay, and dropout was only found to help ADMM.
                decay, dropout = self.retrain.weight_decay, self.retrain.dropout
                pruning = replace(pruning, weight_decay=decay, dropout=dropout)
            return phases | {method.name: pruning, "retrain": self.retrain}
        if method.name == "dense":
            return phases
        return phases | {"retrain": replace(self.retrain, epochs=self.epochs_after_dense)}

    def with_options(self, **options: dict[str, Any]) -> "Recipe":
        """A copy with fields of the phases replaced: `with_options(dense={"epochs": 3})`."""
        return replace(self, **{name: replace(getattr(self, name), **values) for name, values in options.items()})

    def as_dict(self) -> dict[str, Any]:
        """The phases and the number of updates. How ADMM prunes is left out: what was chosen is among a run's
        settings. So is the rule that the number of updates came from."""
        left_out = ("gradual", "importance", "steps_per_update")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe whose `as_dict` this is; what it does not name has its default.

        Raises:
            KeyError, TypeError, DetectPruneError: it is none.
        """
        phases = {name: Phase(**values[name]) for name in ("dense", "admm", "retrain")}
        return cls(**{**values, **phases})
