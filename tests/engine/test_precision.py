"""Which arithmetic is chosen, by a step that leaves no trace; memory that is not enough; the machine."""

import gc
import json
import os
import re
import weakref

import cv2
import pytest
import torch
from toy import ToyTask

from detect_prune.engine.machine import describe_machine, in_words
from detect_prune.engine.precision import PRECISIONS, choose_precision
from detect_prune.engine.recipe import Phase
from detect_prune.engine.trainer import Trainer
from detect_prune.errors import DetectPruneError


def test_the_timed_step_leaves_no_trace():
    task = ToyTask()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    random = torch.get_rng_state()
    chosen, seconds = choose_precision(task)
    assert seconds.keys() == PRECISIONS.keys() and chosen == min(seconds, key=seconds.get)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_the_timed_step_leaves_the_modes_alone():
    task = ToyTask()
    task.model.eval()
    task.model[1].train()
    modes = [module.training for module in task.model.modules()]
    choose_precision(task)
    assert [module.training for module in task.model.modules()] == modes


class Greedy(ToyTask):
    """Runs out of memory in every step that `refuse` says, which is given the number of the step."""

    def __init__(self, refuse, error):
        super().__init__()
        self.refuse, self.error = refuse, error

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        if self.refuse(self.asked):
            raise self.error
        return loss

    def settings(self):
        return {"batch": 32}


def out_of_memory():
    """What torch raises on a processor."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    return caught.value


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("no memory"), MemoryError(), out_of_memory()])
def test_a_precision_that_does_not_fit_into_memory_is_not_chosen(error):
    chosen, seconds = choose_precision(Greedy(lambda step: step == 1, error))
    assert len(seconds) == 2 and chosen != "fp32"
    task = Greedy(lambda step: True, error)
    task.model.eval()
    with pytest.raises(DetectPruneError, match="batch 32 does not fit into the memory of cpu"):
        choose_precision(task)
    assert not task.model.training
    with pytest.raises(DetectPruneError, match="batch 32 does not fit into the memory of cpu"):
        list(Trainer(task, task.model, Phase(1, 0.1), PRECISIONS["fp32"]).steps())


def test_a_precision_in_which_a_step_fails_is_left_out():
    class Stubborn(ToyTask):
        def loss(self, model, batch):
            if torch.is_autocast_enabled("cpu"):
                raise TypeError("Got unsupported ScalarType BFloat16")
            return super().loss(model, batch)

    with pytest.warns(UserWarning, match="bf16 is left out, for a step fails in it: Got unsupported"):
        _, seconds = choose_precision(Stubborn())
    assert seconds.keys() == {"fp32", "fp32-channels-last"}


def test_channels_last_is_asked_of_what_has_channels_and_two_sides_alone():
    model = torch.nn.Sequential(torch.nn.Conv3d(4, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Linear(4, 4))
    PRECISIONS["bf16"].prepare(model)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last) and model[0].weight.is_contiguous()
    PRECISIONS["fp32"].prepare(model)
    assert model[1].weight.is_contiguous()


def test_a_step_that_does_not_fit_leaves_its_memory_to_the_others():
    class Large(ToyTask):
        made = None

        def loss(self, model, batch):
            loss = super().loss(model, batch)
            if self.made is None:
                activations = torch.zeros(10)
                self.made = weakref.ref(activations)
                raise torch.cuda.OutOfMemoryError("no memory")
            gone.append(self.made() is None)
            return loss

    gone = []
    gc.disable()
    try:
        choose_precision(Large())
    finally:
        gc.enable()
    assert gone and all(gone)


def test_another_error_of_a_step_is_not_taken_for_a_lack_of_memory():
    task = Greedy(lambda step: True, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        choose_precision(task)
    with pytest.raises(RuntimeError, match="mat1"):
        list(Trainer(task, task.model, Phase(1, 0.1), PRECISIONS["fp32"]).steps())


def test_the_machine_is_described_by_plain_values(monkeypatch):
    machine = describe_machine(torch.device("cpu"))
    assert machine["processor"] and machine["cores"] >= 1 and machine["torch"] == torch.__version__
    assert machine["opencv"] == cv2.__version__  # decodes, resizes and augments: another one, other bits
    assert json.loads(json.dumps(machine)) == machine
    assert re.search(r"memory [\d.]+ [GT]B, ", in_words(machine))
    monkeypatch.delattr(os, "sysconf_names", raising=False)  # as on Windows
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    untold = describe_machine(torch.device("cpu"))
    assert untold["memory"] is None and "memory" not in in_words(untold)
