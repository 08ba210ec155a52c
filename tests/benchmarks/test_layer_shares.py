"""Which part of a network keeps its weights."""

import layer_shares
import pytest
from finished import finished_run

from detect_prune.errors import DetectPruneError


def test_thirds_are_of_layers_and_count_weights():
    layers = [(10, 10), (0, 90), (3, 10), (3, 10), (1, 100), (1, 100), (7, 10)]
    assert layer_shares.thirds(layers) == pytest.approx([0.1, 0.3, 0.01, 0.7])
    assert layer_shares.thirds([(1, 10), (2, 10), (3, 10), (4, 10)]) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_seeds_of_a_network_are_averaged():
    records = [{"network": name, "layers": {"a": [kept, 10]}} for name, kept in (("x", 1), ("y", 5), ("x", 2))]
    assert layer_shares.by_network(records) == {"x": [(1.5, 10)], "y": [(5.0, 10)]}


def test_only_runs_of_the_method_and_the_ratio_are_drawn(tmp_path):
    runs = [finished_run(tmp_path / f"{ratio}", ratio=ratio) for ratio in (0.8, 0.9)]
    runs.append(finished_run(tmp_path / "gradual", "gradual"))
    (record,) = layer_shares.select(runs, "admm", 0.9)
    assert (record["method"], record["ratio"]) == ("admm", 0.9)
    with pytest.raises(DetectPruneError, match="lamp at"):
        layer_shares.select(runs, "lamp", 0.9)


def test_trained_weights_are_cut_at_once(real_data):
    file = next((real_data / "resnet-cifar").glob("resnet20-*.th"))
    record = layer_shares.one_shot(file, "lamp", 0.9)
    kept, total = (sum(counts) for counts in zip(*record["layers"].values()))
    assert (record["network"], total, kept) == ("resnet20", 268_336, 268_336 - 268_336 * 9 // 10)
