"""Records of finished runs, and the files that a curve of them makes."""

import csv
import json

import pytest

from detect_prune.engine.curve import record_of, write_curve
from detect_prune.errors import DetectPruneError


def finished_run(folder, method="admm", ratio=0.9, seed=0, rows=(0.9, 0.5, 0.6, 0.8)):
    names = ("dense", "cut", "cut + batch norm re-estimated", "retrained") if len(rows) == 4 else ("dense", "longer")
    kept = 1000 if ratio is None else round(1000 * (1 - ratio))
    folder.mkdir(parents=True)
    stages = [{"name": name, "metrics": {"top-1": top}, "kept": kept, "total": 1000} for name, top in zip(names, rows)]
    metrics = {
        "settings": {
            "data": {"network": "net", "data": "set"},
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
        "command": "prune",
        "machine": {"cores": 2},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_a_record_has_what_was_asked_and_what_came_out(tmp_path):
    record = record_of(finished_run(tmp_path / "a"))
    wanted = {"method": "admm", "ratio": 0.9, "seed": 0, "n_kept": 100, "n_total": 1000, "epochs": 5}
    wanted |= {"accuracy": 0.8, "dense_accuracy": 0.9, "cut_accuracy": 0.5, "layers": {"a": 0.1}, "exclude": "a.* b"}
    assert wanted.items() <= record.items()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 1}'])
def test_other_files_are_refused_by_name(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(DetectPruneError, match=r"metrics\.json"):
        record_of(tmp_path)
    with pytest.raises(DetectPruneError, match="no such file"):
        record_of(tmp_path / "nowhere")


def test_the_table_has_medians_and_spread_and_the_csv_every_run(tmp_path):
    records = [
        record_of(finished_run(tmp_path / f"{seed}", seed=seed, rows=(0.9, 0.5, 0.6, last)))
        for seed, last in enumerate((0.80, 0.90, 0.81))
    ]
    records.append(record_of(finished_run(tmp_path / "longer", "dense-longer", None, 1, rows=(0.9, 0.95))))
    lines = write_curve(records, tmp_path).markdown().splitlines()
    admm = next(line for line in lines if line.startswith("| admm"))
    assert "81.00 %" in admm and "10.00 %" in admm and "90.00 %" in admm  # median, spread, dense
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["accuracy"] for row in rows] == ["0.8", "0.9", "0.81", "0.95"]
    # Only for the seed that was trained for longer is there such a figure.
    assert [row["dense_longer_accuracy"] for row in rows] == ["", "0.95", "", "0.95"]
    assert json.loads((tmp_path / "sweep.json").read_text())[1]["layers"] == {"a": 0.1}
    for name in ("accuracy", "kept_per_layer"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert b"<svg" in (tmp_path / f"{name}.svg").read_bytes()[:2000]


def test_a_curve_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="no records"):
        write_curve([], tmp_path)
