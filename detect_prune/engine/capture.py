"""Forward and backward of a step as one CUDA graph: a small network's kernels end sooner than Python starts them."""

import contextlib
import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

Losses = tuple[Tensor, dict[str, Tensor]]

_PLAIN_STEPS = 3
"""In these the libraries choose their kernels and take their memory, which can't be captured."""


class CapturedStep:
    """Computes the loss of a batch and leaves its gradient in the parameters, like `compute`, which it captures.

    The first batches go through `compute`, and so do those that are not of the shapes that the captured one had (an
    epoch's last, say). For the others the graph runs again, on their values: what `compute` does has to follow from the
    shapes alone, without a value that is read back from the GPU or a random number of the processor's, and of the model
    nothing but values may change. The GPU's random numbers are drawn anew each time. (CUDA graphs: pytorch.org/docs,
    "CUDA semantics".) The activations of a step stay in memory for as long as this object lives.

    Args:
        model: whose gradients are meant. They are dropped before each call.
        compute: from a batch on the model's GPU to its loss and its parts, detached; calls `backward`.
    """

    def __init__(self, model: nn.Module, compute: Callable[[Sequence[Tensor]], Losses]):
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._compute = compute
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._shapes: tuple[torch.Size, ...] | None = None

    def __call__(self, batch: Sequence[Tensor]) -> Losses:
        shapes = tuple(tensor.shape for tensor in batch)
        if self._shapes is None:
            self._seen[shapes] += 1
            if self._seen[shapes] > _PLAIN_STEPS:
                self._capture(batch)
                self._shapes = shapes
        if shapes != self._shapes:
            return self._compute(batch)
        for inside, tensor in zip(self._batch, batch):
            inside.copy_(tensor)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients):
            parameter.grad = gradient
        return self._losses

    def _capture(self, batch: Sequence[Tensor]) -> None:
        """Nothing is computed yet: the graph's kernels are only written down."""
        self._batch = [tensor.clone() for tensor in batch]
        self._graph = torch.cuda.CUDAGraph()
        # A stream of the device that is meant: on another one's nothing would be captured, and no error raised. Other
        # threads may use the GPU meanwhile.
        with (
            torch.cuda.device(self._batch[0].device),
            _no_collection(),
            torch.cuda.graph(self._graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"),
        ):
            self._losses = self._compute(self._batch)
        self._losses[0].fill_(math.nan)  # which training refuses, should the graph not compute it
        # The graph writes into these at each replay.
        self._gradients = [parameter.grad for parameter in self._parameters]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A graph that Python frees while another is captured makes the latter fail (pytorch/pytorch#161037)."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
