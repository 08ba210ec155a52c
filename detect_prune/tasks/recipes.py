"""How long and how fast each kind of network is trained unless the caller says otherwise."""

from detect_prune.engine.task import Phase, Recipe


def detection_recipe(*, sample: bool, large: bool, batch: int) -> Recipe:
    """The recipe for a detector.

    Args:
        sample: the built-in set, on which a run has to end within minutes.
        large: tens of millions of weights.
        batch: pictures a step; Darknet's learning rates are meant for 64.
    """
    if sample:
        epochs = (2, 1, 1) if large else (16, 5, 4)
        return Recipe(
            dense=Phase(epochs[0], 2e-3, "adamw", weight_decay=0.01, ema=0.99, clip=10.0),
            admm=Phase(epochs[1], 1e-3, "adamw", clip=10.0, final_lr=0.3),
            retrain=Phase(epochs[2], 1e-3, "adamw", ema=0.99, clip=10.0),
            updates=36,
        )
    lr = 0.0026 * min(1.0, (batch / 64) ** 0.5)
    return Recipe(
        dense=Phase(100, 4 * lr, momentum=0.937, weight_decay=5e-4, ema=0.9998, clip=10.0),
        admm=Phase(10, lr, clip=10.0, final_lr=0.2),
        retrain=Phase(10, lr, weight_decay=5e-4, ema=0.999, clip=10.0),
        updates=40,
    )


def classification_recipe(model: str, pretrained: bool = False) -> Recipe:
    """The recipe for LeNet-5 on MNIST or a ResNet on CIFAR-10; weights that are trained already want a smaller rate."""
    if model == "lenet5":
        # Tried on MNIST at 98.8 % removed, batch 256; the accuracy is in README.
        return Recipe(
            dense=Phase(8, 0.05, weight_decay=5e-4, final_lr=0.0),
            admm=Phase(12, 1e-3, "adamw", final_lr=0.3),
            retrain=Phase(10, 2e-3, "adamw", final_lr=0.0),
            updates=36,
        )
    return Recipe(
        dense=Phase(20, 0.01, weight_decay=5e-4) if pretrained else Phase(60, 0.1, weight_decay=5e-4),
        admm=Phase(20, 0.01),
        retrain=Phase(20, 0.01, weight_decay=5e-4),
    )
