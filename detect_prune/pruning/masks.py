"""The frozen support: which weights are left, held through any optimizer, counted and saved."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detect_prune.pruning.chunks import to_numbers
from detect_prune.pruning.prunable import prunable_weights
from detect_prune.pruning.saved_state import require_state
from detect_prune.pruning.selection import Selection

_STATE = ("bits", "shapes", "bound")


class Masks(Mapping[str, Tensor]):
    """For each prunable weight tensor a bool tensor: true where the weight stays. `masks[name]` is a copy. Two are
    equal if they are the same one.

    Args:
        weights: name -> parameter, as prunable_weights gives them.
        masks: name -> bool tensor of the parameter's shape; the same names.
        bound: names of layers that a floor kept from losing more, for whoever wants to say so.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor], bound: Sequence[str] = ()):
        self._weights = dict(weights)
        self.bound = tuple(bound)
        self._removed: dict[str, Tensor] = {}
        """Where the masks are false: what each step wants, and a kernel less a layer if it is not made in each."""
        self._handles: dict[Optimizer, list[Any]] = {}
        self._set(masks)

    def _set(self, masks: Mapping[str, Tensor]) -> None:
        if masks.keys() != self._weights.keys():
            wrong = sorted(masks.keys() ^ self._weights.keys())
            raise ValueError(f"the masks do not belong to this network: {', '.join(wrong)} is on one side only")
        for name, weight in self._weights.items():  # all of them before any is taken
            _require_shape(name, masks[name], weight)
        for name, weight in self._weights.items():
            mask = torch.empty_like(weight, dtype=torch.bool, requires_grad=False).copy_(masks[name])
            self._removed[name] = mask.logical_not_()

    @classmethod
    def chosen(cls, weights: Mapping[str, nn.Parameter], selection: Selection) -> "Masks":
        """What a projection of these weights, in their order, has chosen."""
        return cls(weights, *selection.named(weights))

    @classmethod
    def from_nonzero(cls, model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> "Masks":
        """The support that a pruned network shows by its zeros."""
        weights = prunable_weights(model, include, exclude)
        return cls(weights, {name: weight.detach() != 0 for name, weight in weights.items()})

    @classmethod
    def from_state_dict(cls, model: nn.Module, state: Mapping[str, Any]) -> "Masks":
        """The masks that were saved from this network, or from one of the same shapes."""
        found = dict(model.named_parameters(remove_duplicate=False))
        require_state(state, _STATE)
        _require_names(state["bits"], found)
        weights = {name: found[name] for name in state["bits"]}
        masks = cls(weights, {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()})
        masks.load_state_dict(state)
        return masks

    def __getitem__(self, name: str) -> Tensor:
        return ~self._removed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._removed)

    def __len__(self) -> int:
        return len(self._removed)

    # Those of Mapping ask a tensor whether it is true, and forbid sets of masks.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @torch.no_grad()
    def apply(self, model: nn.Module | None = None) -> None:
        """Zeroes the removed weights, of this network or of a copy of it (an average of its weights, say).

        Raises:
            ValueError: the other network has no weights of these names and shapes; of one that is wrapped hand over the
                inside.
        """
        if model is None:
            weights: Mapping[str, Tensor] = self._weights
        else:
            weights = dict(model.named_parameters(remove_duplicate=False))
        _require_names(self._removed, weights)
        for name, removed in self._removed.items():
            _require_shape(name, removed, weights[name])
            weights[name].masked_fill_(removed, 0)

    def attach(self, optimizer: Optimizer) -> None:
        """Holds the support from now on: removed weights are exactly zero after every step of this optimizer.

        Their gradients are dropped before the step and their state in the optimizer (momentum, Adam's moments) is
        zeroed now. Whoever clips does so earlier: call `drop_gradients` before, or removed weights lengthen the norm
        and shorten the steps of those that stay. An optimizer that is given a closure has them dropped whenever it
        calls it. LBFGS remembers all parameters together, which can't be zeroed here: hand over a new one.

        Attaching twice changes nothing. Optimizers lose their hooks when they are copied: attach a copy to its own.

        Raises:
            ValueError: some of these weights are trained, and none by this optimizer: they would not be held.
        """
        trainable = {name: weight for name, weight in self._weights.items() if weight.requires_grad}
        if trainable and len(untrained(trainable, optimizer)) == len(trainable):
            raise ValueError("the optimizer trains none of the weights that these masks belong to")
        self.apply()
        self._clear_state(optimizer)
        _remove(self._handles.pop(optimizer, []))
        self._handles[optimizer] = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.drop_gradients()
        # A closure computes the gradients anew, several times perhaps, and the optimizer moves by them before it ends.
        own, *rest = args
        wrapped = {name: self._dropping(value) for name, value in kwargs.items()}
        return (own, *map(self._dropping, rest)), wrapped

    def _dropping(self, argument: Any) -> Any:
        """The closure, if it is one, followed by drop_gradients."""
        if not callable(argument):
            return argument

        @functools.wraps(argument)
        def closure(*args: Any, **kwargs: Any) -> Any:
            loss = argument(*args, **kwargs)
            self.drop_gradients()
            return loss

        return closure

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.apply()

    def _clear_state(self, optimizer: Optimizer) -> None:
        for name, weight in self._weights.items():
            clear_state(optimizer, weight, self._removed[name])

    def replace(self, masks: Mapping[str, Tensor]) -> None:
        """Another support from now on: what it removes is zero at once, in the network and in attached optimizers.

        Raises:
            ValueError: the masks do not belong to this network.
        """
        self._set(masks)
        self.apply()
        for optimizer in self._handles:
            self._clear_state(optimizer)

    def detach(self) -> None:
        """Lets go of all optimizers."""
        for handles in self._handles.values():
            _remove(handles)
        self._handles.clear()

    @torch.no_grad()
    def drop_gradients(self) -> None:
        """Zeroes the gradients of removed weights. In your own loop: after `backward()` (and `scaler.unscale_`), and
        before `clip_grad_norm_` or anything else that looks at all gradients together.
        """
        for name, weight in self._weights.items():
            if weight.grad is not None:
                weight.grad.masked_fill_(self._removed[name], 0)

    def kept(self) -> dict[str, tuple[int, int]]:
        """Name -> (weights that stay, weights of the layer)."""
        sizes = [removed.numel() for removed in self._removed.values()]
        gone = to_numbers(removed.count_nonzero() for removed in self._removed.values())
        return {name: (size - lost, size) for name, size, lost in zip(self._removed, sizes, gone)}

    @property
    def n_kept(self) -> int:
        """Weights that stay, over all layers."""
        return sum(kept for kept, _ in self.kept().values())

    @property
    def n_total(self) -> int:
        """Weights that could have been removed."""
        return sum(removed.numel() for removed in self._removed.values())

    def __str__(self) -> str:
        n = self.n_kept
        rows = [f"{n:,} of {self.n_total:,} weights kept ({n / self.n_total:.2%})"]
        width = max(map(len, self._removed))
        rows += [
            f"  {name:{width}}  {kept:>12,} of {total:>12,}  {kept / total:8.2%}"
            for name, (kept, total) in self.kept().items()
        ]
        return "\n".join(rows)

    def state_dict(self) -> dict[str, Any]:
        """One bit a weight: {"bits": name -> (ceil(n / 8),) uint8, "shapes": name -> list of int, "bound": names}."""
        return {
            "bits": {name: _pack(mask) for name, mask in self.items()},
            "shapes": {name: list(removed.shape) for name, removed in self._removed.items()},
            "bound": list(self.bound),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the support that was saved; optimizers stay attached. The weights, which are loaded on their own, stay
        as they are until `apply` or the next step.

        Raises:
            ValueError: it belongs to another network.
        """
        require_state(state, _STATE)
        self._set({name: _unpack(bits, state["shapes"][name]) for name, bits in state["bits"].items()})
        self.bound = tuple(state["bound"])


def _remove(handles: Iterable[Any]) -> None:
    for handle in handles:
        handle.remove()


def _require_names(masks: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    missing = sorted(masks.keys() - found.keys())
    if missing:
        raise ValueError(f"the masks do not belong to this network, which has no {', '.join(missing)}")


def _require_shape(name: str, mask: Tensor, weight: Tensor) -> None:
    if mask.shape != weight.shape:
        raise ValueError(f"the mask of {name} is {tuple(mask.shape)}, its weights are {tuple(weight.shape)}")


def untrained(weights: Mapping[str, nn.Parameter], optimizer: Optimizer) -> list[str]:
    """Names of the weights that are no parameters of this optimizer."""
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [name for name, weight in weights.items() if id(weight) not in trained]


def clear_state(optimizer: Optimizer, weight: nn.Parameter, removed: Tensor) -> None:
    """Zeroes momentum and Adam's moments where a weight has been removed; `removed` broadcasts to its shape."""
    for value in optimizer.state.get(weight, {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(removed, 0)


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), bitorder="little"))


def _unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    n = torch.Size(shape).numel()
    if not n <= 8 * len(packed) < n + 8:
        raise ValueError(f"{len(packed)} bytes of mask do not fit {n} weights")
    bits = np.unpackbits(packed.cpu().numpy(), count=n, bitorder="little")
    return torch.from_numpy(bits).bool().view(list(shape))
