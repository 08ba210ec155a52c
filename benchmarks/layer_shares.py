"""Which layers lose their weights as the number of layers grows: one figure for a family of networks.

    python benchmarks/layer_shares.py --family resnet --ratio 0.9 runs/sweep/resnet20 runs/sweep/resnet56
    python benchmarks/layer_shares.py --family resnet-at-once --ratio 0.9 --method lamp --one-shot DIR/resnet*.th

From the finished runs of one method at one ratio (several seeds of a network are averaged), or, within seconds, from
trained weights that are cut at once and not retrained. Writes results/layer_shares_FAMILY.png, .svg, .json and .md.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from recording import RESULTS, circumstances, portable_command, records_in, write_results
from torch import nn

from detect_prune.classification import find_architecture
from detect_prune.cli.command import run_command
from detect_prune.cli.options import removal_ratio
from detect_prune.engine.comparison import SETTINGS
from detect_prune.errors import DetectPruneError
from detect_prune.pruning import DEFAULT_FLOOR, METHODS, magnitude_masks
from detect_prune.report.plots import kept_over_depth
from detect_prune.report.tables import Table, share
from detect_prune.tasks.detector import load
from detect_prune.tensors import load_state

ONE_SHOT = tuple(name for name, method in METHODS.items() if method.prunes == "at once")
LEGEND = (
    "Kept of the weights, and, after the slash, how many times the whole network's share that is. The layers are "
    "divided into thirds by their number, in their order; the last one (a classifier's linear layer, a detector's last "
    "head) stands for itself."
)


def one_shot(file: Path, method: str, ratio: float) -> dict[str, Any]:
    """The record of a trained network that is cut at once: `resnet20-*.th` or a Darknet .weights file named as its cfg.

    Raises:
        DetectPruneError: there is no such network, or the file is not its weights.
    """
    model: nn.Module
    if file.suffix == ".weights":
        name = file.stem
        model = load(f"{name}.cfg", file)
    else:
        name = file.stem.partition("-")[0]
        model = find_architecture(name).build(10)
        load_state(model, file)
    importance = METHODS[method].importance
    kept = magnitude_masks(model, ratio, importance=importance, floor=DEFAULT_FLOOR).kept()
    choice = {"network": name, "method": method, "ratio": ratio, "importance": importance, "seed": None, "epochs": 0}
    return choice | circumstances() | {"layers": {layer: list(counts) for layer, counts in kept.items()}}


def select(folders: Sequence[Path], method: str, ratio: float) -> list[dict[str, Any]]:
    """The records of the runs in the folders that have this method and ratio.

    Raises:
        DetectPruneError: there are none, or they differ in their data or in other settings, too.
    """
    records = [record for folder in folders for record in records_in(folder)]
    records = [record for record in records if (record["method"], record["ratio"]) == (method, ratio)]
    if not records:
        raise DetectPruneError(f"no run of {method} at {ratio} has finished in these folders")
    for setting in ("data", "budget", *SETTINGS):
        found = list(dict.fromkeys(str(record[setting]) for record in records))
        if len(found) > 1:
            raise DetectPruneError(f"one figure has one {setting}, and these runs have {' and '.join(found)}")
    return [record | {"command": portable_command(record["command"])} for record in records]


def by_network(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, int]]]:
    """network -> by layer, in its order: mean of the weights kept over the runs, and all weights."""
    runs: dict[str, list[list[list[int]]]] = {}
    for record in records:
        runs.setdefault(record["network"], []).append(list(record["layers"].values()))
    return {
        network: [(sum(kept for kept, _ in layer) / len(layer), layer[0][1]) for layer in zip(*own)]
        for network, own in runs.items()
    }


def thirds(layers: Sequence[tuple[float, int]]) -> list[float]:
    """Share kept of the first, the middle and the last third of all layers but the last, and of the last."""
    *body, last = layers
    ends = [round(len(body) * number / 3) for number in range(4)]
    return [_share(body[start:end]) for start, end in pairwise(ends)] + [_share([last])]


def _share(layers: Sequence[tuple[float, int]]) -> float:
    return sum(kept for kept, _ in layers) / sum(total for _, total in layers)


def _draw(args: argparse.Namespace, argv: Sequence[str]) -> None:
    if not args.one_shot:
        records = select(args.sources, args.method, args.ratio)
    elif args.method in ONE_SHOT:
        records = [one_shot(file, args.method, args.ratio) for file in args.sources]
    else:
        raise DetectPruneError(f"--method {args.method} does not cut at once; {' or '.join(ONE_SHOT)} was expected")
    how = f"{args.method}, {100 * args.ratio:g} % removed" + (", not retrained" if args.one_shot else "")
    table = Table(["network", "layers", "weights", "all", "first third", "middle third", "last third", "last layer"])
    lines = {}
    for network, layers in by_network(records).items():
        whole = _share(layers)
        lines[network] = [kept / total / whole for kept, total in layers]
        cells = [f"{share(part)} / {part / whole:.2f}" for part in thirds(layers)]
        table.row(network, len(layers), f"{sum(total for _, total in layers):,}", share(whole), *cells)
    stem = f"layer_shares_{args.family}"
    for suffix in ("png", "svg"):
        kept_over_depth(lines, RESULTS / f"{stem}.{suffix}", f"{args.family}: what is kept of each layer ({how})")
    commands = dict.fromkeys([*(record["command"] for record in records), circumstances()["command"]])
    write_results(stem, records, table, f"{how}. {LEGEND}", commands=list(commands))
    print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="folders of runs and sweeps, or with --one-shot weights")
    parser.add_argument("--family", required=True, help="names the figure and the files")
    parser.add_argument("--ratio", type=removal_ratio, required=True)
    parser.add_argument("--method", choices=METHODS, default="admm")
    parser.add_argument("--one-shot", action="store_true", help="cut files of trained weights, without training")
    raise SystemExit(run_command(_draw, parser, None))


if __name__ == "__main__":
    main()
