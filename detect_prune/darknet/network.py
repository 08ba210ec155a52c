"""The network that a cfg describes, as one torch module."""

import torch
from torch import Tensor, nn

from detect_prune.darknet.cfg import Cfg
from detect_prune.darknet.layers import Convolution, build_layer
from detect_prune.darknet.plan import plan_network
from detect_prune.darknet.steps import PICTURE, Head, plan_sizes
from detect_prune.errors import DetectPruneError
from detect_prune.structures import HeadSpec


class Darknet(nn.Module):
    """A detector: pictures in, one tensor a [yolo] section out, not decoded.

    `layers[i]` is Darknet's layer i, and `steps[i]` says what it reads. Fully convolutional: any input size works whose
    maps fit together, which multiples of the largest stride do.

    Raises:
        DetectPruneError: the cfg can't be built as written; with file and line, before any weight is allocated.
    """

    def __init__(self, cfg: Cfg):
        steps = plan_network(cfg)
        super().__init__()
        self.cfg = cfg
        self.steps = steps
        self.layers = nn.ModuleList(build_layer(step) for step in steps)
        for step in steps:
            feeder = self.layers[step.sources[0]] if isinstance(step, Head) and step.sources[0] >= 0 else None
            if isinstance(feeder, Convolution):
                feeder.start_as_head(step)
        # A feature map is let go after the last layer that reads it.
        last_reader = {source: step.index for step in steps for source in step.sources}
        self._done_after = [
            [source for source in set(step.sources) if last_reader[source] == step.index] for step in steps
        ]
        self._fitting_sizes = {cfg.input_size}

    @property
    def heads(self) -> list[HeadSpec]:
        """The [yolo] sections, in the order of the outputs."""
        return [step.spec for step in self.steps if isinstance(step, Head)]

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) in pixels that the cfg asks for."""
        return self.cfg.input_size

    @property
    def num_classes(self) -> int:
        return self.heads[0].classes

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in 0..1 -> a (B, anchors * (5 + classes), h, w) for each head.

        Raises:
            DetectPruneError: the maps of some layer do not fit together for this input size.
        """
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
            self._check_size((x.shape[-1], x.shape[-2]))
        maps = {PICTURE: x}
        raws = []
        for step, layer, done in zip(self.steps, self.layers, self._done_after):
            y = layer(*[maps[source] for source in step.sources])
            for source in done:
                del maps[source]
            if isinstance(step, Head):
                raws.append(y)
            else:
                maps[step.index] = y
        return raws

    def _check_size(self, size: tuple[int, int]) -> None:
        if size not in self._fitting_sizes:
            plan_sizes(self.steps, size)
            self._fitting_sizes.add(size)


def copy_matching(source: Darknet, target: Darknet) -> list[str]:
    """Copies the weights of every section that has the same shapes in both networks, batch-norm statistics included.

    Meant for heads that were adapted to another number of classes. Returns the titles of the sections of `target` that
    keep their fresh weights.

    Raises:
        DetectPruneError: the networks do not have the same sections.
    """
    kinds = [[step.section.name for step in net.steps] for net in (source, target)]
    if kinds[0] != kinds[1]:
        where = next((i for i, (a, b) in enumerate(zip(*kinds)) if a != b), min(map(len, kinds)))
        raise DetectPruneError(
            f"the weights are of another network: its layers differ from layer {where} on", file=target.cfg.path
        )
    fresh = []
    for step, old, new in zip(target.steps, source.layers, target.layers):
        theirs, ours = old.state_dict(), new.state_dict()
        if {name: t.shape for name, t in theirs.items()} == {name: t.shape for name, t in ours.items()}:
            new.load_state_dict(theirs)
        else:
            fresh.append(step.title)
    return fresh
