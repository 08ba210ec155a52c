"""The methods by name, and what prunes for each."""

import pytest

from detect_prune.classification import LeNet5
from detect_prune.pruning import (
    METHODS,
    GlobalADMM,
    GradualMagnitude,
    LayerwiseRatio,
    find_method,
    make_constraint,
    make_pruner,
)
from detect_prune.pruning.importance import make_importance


def test_methods_by_name():
    assert list(METHODS) == ["admm", "admm-layerwise", "gradual", "magnitude", "lamp", "dense-longer", "dense"]
    with pytest.raises(ValueError, match="there are admm"):
        find_method("magic")
    assert find_method("admm").choose_importance("fisher") == "fisher"
    assert find_method("gradual").choose_importance("lamp") == "lamp"
    assert find_method("lamp").choose_importance(None) == "lamp"
    for method, wanted in (("magnitude", "lamp"), ("dense", "raw"), ("gradual", "fisher"), ("admm", "magic")):
        with pytest.raises(ValueError, match=r"chosen|measured|no importance"):
            find_method(method).choose_importance(wanted)
    for method in METHODS.values():
        if method.importance is not None:
            make_importance(method.importance)


def test_pruners():
    model = LeNet5()
    options = {"updates": 30, "importance": "raw"}
    assert isinstance(
        make_pruner(find_method("gradual"), model, make_constraint(model, 0.5), **options), GradualMagnitude
    )
    admm = make_pruner(find_method("admm-layerwise"), model, LayerwiseRatio(0.5), **options, gradual=True)
    assert isinstance(admm, GlobalADMM) and admm.gradual and admm.updates == 30
