"""Records of finished runs, and the files that a curve of them makes."""

import csv
import json

import pytest
from finished import finished_run

from detect_prune.engine.comparison import BEST_ROW, TIE, beside_longer, compare
from detect_prune.engine.curve import write_curve
from detect_prune.engine.record import record_of
from detect_prune.errors import DetectPruneError


def test_a_record_has_what_was_asked_and_what_came_out(tmp_path):
    record = record_of(finished_run(tmp_path / "a"))
    wanted = {"method": "admm", "ratio": 0.9, "seed": 0, "n_kept": 100, "n_total": 1000, "epochs": 5}
    wanted |= {"accuracy": 0.8, "dense_accuracy": 0.9, "cut_accuracy": 0.5, "exclude": "a.* b"}
    wanted |= {"primal_residual": 0.025, "worst_primal_residual": 0.03, "layers": {"a": [100, 1000]}}
    wanted |= {"recipe": "3 epochs of sgd at 0.01, decay 0 then 2 epochs of sgd at 0.01, decay 0.1, batch None"}
    wanted |= {"updates": 40, "macs_nonzero": 300, "macs_dense": 4000, "bytes_zip": 800}
    wanted |= {"cut_training_loss": 0.3, "training_loss": 0.2}
    assert wanted.items() <= record.items()


@pytest.mark.parametrize(
    ("method", "phases"),
    [
        ("admm", "3 epochs of sgd at 0.01, decay 0 then 2 epochs of sgd at 0.01, decay 0.1"),
        ("gradual", "3 epochs of sgd at 0.01, decay 0.1 then 2 epochs of sgd at 0.01, decay 0.1"),
        ("lamp", "5 epochs of sgd at 0.01, decay 0.1"),
        ("dense-longer", "5 epochs of sgd at 0.01, decay 0.1"),
        ("dense", "none"),
    ],
)
def test_a_record_says_what_its_method_made_of_the_recipe(tmp_path, method, phases):
    assert record_of(finished_run(tmp_path / "a", method))["phases"] == phases


def test_a_record_names_dropout_and_distillation_where_the_recipe_has_them(tmp_path):
    file = finished_run(tmp_path / "a") / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["recipe"]["admm"] |= {"dropout": 0.2, "distill": 0.5}
    file.write_text(json.dumps(metrics))
    said = "decay 0, dropout 0.2, distilled 0.5 then 2 epochs of sgd at 0.01, decay 0.1, batch"
    assert said in record_of(file.parent)["recipe"]


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


@pytest.mark.parametrize(
    ("method", "asked", "kept", "ratio"),
    [
        ("admm", None, 500, 0.5),
        ("admm-layerwise", {"a": 0.25}, 750, 0.25),
        ("admm", None, 1000, None),
        ("admm", 0.5, 501, 0.5),
        ("dense-longer", None, 1000, None),
        ("dense", None, 200, None),  # of a network that was pruned before
    ],
)
def test_a_ratio_is_one_number_however_it_was_asked_for(tmp_path, method, asked, kept, ratio):
    """A pattern N:M and a ratio for each layer remove what they come to."""
    assert record_of(finished_run(tmp_path / "a", method, ratio=asked, kept=kept))["ratio"] == ratio


def test_the_dense_network_of_the_same_epochs_counts_for_any_number_of_updates(tmp_path):
    longer, pruned = (
        finished_run(tmp_path / method, method, ratio=ratio, rows=rows)
        for method, ratio, rows in (("dense-longer", None, (0.8, 0.9)), ("admm", 0.9, (0.8, 0.5, 0.6, 0.85)))
    )
    file = longer / "metrics.json"
    file.write_text(file.read_text().replace('"updates": 40', '"updates": 325'))
    records = beside_longer([record_of(longer), record_of(pruned)])
    assert cells(records)["admm"]["loss"] == "5.00"


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


def record(method="admm", seed=0, accuracy=0.9, ratio=0.9, **more):
    settings = {"importance": "lamp", "pattern": None, "gradual": False, "floor": 0.05, "recipe": "5 epochs"}
    settings |= {"updates": 40} | dict.fromkeys(("bits", "include", "exclude"), "")
    facts = {"method": method, "seed": seed, "ratio": ratio, "epochs": 5, "n_kept": 100, "n_total": 1000}
    facts |= {"macs_nonzero": 300, "macs_dense": 4000}
    return settings | facts | {"accuracy": accuracy, "dense_accuracy": 0.95} | more


def cells(records):
    """method -> column -> cell, of a table whose methods all have one row."""
    table = compare(records)
    return {row[0]: dict(zip(table.columns, row)) for row in table.rows}


