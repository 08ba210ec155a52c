"""A torch module for each kind of step of a plan. Each takes the outputs of the step's sources, (B, C, H, W) each."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detect_prune.darknet import steps
from detect_prune.darknet.activations import ACTIVATIONS

# Darknet's own, in training and when it folds the normalisation into the weights (blas.c, network.c).
BATCH_NORM_EPS = 1e-5
# Darknet keeps .9 of the old statistics (batchnorm_layer.c), which is torch's default of .1 for the new ones.
BATCH_NORM_MOMENTUM = 0.1
# A cell holds an object about once in a hundred at the start: log(.01 / .99). Without it, the first steps of a training
# from scratch are spent on unlearning thousands of false objects.
OBJECTNESS_PRIOR = -4.6


class Convolution(nn.Module):
    """[convolutional]: convolution, batch norm or bias, activation, and the blur of `antialiasing`."""

    def __init__(self, step: steps.Convolution):
        super().__init__()
        stride = (1, 1) if step.blur else step.stride
        # skip_init: torch's own first values would be drawn only to be overwritten below.
        self.conv = nn.utils.skip_init(
            nn.Conv2d,
            step.in_channels,
            step.channels,
            step.kernel,
            stride=stride[::-1],
            padding=step.padding,
            dilation=step.dilation,
            groups=step.groups,
            bias=not step.batch_normalize,
            device=torch.get_default_device(),  # skip_init does not ask for it by itself
        )
        self.norm = nn.BatchNorm2d(step.channels, BATCH_NORM_EPS, BATCH_NORM_MOMENTUM) if step.batch_normalize else None
        self.activation = step.activation
        self.blur = Blur(step.blur, step.stride) if step.blur else None
        self.feeds_head = False
        nn.init.kaiming_normal_(self.conv.weight, a=0.1, nonlinearity="leaky_relu")
        self._draw_no_zeros()
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.feeds_head:
            x = _in_full(x)  # with new_coords the logistic is here, and in bf16 it is 1 from a logit of 6.3 on
        x = ACTIVATIONS[self.activation](x)
        return x if self.blur is None else self.blur(x)

    @torch.no_grad()
    def _draw_no_zeros(self) -> None:
        # A draw in a million or two is exactly zero, and a zero says that a weight was pruned.
        self.conv.weight.masked_fill_(self.conv.weight == 0, 1e-6)

    def start_as_head(self, head: steps.Head) -> None:
        """Fresh weights for a convolution that feeds a [yolo]: boxes near their anchors, objects rare."""
        self.feeds_head = True
        nn.init.normal_(self.conv.weight, std=0.01)
        self._draw_no_zeros()
        if self.conv.bias is not None:
            with torch.no_grad():
                self.conv.bias.view(len(head.spec.anchors), 5 + head.spec.classes)[:, 4] = OBJECTNESS_PRIOR


class Blur(nn.Module):
    """The fixed low-pass filter that `antialiasing` strides with (convolutional_layer.c); in no weights file."""

    def __init__(self, size: int, stride: tuple[int, int]):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0] if size == 3 else [1.0, 1.0])
        self.register_buffer("kernel", torch.outer(row, row) / row.sum() ** 2, persistent=False)
        self.stride = stride
        self.padding = size // 2 if size == 3 else 0

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, *self.kernel.shape)
        return F.conv2d(x, kernel, stride=self.stride[::-1], padding=self.padding, groups=channels)


class Pool(nn.Module):
    """[maxpool] and [local_avgpool], with Darknet's padding: half of it, rounded down, stands left and above."""

    def __init__(self, step: steps.Pool):
        super().__init__()
        self.step = step
        self.blur = Blur(step.blur, step.stride) if step.blur else None

    def forward(self, x: Tensor) -> Tensor:
        step = self.step
        stride = (1, 1) if step.blur else step.stride
        low = step.padding // 2
        pads = []
        for n, s in zip((x.shape[-1], x.shape[-2]), stride):
            windows = (n + step.padding - step.kernel) // s + 1
            pads += [low, max(0, (windows - 1) * s + step.kernel - low - n)]
        if step.average:
            # Darknet averages over the pixels that are there, not over the padding.
            inside = F.pad(torch.ones_like(x[:1, :1]), pads)
            total, count = (
                F.avg_pool2d(m, step.kernel, stride[::-1], divisor_override=1) for m in (F.pad(x, pads), inside)
            )
            return total / count
        if low <= step.kernel // 2 and pads == [low, low, low, low]:
            x = F.max_pool2d(x, step.kernel, stride[::-1], low)
        else:
            x = F.max_pool2d(F.pad(x, pads, value=-math.inf) if any(pads) else x, step.kernel, stride[::-1])
        return x if self.blur is None else self.blur(x)


class DepthPool(nn.Module):
    """[maxpool] with maxpool_depth=1: (B, C, H, W) -> (B, out, H, W), the maximum of every out-th channel."""

    def __init__(self, step: steps.DepthPool):
        super().__init__()
        self.channels = step.channels

    def forward(self, x: Tensor) -> Tensor:
        missing = -x.shape[1] % self.channels
        if missing:
            x = F.pad(x, (0, 0, 0, 0, 0, missing), value=-math.inf)
        return x.unflatten(1, (-1, self.channels)).amax(1)


