"""The options that say how a network is pruned: prune's, and what sweep hands on."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detect_prune.cli.choices import BUDGETS, IMPORTANCES, KEEPING
from detect_prune.cli.options import checked, not_negative, positive, share
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_json

if TYPE_CHECKING:
    from detect_prune.engine.task import Task

AFTER_DENSE = ("admm_epochs", "retrain_epochs", "distill")
"""Values of options of what comes after the dense network, which is the end of the method `dense`."""


def add_pruning_options(parser: argparse.ArgumentParser) -> None:
    """What says how a network is pruned, but the method and the ratio."""
    parser.add_argument("--epochs", type=positive(int), dest="retrain_epochs", metavar="N", help="of masked retraining")
    parser.add_argument(
        "--admm-epochs",
        type=positive(int),
        metavar="N",
        help="of ADMM, or of what stands in for it; a one-shot method retrains for them (more where the set is so "
        "small that they would not come to 30 updates)",
    )
    parser.add_argument(
        "--dense-epochs",
        type=positive(int),
        metavar="N",
        help="of dense training, where there are no weights to start from, or the heads start at random",
    )
    parser.add_argument(
        "--distill",
        type=not_negative(float),
        metavar="WEIGHT",
        help="of the distance from the dense network's answers, in the loss while it is pruned and retrained; 0 for "
        "none (default: 1 for ResNets, and for detectors on real data; else 0)",
    )
    parser.add_argument(
        "--importance",
        choices=IMPORTANCES,
        help="how weights of different layers or filters are compared (default: the method's, for admm lamp, and "
        "for ADMM with ResNets and detectors taylor)",
    )
    parser.add_argument(
        "--budget",
        choices=BUDGETS,
        help="what --ratio is a share of: the number of weights (default), the MACs, or the bytes of --bits",
    )
    parser.add_argument(
        "--bits",
        type=checked(parse_bits),
        action="append",
        metavar="GLOB=N",
        help="with --budget bytes: weights whose name matches count as stored in N bits, and others as in memory (the "
        "files stay float32); may be repeated, and the first that matches counts",
    )
    parser.add_argument(
        "--pattern", metavar="P", help="how the zeros lie: N:M, such as 2:4, or blocks 1xN (default: anywhere)"
    )
    parser.add_argument(
        "--gradual",
        action=argparse.BooleanOptionalAction,
        help="let ADMM's removal grow over its updates, or not (default: for ResNets and for detectors, "
        "but for a pattern N:M)",
    )
    parser.add_argument(
        "--floor",
        type=share,
        metavar="SHARE",
        help="share of an even cut that each layer keeps at least (default .05 where all layers share one ratio)",
    )
    parser.add_argument(
        "--include", action="append", metavar="GLOB", help="prune only weights whose name matches; may be repeated"
    )
    parser.add_argument(
        "--exclude", action="append", metavar="GLOB", help="leave weights alone whose name matches; may be repeated"
    )


def require_dense_training(task: "Task", args: argparse.Namespace) -> None:
    """Raises DetectPruneError where a length of the dense training is given, and there will be none."""
    if args.dense_epochs is not None and task.trained:
        raise DetectPruneError(
            f"--dense-epochs is given, and no dense network is trained: the run begins with {args.weights}"
        )


def chosen_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was chosen of how to prune, as the engine's `prune` and `Settings` take it."""
    names = ("method", "importance", "budget", "pattern", "gradual", "floor", "include", "exclude")
    chosen = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    bits: dict[str, float] = {}
    for pattern, number in map(parse_bits, getattr(args, "bits", None) or []):
        bits.setdefault(pattern, number)
    return chosen | ({"bits": bits} if bits else {})


def chosen_ratio(args: argparse.Namespace) -> float | dict[str, float] | None:
    """The ratio, or that of each layer. Raises DetectPruneError as `read_layer_ratios` does."""
    return args.ratio if args.layer_ratios is None else read_layer_ratios(args.layer_ratios)


def read_layer_ratios(path: str | Path) -> dict[str, float]:
    """The removal ratio of each layer, from a JSON object of numbers above 0 and below 1.

    Raises:
        DetectPruneError: the file is no such object, or names a layer twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DetectPruneError(f"{', '.join(twice)} is there twice", file=path)
        return dict(pairs)

    found = read_json(path, "file of removal ratios", object_pairs_hook=once)
    if not isinstance(found, dict) or not found:
        raise DetectPruneError('an object such as {"conv1.weight": 0.3, "fc1.weight": 0.95} was expected', file=path)
    for name, ratio in found.items():
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
            raise DetectPruneError(f"a number above 0 and below 1 was expected for {name}, not {ratio!r}", file=path)
    return found


def parse_bits(text: str) -> tuple[str, float]:
    """`GLOB=N`: a glob pattern of layers, and the bits that each of their weights is stored in.

    Raises:
        ValueError: it is not that.
    """
    pattern, _, number = text.rpartition("=")
    try:
        if pattern:
            return pattern, positive(float)(number)
    except argparse.ArgumentTypeError:
        pass
    raise ValueError(f"'{text}' is not a pattern of layers and a number of bits above 0, such as 'fc*=8'")


def needs_ratio(args: argparse.Namespace) -> bool:
    """Whether these options have to come with a ratio."""
    return args.method not in KEEPING and not is_ratio(args.pattern)


def is_ratio(pattern: str | None) -> bool:
    """Whether the pattern says itself how much is removed, as N:M does."""
    return ":" in (pattern or "")