@pytest.mark.parametrize(
    ("admm", "gradual", "marks"),
    [
        ((0.90, 0.91, 0.92), (0.87, 0.88, 0.885), (BEST_ROW, "")),
        ((0.90, 0.91, 0.92), (0.87, 0.89, 0.92), (TIE, TIE)),
        ((0.90, 0.92), (0.89, 0.89), (TIE, TIE)),  # as far apart as the seeds are, but for rounding
        ((0.90, 0.90), (0.90, 0.90), (TIE, TIE)),
        ((0.91, 0.90), (0.99,), ("", "")),  # of one seed nobody knows the spread
    ],
)
def test_a_difference_inside_the_spread_is_a_tie(admm, gradual, marks):
    records = [record("admm", seed, value) for seed, value in enumerate(admm)]
    records += [record("gradual", seed, value) for seed, value in enumerate(gradual)]
    found = cells(records)
    assert (found["admm"]["of its ratio"], found["gradual"]["of its ratio"]) == marks
    assert found["dense"]["of its ratio"] == ""


def test_nothing_is_the_best_among_runs_of_different_recipes():
    runs = [record("admm", seed, 0.92, recipe="30 epochs") for seed in range(3)]
    runs += [record("gradual", seed, 0.90) for seed in range(3)]
    assert {row["of its ratio"] for row in cells(runs).values()} == {""}


def test_what_seeds_keep_is_their_median():
    runs = [record(seed=seed, n_kept=kept) for seed, kept in enumerate((100, 520, 500))]
    assert cells(runs)["admm"]["kept"] == "500"


def test_nothing_is_the_best_among_runs_that_began_with_different_dense_networks():
    # The second is the same network, scored on another device.
    for other, mark in ((0.95, "**best**"), (0.95 + 1e-9, "**best**"), (0.94, "")):
        runs = [record("admm", seed, 0.92) | {"dense_accuracy": 0.95} for seed in range(3)]
        runs += [record("gradual", seed, 0.90) | {"dense_accuracy": other} for seed in range(3)]
        assert {row[0]: row[-1] for row in compare(runs).rows}["admm"] == mark


def test_runs_of_one_method_and_different_recipes_are_two_rows():
    runs = [record(seed=0), record(seed=0, accuracy=0.8, recipe="30 epochs")]
    table = compare(runs)
    assert [row[table.columns.index("recipe")] for row in table.rows if row[0] == "admm"] == ["30 epochs", "5 epochs"]


def test_the_best_is_sought_among_those_of_one_ratio():
    records = [record("admm", seed, 0.9, ratio=0.8) for seed in (0, 1)] + [record("lamp", seed, 0.5) for seed in (0, 1)]
    assert {row["of its ratio"] for row in cells(records).values()} == {""}


def test_the_loss_is_against_the_better_dense_network_of_the_same_seed():
    records = [
        record("dense-longer", 0, 0.97, None),
        record("dense-longer", 1, 0.94, None),
        record("dense-longer", 2, 0.99, None, epochs=50, recipe="50 epochs"),  # not for as long as seed 2
        *(record(seed=seed, accuracy=0.90 + seed / 1000) for seed in range(3)),
    ]
    assert cells(beside_longer(records))["admm"]["loss"] == "4.90"  # of 7.00 (longer), 4.90 and 4.80 (dense)


def test_methods_stand_in_their_order_and_the_dense_networks_first():
    names = ["magnitude", "lamp", "gradual", "admm-layerwise", "admm", "dense-longer"]
    table = compare([record(name, ratio=None if name == "dense-longer" else 0.9967) for name in names])
    assert [row[0] for row in table.rows] == ["dense", *reversed(names)]
    assert table.rows[0][1:5] == ["-", "1,000", "4.000 k", "95.00 %"]
    assert {row[1] for row in table.rows[2:]} == {"99.67 %"}, "as it was asked for"
    measured = record("dense", accuracy=0.5, ratio=None)
    assert cells([record(), measured])["dense"]["accuracy"] == "50.00 %", "a run of its own is not made up"


def test_settings_that_differ_within_a_method_are_columns():
    records = [
        record(importance=name, accuracy=value) for name, value in (("lamp", 0.9), ("raw", 0.8), ("fisher", 0.7))
    ]
    records += [record("magnitude", importance="raw", epochs=5), record(importance="lamp", accuracy=0.92, seed=1)]
    table = compare(records)
    assert table.columns[:3] == ["method", "importance", "removed"]
    rows = [(row[0], row[1], row[5]) for row in table.rows]
    assert rows == [
        ("dense", "-", "95.00 %"),
        ("admm", "fisher", "70.00 %"),
        ("admm", "lamp", "91.00 %"),
        ("admm", "raw", "80.00 %"),
        ("magnitude", "raw", "90.00 %"),
    ]
    assert "importance" not in compare([record(), record("magnitude", importance="raw")]).columns


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