class GlobalAverage(nn.Module):
    """[avgpool]: (B, C, H, W) -> (B, C, 1, 1)."""

    def __init__(self, step: steps.GlobalAverage):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Route(nn.Module):
    """[route]: the sources one after the other; with `groups`, the same slice of each source (route_layer.c)."""

    def __init__(self, step: steps.Route):
        super().__init__()
        self.groups, self.group = step.groups, step.group

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.groups > 1:
            inputs = [x.narrow(1, x.shape[1] // self.groups * self.group, x.shape[1] // self.groups) for x in inputs]
        return inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), 1)


class Shortcut(nn.Module):
    """[shortcut]: a (weighted) sum; of sources with other channels only the common ones (shortcut_multilayer_cpu)."""

    def __init__(self, step: steps.Shortcut):
        super().__init__()
        self.activation = step.activation
        self.normalization = step.normalization
        # One row a source, as Darknet stores them; equal shares to begin with, the plain sum where nothing normalises.
        self.weights = nn.Parameter(torch.ones(len(step.sources), step.weights)) if step.weights else None

    def forward(self, *inputs: Tensor) -> Tensor:
        factors = self._factors()
        total = inputs[0] if factors is None else inputs[0] * factors[0]
        for index, other in enumerate(inputs[1:], 1):
            if factors is not None:
                # A row of one factor per channel of the sum can't be spread over more channels than those.
                other = other[:, : total.shape[1]]
                other = other * (factors[index] if factors.shape[1] == 1 else factors[index, : other.shape[1]])
            missing = total.shape[1] - other.shape[1]
            total = total + (F.pad(other, (0, 0, 0, 0, 0, missing)) if missing else other)
        return ACTIVATIONS[self.activation](total)

    def _factors(self) -> Tensor | None:
        """(sources, 1 or channels, 1, 1), or None for a plain sum.

        Darknet normalises over the sources, as it does before it detects (network.c, fuse_conv_batchnorm).
        """
        if self.weights is None:
            return None
        factors = self.weights
        if self.normalization == "relu":
            factors = factors.clamp(min=1e-3)
        elif self.normalization == "softmax":
            factors = (factors - factors.amax(0)).exp()
        if self.normalization != "none":
            factors = factors / (factors.sum(0) + 1e-4)
        return factors[:, :, None, None]


class Upsample(nn.Module):
    """[upsample]: nearest, times `scale`."""

    def __init__(self, step: steps.Upsample):
        super().__init__()
        self.factor, self.gain = step.factor, step.gain

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=self.factor, mode="nearest")
        return x if self.gain == 1 else x * self.gain


class Dropout(nn.Dropout):
    """[dropout]: in training, each value is zero with the given probability."""

    def __init__(self, step: steps.Dropout):
        super().__init__(step.probability)


class Product(nn.Module):
    """[sam] and [scale_channels]: the layer before, spread over the other where it is smaller, times the other."""

    def __init__(self, step: steps.Product):
        super().__init__()
        self.activation = step.activation

    def forward(self, before: Tensor, other: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](before * other)


class Reorg(nn.Module):
    """[reorg3d] and [reorg]: space to channels, (B, C, H, W) -> (B, C * s * s, H / s, W / s).

    [reorg3d] puts channel c of offset (dy, dx) at (dy * s + dx) * C + c. [reorg] does the same to its input read as
    (B, C / s / s, H * s, W * s), and its output is then read back in the expected shape (reorg_old_layer.c): scrambled,
    but it is what the YOLOv2 networks were trained with.
    """

    def __init__(self, step: steps.Reorg):
        super().__init__()
        self.factor, self.scrambled = step.factor, step.scrambled

    def forward(self, x: Tensor) -> Tensor:
        s = self.factor
        batch, channels, height, width = x.shape
        if self.scrambled:
            x = x.reshape(batch, channels // s**2, height * s, width * s)
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(batch, channels * s**2, height // s, width // s)


class Head(nn.Module):
    """[yolo]: hands its input on. Under bf16 autocast in float32: boxes and losses need more than eight bits."""

    def __init__(self, step: steps.Head):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return _in_full(x)


def _in_full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def build_layer(step: steps.Step) -> nn.Module:
    """The module of a step, with fresh weights."""
    return _MODULES[type(step)](step)


_MODULES: dict[type[steps.Step], type[nn.Module]] = {
    steps.Convolution: Convolution,
    steps.Pool: Pool,
    steps.DepthPool: DepthPool,
    steps.GlobalAverage: GlobalAverage,
    steps.Route: Route,
    steps.Shortcut: Shortcut,
    steps.Upsample: Upsample,
    steps.Dropout: Dropout,
    steps.Product: Product,
    steps.Reorg: Reorg,
    steps.Head: Head,
}
