"""The dense network as a teacher: which one it is, when it teaches, and that a resumed run has the same one."""

import pytest
import torch
from toy import StopsItself, ToyTask, run, same_bits

from detect_prune.engine.checkpoint import load_checkpoint
from detect_prune.engine.recipe import Phase, Recipe
from detect_prune.engine.stop import Stopped
from detect_prune.errors import DetectPruneError

DISTILLING = ToyTask.recipe.with_options(
    dense={"epochs": 2}, admm={"epochs": 4, "distill": 0.5}, retrain={"epochs": 2, "distill": 2.0}
)


class Taught(StopsItself):
    """Its loss takes a teacher. As when a network is built, reading one back draws random numbers."""

    def __init__(self, at=None):
        super().__init__(at)
        self.teachers = []

    def loss(self, model, batch, teacher=None):
        loss, parts = super().loss(model, batch)
        self.teachers.append(teacher)
        if teacher is None:
            return loss, parts
        # A forward pass of its own, and so other units dropped out: it only has to be something that is learned from.
        distance = teacher.weight * (model(batch[0]) - teacher(batch[0])).square().mean()
        return loss + distance, parts | {"distillation": distance.detach()}

    def load(self, folder, stem):
        torch.rand(3)
        return super().load(folder, stem)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    task = Taught()
    return task, run(tmp_path_factory.mktemp("whole") / "run", task, recipe=DISTILLING)


def test_the_dense_network_teaches_what_comes_after_it(whole):
    task, result = whole
    assert task.teachers[:16] == [None] * 16
    assert [teacher.weight for teacher in task.teachers[16:]] == [0.5] * 32 + [2.0] * 16
    stored = torch.load(result.folder / "dense.pt", weights_only=True)
    for teacher in (task.teachers[16], task.teachers[-1]):
        assert not teacher.model.training
        assert all(torch.equal(value, stored[name]) for name, value in teacher.model.state_dict().items())
        assert teacher(torch.ones(1, 2, 1, 1)).requires_grad is False


def test_its_part_of_the_loss_is_logged(whole):
    _, result = whole
    history = load_checkpoint(result.folder / "last.pt")["history"]
    parts = {row["phase"] for row in history if "loss distillation" in row}
    assert parts == {"admm", "retrain"}


@pytest.mark.parametrize("at", [16 + 1, 16 + 9, 16 + 32, 16 + 32 + 5])
def test_a_run_that_is_stopped_and_resumed_ends_at_the_same_bits(tmp_path, whole, at):
    with pytest.raises(Stopped):
        run(tmp_path / "run", Taught(at), recipe=DISTILLING)
    same_bits(whole[1], run(tmp_path / "run", Taught(), recipe=DISTILLING, resume=True))


@pytest.mark.parametrize("method", ["gradual", "magnitude", "dense-longer"])
def test_the_rivals_have_the_same_teacher(tmp_path, method):
    task = Taught()
    ratio = None if method == "dense-longer" else 0.6
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    result = run(tmp_path / "run", task, recipe=DISTILLING, method=method, ratio=ratio, train_dense=False)
    assert len(task.teachers) == 48 and None not in task.teachers
    assert all(torch.equal(value, before[name]) for name, value in task.teachers[-1].model.state_dict().items())
    assert (result.folder / "dense.pt").exists(), "a resumed run reads it"


def test_a_task_without_a_teacher_is_asked_for_no_more_than_before(tmp_path):
    recipe = DISTILLING.with_options(admm={"distill": 0.0}, retrain={"distill": 0.0})
    result = run(tmp_path / "run", ToyTask(), recipe=recipe, train_dense=False)
    assert not (result.folder / "dense.pt").exists()


def test_a_task_that_takes_none_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(DetectPruneError, match="takes no teacher"):
        run(tmp_path / "run", ToyTask(), recipe=DISTILLING)
    assert not (tmp_path / "run").exists()


def test_a_dense_network_has_no_teacher():
    with pytest.raises(DetectPruneError, match="no dense network yet"):
        Recipe(dense=Phase(1, 0.1, distill=1.0), admm=Phase(1, 0.1), retrain=Phase(1, 0.1))
