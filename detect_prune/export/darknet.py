"""A network as the pair of files that Darknet, OpenCV and this package read."""

from pathlib import Path

from detect_prune.darknet import Darknet, WeightsHeader, save_cfg, write_weights


def save_network(network: Darknet, folder: str | Path, stem: str, header: WeightsHeader | None = None) -> list[Path]:
    """Writes `folder/stem.cfg` and `folder/stem.weights`, each atomically, and returns the two paths.

    Args:
        network: its weights, zeros in place, and its `cfg`, heads adapted.
        header: version and count of pictures seen, as read with the first weights; without it the writer's own.
    """
    folder = Path(folder)
    cfg_path, weights_path = folder / f"{stem}.cfg", folder / f"{stem}.weights"
    # The cfg first: a kill in between leaves a definition without weights, not weights that nothing explains.
    save_cfg(network.cfg, cfg_path)
    write_weights(network, weights_path, header)
    return [cfg_path, weights_path]
