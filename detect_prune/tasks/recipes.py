"""How long and how fast each kind of network is trained unless the caller says otherwise."""

from detect_prune.engine.recipe import Phase, Recipe


def detection_recipe(*, sample: bool, large: bool) -> Recipe:
    """The recipe for a detector.

    Args:
        sample: the built-in set, on which a run has to end within minutes; a dense network of so few steps has nothing
            to teach.
        large: tens of millions of weights.
    """
    # AdamW: from scratch on eight pictures it reached AP .76 in 120 steps, SGD at 3e-3 (its box term near diverging)
    # .45 in 180. That the removal grows, by taylor, was chosen with yolov4-tiny on COCO, 80 and 90 % removed
    # (docs/trials.md).
    if sample:
        epochs = (2, 1, 1) if large else (14, 5, 2)
        return Recipe(
            dense=Phase(epochs[0], 1.5e-3, "adamw", weight_decay=0.01, ema=0.99, clip=10.0),
            admm=Phase(epochs[1], 1e-3, "adamw", clip=10.0, final_lr=0.3),
            retrain=Phase(epochs[2], 1e-3, "adamw", ema=0.99, clip=10.0),
            gradual=True,
            importance="taylor",
        )
    return Recipe(
        dense=Phase(100, 1e-3, "adamw", weight_decay=0.05, ema=0.9998, clip=10.0),
        admm=Phase(10, 3e-4, "adamw", clip=10.0, final_lr=0.3, distill=1.0),
        retrain=Phase(10, 3e-4, "adamw", weight_decay=0.01, ema=0.999, clip=10.0, distill=1.0),
        gradual=True,
        importance="taylor",
    )


def classification_recipe(model: str, pretrained: bool = False) -> Recipe:
    """The recipe for LeNet-5 on MNIST or a ResNet on CIFAR-10; weights that are trained already want a smaller rate."""
    if model == "lenet5":
        # Chosen between what was tried on held-out training pictures at 99.2 and 99.67 % removed (docs/recipes.md).
        return Recipe(
            dense=Phase(15, 2e-3, "adamw", weight_decay=0.05, ema=0.999, dropout=0.3),
            admm=Phase(24, 3e-3, "adamw", final_lr=0.2, dropout=0.1),
            retrain=Phase(14, 2e-3, "adamw", weight_decay=0.2, ema=0.999),
            steps_per_update=24,
        )
    # What comes after the dense phase was looked for with ResNet-20 at 90 % removed (docs/recipes.md), the number of
    # updates at 95 % (docs/trials.md).
    return Recipe(
        dense=Phase(20, 0.01, weight_decay=5e-4) if pretrained else Phase(60, 0.1, weight_decay=5e-4),
        admm=Phase(20, 0.05, distill=1.0),
        retrain=Phase(20, 0.05, weight_decay=5e-4, distill=1.0),
        steps_per_update=24,
        gradual=True,
        importance="taylor",
    )
