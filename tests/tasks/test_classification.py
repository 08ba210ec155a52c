"""The classification task: which pictures the statistics come from, and checkpoints as weights."""

import copy

import cv2
import numpy as np
import pytest
import torch

from detect_prune import tasks
from detect_prune.datasets.classification import ClassificationData, LabelledPictures
from detect_prune.engine.checkpoint import save_checkpoint
from detect_prune.engine.distributed import World
from detect_prune.engine.task import Teacher
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


def test_statistics_come_from_pictures_as_in_training():
    white = LabelledPictures(torch.full((40, 3, 32, 32), 255, dtype=torch.uint8), torch.arange(40) % 10)
    data = ClassificationData("white", tuple("0123456789"), white, white)
    model = build_network("resnet20", data)
    task = ClassificationTask(model, data, classification_recipe("resnet20"), name="resnet20", batch=4)
    pictures = torch.cat(list(task.inputs()))
    moved = (pictures != pictures.amax((0, 2, 3), keepdim=True)).any(dim=(1, 2, 3))
    assert moved.float().mean() > 0.5, "a shift brings in the border"


def test_a_checkpoint_of_a_run_can_be_used_as_weights(data, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "load_classification", lambda *_: data)
    model = build_network("lenet5", data)
    save_checkpoint(tmp_path / "best.pt", {"model": model.state_dict(), "metrics": {"top-1": 0.5}, "global_step": 3})
    task = classification_task("lenet5", tmp_path / "best.pt", device="cpu")
    assert all(torch.equal(value, task.model.state_dict()[name]) for name, value in model.state_dict().items())
    save_checkpoint(tmp_path / "other.pt", {"model": torch.nn.Linear(2, 2).state_dict()})
    with pytest.raises(DetectPruneError, match=r"other\.pt: these weights belong to another network"):
        classification_task("lenet5", tmp_path / "other.pt", device="cpu")


def test_settings_tell_other_pictures_apart(data):
    def digest(change=lambda images, labels: None):
        other = copy.deepcopy(data)
        change(other.train.images, other.test.labels)
        return task_of(other).settings()["data digest"]

    assert digest() == digest()
    assert len({digest(), digest(lambda x, _: x[3].add_(1)), digest(lambda _, y: y[3].add_(1))}) == 3


def test_pictures_that_are_held_out_are_scored_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "load_classification", lambda *_: data)
    task = classification_task("lenet5", hold_out=7, device="cpu")
    assert len(task.data.train) == len(data.train) - 7 and len(task.data.test) == 7
    assert task.settings()["test pictures"] == 7 and task.settings()["data"].endswith("(7 held out)")
    assert task.notes == []
    model = build_network("lenet5", data)
    save_checkpoint(tmp_path / "best.pt", {"model": model.state_dict(), "metrics": {}, "global_step": 3})
    (note,) = classification_task("lenet5", tmp_path / "best.pt", hold_out=7, device="cpu").notes
    assert "have seen the pictures" in note


def test_a_teacher_adds_its_distance_times_its_weight(data):
    task = task_of(data)
    batch = next(task.batches(0, 0))
    task.model.eval()
    alone, parts = task.loss(task.model, batch)
    assert parts == {}
    copy, _ = task.loss(task.model, batch, Teacher(task.model, 2.0))
    torch.testing.assert_close(copy, alone)
    stranger = build_network("lenet5", data).eval()
    once, parts = task.loss(task.model, batch, Teacher(stranger, 1.0))
    twice, _ = task.loss(task.model, batch, Teacher(stranger, 2.0))
    assert parts["labels"].item() == alone.item() and parts["distillation"].item() > 1e-4
    torch.testing.assert_close(twice - once, once - alone)
    twice.backward()
    assert all(parameter.grad is None for parameter in stranger.parameters())


def test_only_the_residual_networks_learn_from_their_dense_network():
    for network, weight in (("resnet56", 1.0), ("lenet5", 0.0)):
        recipe = classification_recipe(network)
        assert (recipe.admm.distill, recipe.retrain.distill) == (weight, weight)


def test_of_the_classifiers_only_the_residual_networks_recipe_says_how_admm_prunes():
    residual, lenet = classification_recipe("resnet56"), classification_recipe("lenet5")
    assert (residual.gradual, residual.importance) == (True, "taylor")
    assert (lenet.gradual, lenet.importance) == (False, None)
    assert residual.steps_per_update == lenet.steps_per_update == 24


