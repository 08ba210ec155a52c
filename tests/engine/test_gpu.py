"""Whole runs on a GPU, stopped and gone on with there and on the processor."""

import gc

import pytest
import torch

from detect_prune.datasets.classification import ClassificationData, LabelledPictures
from detect_prune.engine.capture import CapturedStep
from detect_prune.engine.pipeline import prune
from detect_prune.engine.precision import PRECISIONS, choose_precision
from detect_prune.engine.recipe import Phase
from detect_prune.engine.stop import Stopped
from detect_prune.engine.task import Teacher
from detect_prune.engine.trainer import Trainer
from detect_prune.pruning import keep_count
from detect_prune.tasks.classification import ClassificationTask, build_network
from detect_prune.tasks.recipes import classification_recipe


@pytest.fixture
def data():
    """Ten kinds of pictures, by the place of a white block, which a shift by four pixels leaves recognisable."""
    labels = torch.arange(320) % 10
    images = torch.randint(60, (320, 3, 32, 32), dtype=torch.uint8)
    for image, label in zip(images, labels.tolist()):
        image[label % 3, 3 * label : 3 * label + 4] = 255
    split = LabelledPictures(images, labels)
    return ClassificationData("blocks", tuple("0123456789"), split, split)


class Stopping(ClassificationTask):
    """Its batch number `stop_at` is never trained on."""

    stop_at: int | None = None
    asked = 0

    def batches(self, *args):
        for batch in super().batches(*args):
            self.asked += 1
            if self.asked == self.stop_at:
                raise Stopped("here")
            yield batch


def task_of(data, device, stop_at=None):
    torch.manual_seed(0)
    recipe = classification_recipe("resnet20").with_options(
        dense={"epochs": 12, "lr": 0.05}, admm={"epochs": 8}, retrain={"epochs": 4, "ema": 0.9, "clip": 5.0}
    )
    task = Stopping(build_network("resnet20", data), data, recipe, name="resnet20", batch=64, device=device)
    task.stop_at = stop_at
    return task


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_and_its_files(gpu, data, tmp_path, precision):
    task = task_of(data, gpu)
    result = prune(task.model, ratio=0.8, task=task, folder=tmp_path / "run", precision=PRECISIONS[precision])
    assert result.stages[-1]["metrics"]["top-1"] > 0.6
    here = task_of(data, "cpu")
    loaded = here.load(tmp_path / "run", "pruned")
    on_gpu, on_cpu = (each.evaluate(model).score for each, model in ((task, result.model), (here, loaded)))
    assert abs(on_gpu - on_cpu) < 1.5 / 320  # one picture may change sides


@pytest.mark.parametrize("after", ["cuda", "cpu"])
@pytest.mark.parametrize("at", [50, 75, 110])
def test_goes_on_where_it_was_stopped(gpu, data, tmp_path, at, after):
    """In the dense phase, in that of ADMM, and in retraining."""
    task = task_of(data, gpu, stop_at=at)
    options = {"ratio": 0.8, "folder": tmp_path / "run", "save_every": 0.0}
    with pytest.raises(Stopped):
        prune(task.model, task=task, precision=PRECISIONS["fp32"], **options)
    task = task_of(data, after)
    result = prune(task.model, task=task, resume=True, **options)
    last = result.stages[-1]
    assert last["name"] == "retrained" and last["kept"] == keep_count(last["total"], 0.8)
    assert last["metrics"]["top-1"] > 0.6


def test_batches_are_made_where_they_are_wanted(gpu, data):
    assert all(tensor.device.type == "cuda" for tensor in next(task_of(data, gpu).batches(0, 0)))


@pytest.fixture
def exact_kernels():
    """Else the same step twice differs in its last bits."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        yield


class Counting(ClassificationTask):
    """Knows how often its loss was asked for."""

    asked = 0

    def loss(self, *args, **kwargs):
        self.asked += 1
        return super().loss(*args, **kwargs)


def counting_task(name, data, batch, device):
    torch.manual_seed(0)
    task = Counting(build_network(name, data), data, classification_recipe(name), name=name, batch=batch, device=device)
    PRECISIONS["bf16"].prepare(task.model)
    return task


def trained(task, phase, teacher=None):
    trainer = Trainer(task, task.model, phase, PRECISIONS["bf16"], teacher=teacher)
    return [report.loss for report in trainer.steps()], task.model.state_dict()


def test_a_captured_step_is_the_plain_one(gpu, data, exact_kernels):
    """With a teacher, and an epoch's last batch of 20 pictures."""
    results = []
    for captured, asked in ((True, 4 + 5), (False, 20)):
        task = counting_task("resnet20", data, 100, gpu)
        task.capturable = captured
        teacher = Teacher(counting_task("resnet20", data, 100, gpu).model.eval(), 1.0)
        results.append(trained(task, Phase(5, 0.01, weight_decay=5e-4, clip=5.0), teacher))
        assert task.asked == asked
    (losses, weights), (plain_losses, plain_weights) = results
    assert losses == pytest.approx(plain_losses, rel=1e-3)
    for name, value in weights.items():
        torch.testing.assert_close(value, plain_weights[name], rtol=1e-2, atol=1e-3)


def test_a_captured_step_draws_anew(gpu):
    """All pictures are the same one, so that nothing but dropout makes a step unlike another."""
    pictures = torch.randint(256, (1, 1, 28, 28), dtype=torch.uint8).expand(64, -1, -1, -1)
    split = LabelledPictures(pictures, torch.zeros(64, dtype=torch.long))
    task = counting_task("lenet5", ClassificationData("one", tuple("0123456789"), split, split), 64, gpu)
    losses, _ = trained(task, Phase(12, 1e-12, dropout=0.5))
    assert task.asked == 4 and len(set(losses)) == 12


class Cycle:
    """Only Python's collector frees what it holds."""

    def __init__(self, held):
        self.held, self.own = held, self


def test_a_captured_step_survives_a_collection(gpu):
    """Of an earlier one, while it is captured."""

    def captured(in_capture):
        model = torch.nn.Linear(3, 2).to(gpu)

        def compute(batch):
            loss = model(batch[0]).square().sum()
            loss.backward()
            if torch.cuda.is_current_stream_capturing():
                in_capture()
            return loss.detach(), {}

        step = CapturedStep(model, compute)
        for _ in range(8):
            batch = [torch.rand(5, 3, device=gpu)]
            model.zero_grad()
            loss, _ = step(batch)
            torch.testing.assert_close(loss, model(batch[0]).square().sum().detach())
        return step

    Cycle(captured(lambda: None))
    captured(gc.collect)


def test_the_fastest_precision_is_found(gpu, data):
    task = task_of(data, gpu)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    best, seconds = choose_precision(task)
    assert best in seconds and seconds.keys() == PRECISIONS.keys()
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
