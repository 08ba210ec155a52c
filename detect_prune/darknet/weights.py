"""Darknet's .weights files: four numbers of header, then float32 after float32, in the order of the sections."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detect_prune.darknet.layers import BATCH_NORM_EPS, Convolution, Shortcut
from detect_prune.darknet.network import Darknet
from detect_prune.darknet.steps import Step
from detect_prune.errors import DetectPruneError
from detect_prune.files import atomic_path, open_binary
from detect_prune.numbers import counted

_FLOAT = np.dtype("<f4")
MAX_HEADER = 20  # bytes


@dataclass(frozen=True)
class WeightsHeader:
    """The head of a weights file. `seen` counts the pictures trained on: in 64 bits from version 0.2 on, else 32."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def _format(self) -> str:
        return "<iiiQ" if 10 * self.major + self.minor >= 2 else "<iiiI"

    @property
    def size(self) -> int:
        """In bytes."""
        return struct.calcsize(self._format)

    def pack(self) -> bytes:
        return struct.pack(self._format, self.major, self.minor, self.revision, self.seen)

    @classmethod
    def unpack(cls, data: bytes, file: Path) -> "WeightsHeader":
        """Reads the header at the beginning of `data`. Raises DetectPruneError where it can't be one."""
        if len(data) < 16:
            raise DetectPruneError(
                f"only {len(data)} bytes; expected Darknet weights, whose header alone has 16", file=file
            )
        versions = struct.unpack_from("<iii", data)
        if any(not 0 <= part <= 1000 for part in versions):
            raise DetectPruneError(
                "this does not begin like Darknet weights (three small version numbers); expected a .weights file",
                file=file,
            )
        form = cls(*versions)
        if len(data) < form.size:
            raise DetectPruneError(
                f"the file ends inside its header, after {len(data)} bytes; expected Darknet weights", file=file
            )
        return cls(*struct.unpack_from(form._format, data))


def read_weights(net: Darknet, path: str | Path) -> WeightsHeader:
    """Reads a weights file into `net`; the file has to hold exactly the floats of the network.

    Raises:
        DetectPruneError: there is no such file, it is no weights file, or of another network; `net` is unchanged.
    """
    return _read_into(net, Path(path), partial=False)[0]


def read_backbone(net: Darknet, path: str | Path) -> list[str]:
    """Reads the weights of the first sections (yolov4.conv.137, yolov4-tiny.conv.29), as Darknet's `partial` command
    cuts them off; the others of `net` stay as they are. The header is of no use: what it counts was seen by another
    network.

    Returns:
        The titles of the sections that were filled.

    Raises:
        DetectPruneError: as `read_weights`, or the file does not end where a section does.
    """
    return [step.title for step in _read_into(net, Path(path), partial=True)[1]]


def _read_into(net: Darknet, path: Path, partial: bool) -> tuple[WeightsHeader, list[Step]]:
    header, values, steps = _read_floats(net, path, partial)
    tensors = [(step, name, tensor) for step in steps for name, tensor in _tensors(net, step)]
    pieces = np.split(values, np.cumsum([tensor.numel() for _, _, tensor in tensors[:-1]]))
    for (step, name, _), piece in zip(tensors, pieces):
        # Of the right length, but of another network: variances give it away. Real files have some of -7e-44.
        if not np.isfinite(piece).all() or (name == "variance" and (piece <= -BATCH_NORM_EPS).any()):
            raise DetectPruneError(
                f"the {name} of the {step.title} of {net.cfg.path or 'the cfg'} would not be finite, or a variance "
                "below zero; the weights are damaged or of another network",
                file=path,
            )
    with torch.no_grad():
        for (_, _, tensor), piece in zip(tensors, pieces):
            tensor.copy_(torch.from_numpy(piece).view(tensor.shape))
    return header, steps


def _read_floats(net: Darknet, path: Path, partial: bool) -> tuple[WeightsHeader, np.ndarray, list[Step]]:
    """The header, all float32 after it, and the sections that they fill. Nothing is read of a file of a wrong size."""
    with open_binary(path, "file of Darknet weights") as file:
        header = WeightsHeader.unpack(file.read(MAX_HEADER), path)
        size = os.fstat(file.fileno()).st_size - header.size
        if size % 4:
            raise DetectPruneError(
                f"the file ends with {size % 4} bytes of a float; it is cut off or not Darknet weights", file=path
            )
        steps = _sections_in(net, size // 4, partial, path)
        file.seek(header.size)
        values = np.fromfile(file, _FLOAT).astype(np.float32, copy=False)
    if len(values) != size // 4:
        raise DetectPruneError("the file has changed while it was read", file=path)
    return header, values, steps


def write_weights(net: Darknet, path: str | Path, header: WeightsHeader | None = None) -> None:
    """Writes the weights of `net` as Darknet does, atomically; with the header that was read, the same bytes."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write((header or WeightsHeader()).pack())
        for step in net.steps:
            for _, tensor in _tensors(net, step):
                # `contiguous` undoes channels_last: the file has the weights as (out, in / groups, k, k).
                file.write(
                    tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype(_FLOAT, copy=False).tobytes()
                )


def _tensors(net: Darknet, step: Step) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a section in file order (src/parser.c, load_convolutional_weights and load_shortcut_weights)."""
    layer = net.layers[step.index]
    if isinstance(layer, Convolution):
        norm = layer.norm
        if norm is None:
            yield "bias", layer.conv.bias
        else:
            yield from (
                ("beta", norm.bias),
                ("gamma", norm.weight),
                ("mean", norm.running_mean),
                ("variance", norm.running_var),
            )
        yield "weights", layer.conv.weight
    elif isinstance(layer, Shortcut) and layer.weights is not None:
        yield "weights", layer.weights


def _sections_in(net: Darknet, found: int, partial: bool, path: Path) -> list[Step]:
    """The sections that a file of `found` floats fills; raises DetectPruneError unless it fills them exactly."""
    steps = [step for step in net.steps if step.floats]
    expected = sum(step.floats for step in steps)
    of = f"{net.cfg.path or 'the cfg'} has {expected:,} weights"
    if found > expected:
        raise DetectPruneError(
            f"{counted(found - expected, 'float')} too many: the file has {found:,}, {of}, the last in the "
            f"{steps[-1].title}; are these weights of another network?",
            file=path,
        )
    end = 0
    for count, step in enumerate(steps):
        if partial and count and end == found:
            return steps[:count]
        end += step.floats
        if end > found:
            raise DetectPruneError(
                f"{counted(expected - found, 'float')} too few: the file has {found:,}, {of}; "
                f"it ends {counted(found - end + step.floats, 'float')} into the {step.title}, which has "
                f"{step.floats:,}; is it cut off, of another network"
                + ("?" if partial else ", or a backbone's, for `pretrained`?"),
                file=path,
            )
    return steps
