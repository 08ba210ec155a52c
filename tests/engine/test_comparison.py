"""What a table of finished runs says of them."""

import pytest
from finished import finished_run

from detect_prune.engine.comparison import BEST_ROW, TIE, beside_longer, compare
from detect_prune.engine.record import record_of


def test_the_dense_network_of_the_same_epochs_counts_for_any_number_of_updates(tmp_path):
    longer, pruned = (
        finished_run(tmp_path / method, method, ratio=ratio, rows=rows)
        for method, ratio, rows in (("dense-longer", None, (0.8, 0.9)), ("admm", 0.9, (0.8, 0.5, 0.6, 0.85)))
    )
    file = longer / "metrics.json"
    file.write_text(file.read_text().replace('"updates": 40', '"updates": 325'))
    records = beside_longer([record_of(longer), record_of(pruned)])
    assert cells(records)["admm"]["loss"] == "5.00"


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
