"""Importances side by side, on the toy."""

import copy

import importance_at_once
import torch
from toy import ToyTask

from detect_prune.cli.choices import IMPORTANCES


def test_each_importance_leaves_what_the_ratio_leaves_and_ranks_its_own_way():
    torch.manual_seed(0)
    task = ToyTask()
    before = copy.deepcopy(task.model.state_dict())
    kept = {}
    for name, importance in importance_at_once.measured(task, 3).items():
        task.model.load_state_dict(before)
        scores = importance_at_once.scores_after(task, 0.6, importance)
        assert scores["n_kept"] == 128 and {"top-1", "reestimated_top-1"} <= scores.keys()
        kept[name] = torch.cat([weight.flatten() != 0 for weight in task.model.parameters() if weight.dim() > 1])
        assert int(kept[name].sum()) == 128
    assert tuple(kept) == IMPORTANCES and not torch.equal(kept["raw"], kept["taylor"])
    assert task.asked == 3
