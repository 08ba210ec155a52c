"""Sets whose zeros lie in a pattern that hardware or a simple loop can use: N of M, and blocks.

The dimensions are those of a convolution's or linear layer's weight: 0 counts outputs, 1 inputs (of a group). For
a transposed convolution they are the other way round; exclude such layers where that matters.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

from detect_prune.pruning.chunks import Diverged, magnitude
from detect_prune.pruning.constraints import GlobalBudget
from detect_prune.pruning.selection import Items, Selection, select

_INPUTS = 1


class NOfM:
    """In each group of `m` consecutive inputs at most `n` weights stay; 2 of 4 is what NVIDIA's sparse tensor cores
    take (Mishra et al. 2021, arXiv 2104.08378).

    The last group of a layer whose inputs are no multiple of m is a group filled up with zeros: up to n of its weights
    stay. A layer with n inputs or fewer (a depthwise convolution) thus keeps all.

    Args:
        n, m: whole numbers, 0 < n < m.
    """

    def __init__(self, n: int, m: int):
        if not (isinstance(n, Integral) and isinstance(m, Integral) and 0 < n < m):
            raise ValueError(f"a pattern keeps n of m weights, whole numbers with 0 < n < m, not {n}:{m}")
        self.n, self.m = n, m
        self.costs: dict[str, float] = {}

    def _kept(self, progress: float) -> int:
        return self.m - math.ceil(progress * (self.m - self.n))

    def keep_share(self, sizes: Mapping[str, int], progress: float = 1.0) -> float:
        """See Constraint: that of a whole group."""
        return self._kept(progress) / self.m

    def project(self, values: Mapping[str, Tensor], worth: Mapping[str, Tensor], progress: float = 1.0) -> Selection:
        """See Constraint. Of equal weights the first ones stay."""
        return Selection([self._mask(value, worth[name], self._kept(progress)) for name, value in values.items()], [])

    def _mask(self, value: Tensor, worth: Tensor, kept: int) -> Tensor:
        scores = (magnitude(value) * worth.sqrt()).movedim(_INPUTS, -1)
        if not bool(scores.isfinite().all()):
            raise Diverged("a score is not a number: there are weights or worths that are NaN or infinite")
        inputs = scores.shape[-1]
        # What fills up the last group is worth less than a zero.
        groups = F.pad(scores, (0, -inputs % self.m), value=-1.0).unflatten(-1, (-1, self.m))
        best = groups.sort(dim=-1, descending=True, stable=True).indices[..., :kept]
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True).flatten(-2)[..., :inputs]
        return _in_order_of(value, mask.movedim(-1, _INPUTS))


class BlockBudget(GlobalBudget):
    """A global budget whose items are blocks of `length` consecutive weights along one dimension: all stay or none.

    The score of a block is that of the sum of its q v^2 over its cost, so this is the projection onto networks with
    zeros in whole blocks. The budget is spent to within one block. The last block of a layer may be shorter.

    Args:
        budget, costs, floor, layers: see GlobalBudget; costs are those of a weight.
        length: N of 1xN.
        dim: 0 for consecutive outputs that share an input, which a loop over outputs can load at once (Lin et al.
            2021, arXiv 2105.14713); 1 for consecutive inputs of one output.
    """

    def __init__(
        self,
        budget: float,
        length: int,
        *,
        dim: int = 0,
        costs: Mapping[str, float] | None = None,
        floor: float = 0.0,
        layers: Iterable[str] | None = None,
    ):
        super().__init__(budget, costs, floor, layers)
        if not isinstance(length, Integral) or length < 1 or dim not in (0, 1):
            raise ValueError(f"a block is at least one weight long, along dimension 0 or 1; not {length} along {dim}")
        self.length, self.dim = length, dim

    def block_floors(self, shapes: Mapping[str, Sequence[int]]) -> list[int]:
        """How many blocks each layer keeps at least, all of them whole ones where it has any: its floor rounded down
        to whole blocks, and never less than one.

        Args:
            shapes: name -> shape of the weight.

        Raises:
            ValueError: the budget does not pay for them.
        """
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        floors, needed = [], 0.0
        for (name, shape), floor in zip(shapes.items(), self.floors(sizes)):
            length = min(self.length, shape[self.dim])
            there_are = sizes[name] // shape[self.dim] * (shape[self.dim] // length)
            floors.append(min(max(1, floor // length), there_are))
            needed += floors[-1] * length * self._price(name)
        if needed > self._budget:
            raise ValueError(
                f"each of the {len(floors)} layers keeps at least one block of {self.length} weights, and with the "
                f"floor of {self.floor:g} all together cost {needed / self._unit:g}; the ratio leaves "
                f"{self.budget:g}, so a smaller ratio or shorter blocks are needed"
            )
        return floors

    def project(self, values: Mapping[str, Tensor], worth: Mapping[str, Tensor], progress: float = 1.0) -> Selection:
        """See Constraint. Raises ValueError as `block_floors` does, too."""
        sizes = {name: value.numel() for name, value in values.items()}
        least = self.block_floors({name: value.shape for name, value in values.items()})
        items, floors, owners = [], [], []
        for owner, (name, value, floor) in enumerate(zip(values, values.values(), least)):
            lengths = magnitude(value) * worth[name].sqrt()
            for part, length in self._parts(lengths):
                apart = part.unflatten(self.dim, (-1, length))
                # In float32 the squares of small weights would underflow, and make ties of them.
                blocks = torch.linalg.vector_norm(apart, dim=self.dim + 1, dtype=torch.float64).to(lengths.dtype)
                items.append(Items(blocks.contiguous(), blocks.new_ones(()), self._price(name) * length))
                floors.append(floor if owner not in owners else 0)
                owners.append(owner)
        chosen = select(items, self._allowed(sizes, progress), floors)
        masks = [
            self._spread(value, [mask for mask, other in zip(chosen.masks, owners) if other == owner])
            for owner, value in enumerate(values.values())
        ]
        return Selection(masks, sorted({owners[i] for i in chosen.bound}))

    def _parts(self, value: Tensor) -> list[tuple[Tensor, int]]:
        """The whole blocks and what is left over, as far as there are any, each with the length of its blocks."""
        left = value.shape[self.dim] % self.length
        parts = value.split([value.shape[self.dim] - left, left], dim=self.dim)
        return [(part, length) for part, length in zip(parts, (self.length, left)) if part.shape[self.dim]]

    def _spread(self, value: Tensor, blocks: list[Tensor]) -> Tensor:
        """A mask for each weight from those of its blocks."""
        lengths = [length for _, length in self._parts(value)]
        parts = [mask.repeat_interleave(length, dim=self.dim) for mask, length in zip(blocks, lengths)]
        return _in_order_of(value, torch.cat(parts, dim=self.dim))


def _in_order_of(value: Tensor, mask: Tensor) -> Tensor:
    """The mask laid out in memory as the values are."""
    return torch.empty_like(value, dtype=torch.bool).copy_(mask)
