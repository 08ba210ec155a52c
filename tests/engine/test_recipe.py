"""Recipes and their options."""

from dataclasses import replace

import pytest
from toy import ToyTask

from detect_prune.engine.recipe import Phase
from detect_prune.errors import DetectPruneError


def test_options_replace_fields_of_one_phase():
    recipe = ToyTask.recipe.with_options(admm={"epochs": 3, "lr": 0.5})
    assert recipe.admm == Phase(3, 0.5) and recipe.dense == ToyTask.recipe.dense


def test_a_recipe_without_updates_is_refused_before_any_training():
    with pytest.raises(DetectPruneError, match="at least one update"):
        replace(ToyTask.recipe, updates=0)
    with pytest.raises(DetectPruneError, match="at least one step"):
        replace(ToyTask.recipe, steps_per_update=0)
