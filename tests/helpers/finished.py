"""The metrics of runs that never were."""

import json


def finished_run(folder, method="admm", ratio=0.9, seed=0, rows=(0.9, 0.5, 0.6, 0.8), network="net", command="prune"):
    """Writes the folder's metrics.json; `rows` are the accuracies of its stages."""
    names = ("dense", "cut", "cut + batch norm re-estimated", "retrained") if len(rows) == 4 else ("dense", "longer")
    kept = 1000 if ratio is None else round(1000 * (1 - ratio))
    folder.mkdir(parents=True)
    stages = [{"name": name, "metrics": {"top-1": top}, "kept": kept, "total": 1000} for name, top in zip(names, rows)]
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
        "recipe": {"dense": {"epochs": 5}, "admm": {"epochs": 3}, "retrain": {"epochs": 2}},
        "stages": stages,
        "layers": [{"layer": "a", "kept": kept, "total": 1000}],
        "seconds": 1.5,
        "precision": "float32",
        "date": "2000-01-01",
        "command": command,
        "machine": {"cores": 2},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder
