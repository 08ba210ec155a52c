"""The files that a curve of finished runs makes."""

import csv
import json

import pytest
from finished import finished_run

from detect_prune.engine.comparison import beside_longer, compare
from detect_prune.engine.curve import write_curve
from detect_prune.engine.record import record_of
from detect_prune.errors import DetectPruneError


def test_of_a_detector_s_scores_the_primary_one_is_compared(tmp_path):
    folders = []
    for method, rows in (("admm", (0.9, 0.5, 0.6, 0.8)), ("dense-longer", (0.9, 0.95))):
        folders.append(finished_run(tmp_path / method, method, 0.9 if method == "admm" else None, rows=rows))
        file = folders[-1] / "metrics.json"
        metrics = json.loads(file.read_text())
        for stage in metrics["stages"]:
            value = stage["metrics"].pop("top-1")
            stage["metrics"] = {"AP50": value, "AP": value / 2, "mAP": value / 3, "AR": 0.1}
            stage |= {"primary": "AP50", "headline": ["AP", "AP50", "mAP"]}
            if method == "dense-longer":  # as it was once
                del stage["headline"]
        file.write_text(json.dumps(metrics))
    records = beside_longer([record_of(folder) for folder in folders])
    assert [name for name in records[0] if f"dense_{name}" in records[0]] == ["AP", "mAP", "AP50"]
    table = compare(records)
    assert table.columns[3:7] == ["MACs", "AP", "mAP", "AP50"]
    (pruned,) = (row for row in table.rows if row[0] == "admm")
    cells = dict(zip(table.columns, pruned))
    shown = [cells[name] for name in ("AP50", "AP", "AP50 loss", "AP50 as cut")]
    assert shown == ["0.800", "0.400", "15.00", "0.500"]


def test_a_share_of_bytes_is_called_so(tmp_path):
    file = finished_run(tmp_path / "a") / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["settings"] |= {"budget": "bytes", "bits": {"conv*": 4.5, "fc*": 8.0}}
    file.write_text(json.dumps(metrics))
    record = record_of(file.parent)
    assert record["bits"] == "conv*=4.5 fc*=8"
    longer = record_of(finished_run(tmp_path / "longer", "dense-longer"))
    assert longer["budget"] is None
    write_curve([longer, record], tmp_path)
    assert "bytes removed" in (tmp_path / "accuracy.svg").read_text()


def test_the_table_has_medians_and_spread_and_the_csv_every_run(tmp_path):
    records = [
        record_of(finished_run(tmp_path / f"{seed}", seed=seed, rows=(0.9, 0.5, 0.6, last)))
        for seed, last in enumerate((0.80, 0.90, 0.81))
    ]
    records.append(record_of(finished_run(tmp_path / "longer", "dense-longer", None, 1, rows=(0.9, 0.95))))
    lines = write_curve(records, tmp_path).markdown().splitlines()
    admm = next(line for line in lines if line.startswith("| admm"))
    assert "81.00 %" in admm and "80.00 % .. 90.00 %" in admm and "| 300 |" in " ".join(admm.split())
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["accuracy"] for row in rows] == ["0.8", "0.9", "0.81", "0.95"]
    # Only for the seed that was trained for longer is there such a figure.
    assert [row["dense_longer_accuracy"] for row in rows] == ["", "0.95", "", "0.95"]
    assert json.loads((tmp_path / "sweep.json").read_text())[1]["layers"] == {"a": [100, 1000]}
    for name in ("accuracy", "kept_per_layer"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert b"<svg" in (tmp_path / f"{name}.svg").read_bytes()[:2000]


def test_what_layers_keep_is_shown_of_admm_where_there_is_such_a_run(tmp_path):
    methods = ("gradual", "admm", "lamp")
    write_curve([record_of(finished_run(tmp_path / method, method)) for method in methods], tmp_path)
    assert "net on set: admm, seed 0" in (tmp_path / "kept_per_layer.svg").read_text()


def test_a_curve_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="no records"):
        write_curve([], tmp_path)


def test_a_sweep_is_finished_when_its_curve_is_drawn(tmp_path, monkeypatch):
    records = [record_of(finished_run(tmp_path / "a"))]
    write_curve(records, tmp_path)

    def full(*_):
        raise DetectPruneError("no space left")

    monkeypatch.setattr("detect_prune.engine.curve.plots.kept_over_ratio", full)
    with pytest.raises(DetectPruneError):
        write_curve(records, tmp_path)
    assert not (tmp_path / "sweep.json").exists()
