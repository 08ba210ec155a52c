"""What the sections of a cfg mean together: who reads whose output, how many channels, which sizes, how many floats.

The plan is made of plain objects and allocates no weights, so that a cfg that makes no sense, or that asks for an
absurd network, is refused with its line before any memory is taken.
"""

from detect_prune.darknet.cfg import Cfg
from detect_prune.darknet.readers import read_step
from detect_prune.darknet.steps import MAX_MAP_SIDE, Head, Step, plan_sizes
from detect_prune.errors import DetectPruneError

MAX_LAYERS = 5_000  # ten times the deepest official network
MAX_FLOATS = 500_000_000  # the largest official network, P7, has 290 million


def plan_network(cfg: Cfg) -> tuple[Step, ...]:
    """Works out every layer of `cfg`, and that the sizes fit together for the cfg's own input size.

    Raises:
        DetectPruneError: with file and line, wherever the network can't be built as it is written.
    """
    cfg.net.int("channels", 3, low=3, high=3)
    steps: list[Step] = []
    floats = 0
    for index, section in enumerate(cfg.layers):
        if index == MAX_LAYERS:
            raise section.error(f"the network has {len(cfg.layers):,} layers; at most {MAX_LAYERS:,} are supported")
        step = read_step(section, index, steps)
        floats += step.floats
        if floats > MAX_FLOATS:
            raise section.error(
                f"with this section the network has {floats:,} weights; at most {MAX_FLOATS:,} are supported"
            )
        # Without this bound a long row of strides or upsamplings would make fractions of thousands of digits.
        if any(scale and not 1 <= scale * MAX_MAP_SIDE <= MAX_MAP_SIDE**2 for scale in step.scale):
            raise section.error(f"the strides up to this [{section.name}] multiply to more than {MAX_MAP_SIDE}")
        steps.append(step)
    if not any(isinstance(step, Head) for step in steps):
        raise DetectPruneError(
            "the network has no [yolo] section; expected a detector with at least one", file=cfg.path
        )
    counts = {step.spec.classes: step for step in steps if isinstance(step, Head)}
    if len(counts) > 1:
        (a, first), (b, second) = list(counts.items())[:2]
        raise second.section.error(f"classes={b}, but the [yolo] at line {first.section.line} has {a}", "classes")
    plan_sizes(steps, cfg.input_size)
    return tuple(steps)