@pytest.mark.parametrize("channels, network", [(1, "lenet5"), (3, "resnet20")])
def test_processes_share_each_batch_without_changing_it(channels, network):
    """Of 61 pictures in batches of 10, the last has one, which is one process's; colour pictures are augmented."""
    side = 28 if channels == 1 else 32
    images = torch.randint(256, (61, channels, side, side), generator=torch.Generator().manual_seed(0))
    split = LabelledPictures(images.to(torch.uint8), torch.arange(61) % 10)
    data = ClassificationData("noise", tuple("0123456789"), split, split)

    def batches(world):
        model, recipe = build_network(network, data), classification_recipe(network)
        task = ClassificationTask(model, data, recipe, name=network, batch=10, world=world)
        return task, list(task.batches(2, 1))

    _, whole = batches(World())
    tasks, shares = zip(*(batches(World(rank, 3)) for rank in range(3)))
    assert [task.steps_per_epoch for task in tasks] == [7] * 3
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        assert sorted(tasks[0].count(part) for part in parts) in ([3, 3, 4], [0, 0, 1])
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
    with pytest.raises(DetectPruneError, match="a batch of 10 can't be shared by 11 processes"):
        batches(World(0, 11))


def test_weights_that_are_gone_from_a_folder_are_named(data, tmp_path):
    task = task_of(data)
    task.save(task.model, tmp_path, "dense")
    found = task.load(tmp_path, "dense").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in task.model.state_dict().items())
    (tmp_path / "dense.pt").unlink()
    with pytest.raises(DetectPruneError, match=r"dense\.pt: no such file"):
        task.load(tmp_path, "dense")


def test_class_folders_of_grey_pictures_are_pictures_for_lenet5(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECT_PRUNE_CACHE", str(tmp_path / "cache"))
    pictures = torch.randint(256, (4, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    for number, picture in enumerate(pictures):
        folder = tmp_path / "set" / ("train", "test")[number % 2] / "one"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    task = classification_task("lenet5", data=tmp_path / "set", device="cpu")
    assert torch.equal(task.data.train.images[:, 0], torch.from_numpy(pictures[::2]))
    assert task.data.test.images.shape == (2, 1, 28, 28) and not task.augment
    cv2.imwrite(str(tmp_path / "set" / "test" / "one" / "5.png"), np.full((28, 28, 3), (0, 0, 1), np.uint8))
    with pytest.raises(DetectPruneError, match=r"\(1, 28, 28\), and those of set are \(3, 28, 28\)"):
        classification_task("lenet5", data=tmp_path / "set", device="cpu")


def test_the_score_is_the_share_that_is_named_rightly(data, monkeypatch):
    class Named(torch.nn.Module):
        def forward(self, pictures):
            assert not self.training
            shades = (pictures[:, 0, 0, 0] * 0.3081 + 0.1307).mul(255).round().long()
            return torch.nn.functional.one_hot(shades.where(shades != 7, 0), 10).float()

    task, model = task_of(data), Named().train()
    for size in (500, 7):
        monkeypatch.setattr(tasks.classification, "TEST_BATCH", size)
        assert task.evaluate(model).values == {"top-1": 0.9} and model.training


def test_the_seed_decides_the_first_weights_and_the_order(data, monkeypatch):
    monkeypatch.setattr(build, "load_classification", lambda *_: data)

    def made(seed):
        task = classification_task("lenet5", batch=4, seed=seed, device="cpu")
        labels = torch.cat([labels for _, labels in task.batches(0, 0)])
        return torch.cat([value.flatten() for value in task.model.parameters()]), labels

    for first, again, other in zip(made(3), made(3), made(4)):
        assert torch.equal(first, again) and not torch.equal(first, other)


def test_weights_that_are_trained_get_a_smaller_rate(tmp_path, monkeypatch):
    black = LabelledPictures(torch.zeros(40, 3, 32, 32, dtype=torch.uint8), torch.arange(40) % 10)
    data = ClassificationData("black", tuple("0123456789"), black, black)
    monkeypatch.setattr(build, "load_classification", lambda *_: data)
    save_checkpoint(tmp_path / "best.pt", {"model": build_network("resnet20", data).state_dict()})
    fresh, trained = (
        classification_task("resnet20", weights, device="cpu").recipe.dense for weights in (None, tmp_path / "best.pt")
    )
    assert trained.lr < fresh.lr and trained.epochs < fresh.epochs


def test_the_root_reaches_the_data(data, monkeypatch):
    seen = []
    monkeypatch.setattr(build, "load_classification", lambda *given: seen.append(given) or data)
    classification_task("lenet5", data_root="D", device="cpu")
    assert seen == [("mnist", "D")]
