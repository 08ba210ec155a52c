"""The metrics of runs that never were."""

import json


def phase(epochs, decay=0.0):
    return {"epochs": epochs, "optimizer": "sgd", "lr": 0.01, "weight_decay": decay}


def finished_run(
    folder,
    method="admm",
    ratio=0.9,
    seed=0,
    rows=(0.9, 0.5, 0.6, 0.8),
    network="net",
    command="prune",
    kept=None,
    admm_epochs=3,
    precision="float32",
):
    """Writes the folder's metrics.json; `rows` are the accuracies of its stages."""
    names = ("dense", "cut", "cut + batch norm re-estimated", "retrained") if len(rows) == 4 else ("dense", "longer")
    if kept is None:
        kept = 1000 if ratio is None else round(1000 * (1 - ratio))
    folder.mkdir(parents=True)
    shown = {"primary": "top-1", "headline": ["top-1"], "kept": kept, "total": 1000}
    sizes = {"macs_dense": 4000, "macs_nonzero": 3 * kept, "bytes_zip": 800}
    stages = [{"name": name, "metrics": {"top-1": top}} | shown | sizes for name, top in zip(names, rows)]
    metrics = {
        "settings": {
            "data": {"network": network, "data": "set"},
            "method": method,
            "ratio": ratio,
            "importance": "lamp",
            "budget": "ratio",
            "pattern": None,
            "gradual": False,
            "floor": 0.05,
            "include": [],
            "exclude": ["a.*", "b"],
            "seed": seed,
        },
        "recipe": {"dense": phase(5), "admm": phase(admm_epochs), "retrain": phase(2, 0.1), "updates": 40},
        "stages": stages,
        "before the cut": {"primal": {"a": 0.03, "b": 0.02}, "overall": [0.025, 0.01]} if method == "admm" else None,
        "training loss": {"dense": 0.4, **({method: 0.3} if method in ("admm", "gradual") else {}), "retrain": 0.2},
        "layers": [{"layer": "a", "kept": kept, "total": 1000}],
        "seconds": 1.5,
        "precision": precision,
        "date": "2000-01-01",
        "command": command,
        "machine": {"cores": 2},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder
