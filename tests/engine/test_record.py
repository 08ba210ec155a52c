"""Flat records of finished runs."""

import json

import pytest
from finished import finished_run

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


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 1}'])
def test_other_files_are_refused_by_name(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(DetectPruneError, match=r"metrics\.json"):
        record_of(tmp_path)
    with pytest.raises(DetectPruneError, match="no such file"):
        record_of(tmp_path / "nowhere")
