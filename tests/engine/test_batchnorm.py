"""Statistics of batch norm that are measured again."""

import pytest
import torch
from torch import nn

from detect_prune.engine.batchnorm import can_reestimate, reestimate


def test_reestimated_statistics_are_those_of_all_the_inputs_together():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    batches = [torch.randn(6, 3, 5, 5) * (i + 1) for i in range(4)]
    reestimate(model, batches)
    with torch.no_grad():
        maps = [model[0](batch) for batch in batches]
    means = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variances = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    assert torch.allclose(model[1].running_mean, means, atol=1e-5)
    assert torch.allclose(model[1].running_var, variances, rtol=1e-4)
    assert model[1].momentum == 0.1 and model.training and model[2].training


def test_frozen_batch_norms_keep_their_statistics_and_all_modules_their_modes():
    class HalfFrozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()

    model = HalfFrozen(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model.train()
    model[2].eval()
    batches = [torch.randn(6, 3, 5, 5) + 2 for _ in range(2)]
    reestimate(model, batches)
    assert (model[1].running_mean == 0).all() and (model[1].running_var == 1).all()
    assert model[2].running_mean.abs().min() > 0
    assert [module.training for module in model] == [True, False, False]


def test_a_network_without_batch_norm_needs_no_inputs():
    reestimate(nn.Linear(2, 2), iter([]))
    assert can_reestimate(nn.BatchNorm2d(2).eval()) and not can_reestimate(nn.Linear(2, 2))
    assert not can_reestimate(nn.BatchNorm2d(2, track_running_stats=False))


def test_statistics_can_t_come_from_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model[1].running_mean.fill_(3.0)
    with pytest.raises(ValueError, match="without inputs"):
        reestimate(model, [])
    assert (model[1].running_mean == 3).all() and not model[1].training


def test_dropout_is_off_while_statistics_are_measured():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    batch = torch.randn(64, 3)
    reestimate(model, [batch])
    torch.testing.assert_close(model[1].running_mean, batch.mean(0))
    torch.testing.assert_close(model[1].running_var, batch.var(0))
