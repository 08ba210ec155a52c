"""LeNet-5 with more convolutions, each pruned at the same ratio: which layers lose their weights as layers are added?

    python benchmarks/deeper_lenet.py --data-root DIR
    python benchmarks/layer_shares.py --family lenet5 --ratio 0.99 runs/deeper_lenet/*

Finished runs are not run again, and one that was stopped goes on.
"""

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from recording import circumstances
from torch import nn

from detect_prune import classification_task, prune
from detect_prune.classification import ARCHITECTURES
from detect_prune.cli.command import run_command
from detect_prune.cli.options import positive, removal_ratio
from detect_prune.engine.names import LAST, METRICS
from detect_prune.engine.recipe import Phase, Recipe
from detect_prune.engine.run import Stopped

PHASES = ("dense", "admm", "retrain")
# Without dropout, which would stand before other layers in each of these networks.
RECIPE = Recipe(
    dense=Phase(15, 2e-3, "adamw", weight_decay=0.05, ema=0.999),
    admm=Phase(18, 2e-3, "adamw", final_lr=0.3),
    retrain=Phase(12, 1.5e-3, "adamw", weight_decay=0.2, ema=0.999),
)


def deeper_lenet(extra: int, classes: int = 10) -> nn.Sequential:
    """Caffe's LeNet-5 with `extra` 3x3 convolutions of 50 channels after the second pool; with none it is LeNet-5.

    A ReLU follows each of them. Without one they would be linear maps before fc1, another linear map: the network would
    be no deeper than before, and their weights could be folded into fc1's. They start as He et al. 2015 (arXiv
    1502.01852) have it: PyTorch's own start shrinks what passes through four of them until hardly anything is learned.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(1, 20, 5), pool1=nn.MaxPool2d(2), conv2=nn.Conv2d(20, 50, 5), pool2=nn.MaxPool2d(2)
    )
    for number in range(3, 3 + extra):
        layers[f"conv{number}"] = added = nn.Conv2d(50, 50, 3, padding=1)
        nn.init.kaiming_normal_(added.weight, nonlinearity="relu")
        layers[f"relu{number}"] = nn.ReLU()
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(50 * 4 * 4, 500), "relu": nn.ReLU()}
    layers["fc2"] = nn.Linear(500, classes)
    return nn.Sequential(layers)


def _prune_all(args: argparse.Namespace, argv: Sequence[str]) -> None:
    epochs = {phase: getattr(args, f"{phase}_epochs") for phase in PHASES}
    recipe = RECIPE.with_options(
        **{phase: {"epochs": number} for phase, number in epochs.items() if number is not None}
    )
    for extra in range(args.most + 1):
        name = f"lenet5+{extra}"
        folder = args.project / f"{name}-{args.ratio}-s{args.seed}"
        if (folder / METRICS).exists():
            continue
        ARCHITECTURES[name] = replace(ARCHITECTURES["lenet5"], build=partial(deeper_lenet, extra))
        task = classification_task(name, data="mnist", data_root=args.data_root, seed=args.seed)
        try:
            prune(
                task.model,
                ratio=args.ratio,
                task=task,
                folder=folder,
                recipe=recipe,
                train_dense=True,
                resume=(folder / LAST).exists(),
                seed=args.seed,
                command=circumstances()["command"],
            )
        except Stopped as stopped:
            raise SystemExit(f"{stopped}; the same command goes on") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder that holds MNIST")
    parser.add_argument("--ratio", type=removal_ratio, default=0.99)
    parser.add_argument("--most", type=int, default=4, help="so many convolutions are added at most (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    for phase in PHASES:
        parser.add_argument(f"--{phase}-epochs", type=positive(int), help="instead of the recipe's")
    parser.add_argument("--project", type=Path, default=Path("runs/deeper_lenet"), help="where the runs are kept")
    raise SystemExit(run_command(_prune_all, parser, None))


if __name__ == "__main__":
    main()
