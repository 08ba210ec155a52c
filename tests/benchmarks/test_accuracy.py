"""From the folder of a sweep to the records and the table."""

import json

import accuracy
import pytest
from finished import finished_run

from detect_prune.engine.curve import write_curve
from detect_prune.engine.record import record_of
from detect_prune.errors import DetectPruneError


def write_plan(folder, command, argv=(), **options):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps({"command": command, "argv": list(argv), "options": options}))


@pytest.fixture
def unfinished(tmp_path):
    """A sweep of which three runs have finished, with a training that no point of the curve is made of."""
    folder = tmp_path / "sweep"
    argv = ["--model", "lenet5", "--ratios", "0.8,0.9", "--data-root", str(tmp_path)]
    write_plan(folder, "sweep", argv, cfg=None, model="lenet5")
    for name, ratio in (("admm-0.8-s0", 0.8), ("admm-0.9-s0", 0.9)):
        finished_run(folder / name, ratio=ratio, command=f"detect-prune prune --weights {folder}/trained.pt")
    finished_run(folder / "dense-longer-s0", "dense-longer", None, rows=(0.9, 0.91))
    for run in folder.glob("*-s0"):
        write_plan(run, "prune")
    write_plan(folder / "dense-s0", "train")
    (folder / "dense-s0" / "metrics.json").write_text("{}")
    write_plan(folder / "admm-0.95-s0", "prune")
    return folder


def test_an_unfinished_sweep_gives_flat_records_without_folders(unfinished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recording.RESULTS", tmp_path)
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks/accuracy.py", str(unfinished), "--name", "x"])
    with pytest.raises(SystemExit) as stop:
        accuracy.main()
    assert stop.value.code == 0 and "admm" in capsys.readouterr().out
    text = (tmp_path / "x.json").read_text()
    records = json.loads(text)
    assert str(tmp_path) not in text and records[0]["command"] == "detect-prune prune --weights trained.pt"
    assert [record["network"] for record in records] == ["lenet5"] * 3
    assert records[0]["dense_longer_accuracy"] == 0.91
    assert not any(isinstance(value, dict | list) for record in records for value in record.values())
    page = (tmp_path / "x.md").read_text()
    assert "    detect-prune sweep --model lenet5 --ratios 0.8,0.9 --data-root DIR\n" in page
    assert "    python benchmarks/accuracy.py sweep --name x\n" in page and str(tmp_path) not in page
    assert (tmp_path / "x.png").exists() and (tmp_path / "x.svg").exists()


def test_a_finished_sweep_is_read_from_its_records_whatever_has_become_of_the_runs(unfinished, tmp_path):
    folder = tmp_path / "finished"
    write_curve([record_of(unfinished / "admm-0.8-s0")], folder)
    (record,) = accuracy.collect([folder])
    assert record["ratio"] == 0.8 and "layers" not in record


def test_several_folders_share_what_was_trained_for_longer(unfinished, tmp_path):
    other = finished_run(tmp_path / "other", "magnitude", 0.9, network="lenet5")
    records = accuracy.collect([unfinished, other])
    assert [record["dense_longer_accuracy"] for record in records] == [0.91] * 4 and not accuracy.doubts(records)


def test_a_table_has_one_budget_and_what_removes_nothing_has_none(tmp_path):
    longer, macs, weights = (finished_run(tmp_path / name, name) for name in ("dense-longer", "admm", "gradual"))
    file = macs / "metrics.json"
    file.write_text(file.read_text().replace('"budget": "ratio"', '"budget": "macs"'))
    assert [record["budget"] for record in accuracy.collect([longer, macs])] == [None, "macs"]
    with pytest.raises(DetectPruneError, match="one budget, and these runs have macs and ratio"):
        accuracy.collect([longer, macs, weights])


def test_what_is_no_fair_comparison_is_said(tmp_path):
    runs = [finished_run(tmp_path / f"{dense}", rows=(dense, 0.5, 0.6, 0.8)) for dense in (0.9, 0.92)]
    first, second = accuracy.doubts(accuracy.collect(runs))
    assert "same dense network (seed 0)" in first and "For 2 of 2 runs" in second
    runs = [finished_run(tmp_path / "a", "dense-longer", None), finished_run(tmp_path / "b", precision="bf16")]
    assert accuracy.doubts(accuracy.collect(runs)) == ["Not all runs have the same precision: float32; bf16."]
    recipe, alone = accuracy.doubts(accuracy.collect([runs[0], finished_run(tmp_path / "c", admm_epochs=4)]))
    assert "4 epochs of sgd" in recipe and "For 1 of 1 runs" in alone
    file = finished_run(tmp_path / "d", "gradual") / "metrics.json"
    file.write_text(file.read_text().replace('"updates": 40', '"updates": 325'))
    said = accuracy.doubts(accuracy.collect([runs[0], finished_run(tmp_path / "e"), file.parent]))
    assert said == ["Not all runs have the same number of updates: 40; 325."]


def test_runs_that_belong_into_no_common_table(unfinished, tmp_path):
    other = finished_run(tmp_path / "other", network="resnet20")
    with pytest.raises(DetectPruneError, match="lenet5 and resnet20"):
        accuracy.collect([unfinished, other])
    write_plan(tmp_path / "begun", "sweep", cfg="a/tiny.cfg", model=None)
    with pytest.raises(DetectPruneError, match="no run"):
        accuracy.collect([tmp_path / "begun"])
