"""One network for each number of convolutions, of which the first is LeNet-5."""

from types import SimpleNamespace

import deeper_lenet
import pytest
import torch

from detect_prune.classification import ARCHITECTURES
from detect_prune.pruning import prunable_weights


def test_a_run_for_each_number_of_convolutions(tmp_path, monkeypatch):
    monkeypatch.setattr(deeper_lenet, "ARCHITECTURES", dict(ARCHITECTURES))
    networks = []

    def task(name, **options):
        return SimpleNamespace(model=deeper_lenet.ARCHITECTURES[name].build(10))

    monkeypatch.setattr(deeper_lenet, "classification_task", task)
    monkeypatch.setattr(deeper_lenet, "prune", lambda model, **options: networks.append((model, options["folder"])))
    monkeypatch.setattr("sys.argv", ["deeper_lenet.py", "--most", "2", "--project", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        deeper_lenet.main()
    assert ended.value.code == 0
    assert [folder.name for _, folder in networks] == [f"lenet5+{extra}-0.99-s0" for extra in range(3)]
    assert [len(prunable_weights(model)) for model, _ in networks] == [4, 5, 6]
    assert sum(weight.numel() for weight in prunable_weights(networks[0][0]).values()) == 430_500
    assert all(model(torch.zeros(1, 1, 28, 28)).shape == (1, 10) for model, _ in networks)
