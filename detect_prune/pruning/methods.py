"""ADMM and its rivals behind one small protocol, so that a comparison changes one word and nothing else.

A method that prunes while it trains (a Pruner) stands beside the optimizer for one phase and then makes the cut. A
one-shot method makes the cut before that phase, whose epochs then go to retraining. Every method thus gets the same
number of epochs from the same dense network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import nn
from torch.optim import Optimizer

from detect_prune.pruning.admm import GlobalADMM
from detect_prune.pruning.constraints import Constraint
from detect_prune.pruning.gradual import GradualMagnitude
from detect_prune.pruning.importance import Importance, make_importance
from detect_prune.pruning.masks import Masks


class Update(Protocol):
    """What an update of a Pruner did; its text is one line for a person."""

    def scalars(self) -> dict[str, float]:
        """What a log should show of the whole network, by name."""
        ...

    def headline(self) -> dict[str, float]:
        """The one figure to watch, by a short name."""
        ...

    def per_layer(self) -> dict[str, dict[str, float]]:
        """What a log should show of each layer: name of the figure -> layer -> value."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        ...


class Pruner(Protocol):
    """Prunes while a network is trained: GlobalADMM and GradualMagnitude."""

    weights: dict[str, nn.Parameter]
    updates: int
    """How often `update` will be called, at equal distances, the last time after the last step."""
    report: Update | None
    """What the last update did."""

    @property
    def ready(self) -> bool:
        """Whether `update` can be called already."""
        ...

    def attach(self, optimizer: Optimizer) -> None:
        """Joins every step of this optimizer."""
        ...

    def drop_gradients(self) -> None:
        """Zeroes the gradients of what is gone already; to be called before gradients are clipped."""
        ...

    def update(self) -> Update: ...

    def cut(self, optimizer: Optimizer | None = None) -> Masks:
        """Makes and applies the masks; with an optimizer given they are held through its further steps."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Method:
    """One row of a comparison."""

    name: str
    prunes: Literal["never", "at once", "while training"]
    """At once is before the pruning phase, whose epochs then belong to retraining."""
    importance: str | None = None
    """What a weight is worth unless the caller says otherwise; None where nothing is pruned."""
    fixed_importance: bool = False
    """Whether the importance is what the method's name says, and no other can be chosen."""
    layerwise: bool = False
    """Whether each layer has its own ratio instead of all sharing one."""
    uses_admm: bool = False

    def choose_importance(self, wanted: str | None) -> str | None:
        """The importance that is wanted, or the method's own.

        Raises:
            ValueError: there is none of that name, or it is not one for this method.
        """
        if wanted is None or wanted == self.importance:
            return self.importance
        if self.fixed_importance or self.prunes == "never":
            raise ValueError(f"an importance can't be chosen for {self.name}: it has {self.importance or 'none'}")
        if make_importance(wanted).observes and not self.uses_admm:
            raise ValueError(f"{wanted} is measured from gradients during ADMM; {self.name} ranks by the weights alone")
        return wanted


METHODS = {
    method.name: method
    for method in (
        Method("admm", "while training", "lamp", uses_admm=True),
        Method("admm-layerwise", "while training", "raw", layerwise=True, uses_admm=True),
        Method("gradual", "while training", "raw"),
        Method("magnitude", "at once", "raw", fixed_importance=True),
        Method("lamp", "at once", "lamp", fixed_importance=True),
        Method("dense-longer", "never"),
        Method("dense", "never"),
    )
}
"""By name. `dense-longer` removes nothing and trains for as many epochs more; `dense` does not even do that."""


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise ValueError(f"no method is called {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def make_pruner(
    method: Method,
    model: nn.Module,
    constraint: Constraint,
    *,
    updates: int,
    importance: str | Importance,
    gradual: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Pruner:
    """What prunes while training, for a method that does.

    Args:
        gradual: let ADMM's removal grow over the updates, see GlobalADMM; that of gradual magnitude always does.
        model, constraint, updates, importance, include, exclude: see GlobalADMM.
    """
    options = {"updates": updates, "importance": importance, "include": include, "exclude": exclude}
    if method.uses_admm:
        return GlobalADMM(model, constraint=constraint, gradual=gradual, **options)
    return GradualMagnitude(model, constraint, **options)
