"""The classification task: which pictures the statistics come from, and checkpoints as weights."""

import pytest
import torch

from detect_prune.datasets.classification import ClassificationData, LabelledPictures
from detect_prune.engine.checkpoint import save_checkpoint
from detect_prune.errors import DetectPruneError
from detect_prune.tasks import build
from detect_prune.tasks.build import classification_task
from detect_prune.tasks.classification import STATISTICS_BATCHES, ClassificationTask, build_network
from detect_prune.tasks.recipes import classification_recipe


@pytest.fixture
def data():
    """Ten classes in the order of class folders; every pixel of a picture is its label."""
    labels = torch.arange(10).repeat_interleave(40)
    split = LabelledPictures(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous(), labels)
    return ClassificationData("sorted", tuple("0123456789"), split, split)


def task_of(data, seed=0):
    model = build_network("lenet5", data)
    return ClassificationTask(model, data, classification_recipe("lenet5"), name="lenet5", batch=4, seed=seed)


def test_statistics_come_from_all_classes(data):
    batches = list(task_of(data).inputs())
    assert [len(batch) for batch in batches] == [4] * STATISTICS_BATCHES
    seen = torch.cat(batches)[:, 0, 0, 0]
    assert len(seen.unique()) == 10
    assert torch.equal(seen, torch.cat(list(task_of(data).inputs()))[:, 0, 0, 0])
    assert not torch.equal(seen, torch.cat(list(task_of(data, seed=1).inputs()))[:, 0, 0, 0])


def test_a_checkpoint_of_a_run_can_be_used_as_weights(data, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "load_classification", lambda *_: data)
    model = build_network("lenet5", data)
    save_checkpoint(tmp_path / "best.pt", {"model": model.state_dict(), "metrics": {"top-1": 0.5}, "global_step": 3})
    task = classification_task("lenet5", tmp_path / "best.pt", device="cpu")
    assert all(torch.equal(value, task.model.state_dict()[name]) for name, value in model.state_dict().items())
    save_checkpoint(tmp_path / "other.pt", {"model": torch.nn.Linear(2, 2).state_dict()})
    with pytest.raises(DetectPruneError, match=r"other\.pt: these weights belong to another network"):
        classification_task("lenet5", tmp_path / "other.pt", device="cpu")
