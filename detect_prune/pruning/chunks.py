"""Passes over weights as they lie in memory, a stretch at a time and without a copy of them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 18
"""Scores that exist at one time. They fit into a processor's cache: then a pass reads each weight from memory once.
(Below 2^24, so that a sum of ones in float32 is a count.)"""


class Diverged(ValueError):
    """Weights or gradients are no longer finite numbers, or all weights have become zero: they can't be ranked."""


def to_numbers(tensors: Iterable[Tensor]) -> list[Any]:
    """The values of tensors of one shape and kind, read together: for each reading a GPU has to end all that it was
    given. They are numbers where the tensors have no dimension, else lists."""
    tensors = list(tensors)
    return torch.stack(tensors).tolist() if tensors else []


def require_finite(weights: Mapping[str, Tensor]) -> None:
    """No ranking has a place for NaN, and a mask would remove it in silence.

    Raises:
        Diverged: names the first layer with weights that are not finite.
    """
    finite = to_numbers(
        torch.stack([part.isfinite().all() for (part,) in chunks(weight)]).all() for weight in weights.values()
    )
    for name, good in zip(weights, finite):
        if not good:
            raise Diverged(f"the weights of {name} are not finite: training has diverged")


def is_dense(tensor: Tensor) -> bool:
    """Whether its values lie side by side in memory, in whichever order."""
    dense = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1:
            if stride != dense:
                return False
            dense *= size
    return True


def flat(tensor: Tensor) -> Tensor:
    """A dense tensor as (n,), a view in the order of its memory: channels_last weights are not copied."""
    if not is_dense(tensor):
        raise ValueError("only dense tensors can be selected from")
    return tensor.as_strided((tensor.numel(),), (1,))


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same stretches of several tensors, as views of at most _CHUNK values in the order of memory.

    What is done to one stretch after the other stays in the processor's cache and needs no temporary of their size.
    Tensors whose memory is ordered otherwise than the first one's are copied, and so is a stretch of one that has a
    value a row, (n, 1, ...), for a first one of (n, ...): write to none but those like the first.
    """
    first = tensors[0]
    return zip(*(_stretches(tensor, first) for tensor in tensors))


def _stretches(tensor: Tensor, other: Tensor) -> Iterator[Tensor]:
    """Of a tensor that has the shape of the other one, or a value for each of its rows."""
    alike = laid_out_as(tensor, other)
    if alike.shape == other.shape:
        yield from flat(alike).split(_CHUNK)
        return
    rows, width = alike.flatten(), other.numel() // len(other)
    for start in range(0, other.numel(), _CHUNK):
        end = min(start + _CHUNK, other.numel())
        first, last = start // width, (end - 1) // width
        yield rows[first : last + 1].repeat_interleave(width)[start - first * width : end - first * width]


def laid_out_as(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor itself where it is in the other one's order of memory, or has a value for each of the rows that lie
    there one after the other; else a copy in the other one's shape and order."""
    if tensor.shape == other.shape:
        fits = tensor.stride() == other.stride()
    else:
        fits = len(other) == 1 or other.stride(0) * len(other) == other.numel()
    return tensor if fits else torch.empty_like(other, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def magnitude(values: Tensor) -> Tensor:
    """|v|, a new tensor, in float32 at least: half precision would round the threshold, differently in each layer."""
    return values.abs() if values.dtype in (torch.float32, torch.float64) else values.float().abs_()
