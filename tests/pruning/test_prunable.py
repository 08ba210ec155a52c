"""Which weights can be pruned."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from detect_prune.classification import LeNet5
from detect_prune.pruning import magnitude_masks, prunable_weights


def test_lenet_has_the_weights_of_the_papers():
    sizes = {name: weight.numel() for name, weight in prunable_weights(LeNet5()).items()}
    assert sizes == {"conv1.weight": 500, "conv2.weight": 25000, "fc1.weight": 400000, "fc2.weight": 5000}


def test_patterns_choose_layers():
    model = LeNet5()
    assert list(prunable_weights(model, exclude=["conv1"])) == ["conv2.weight", "fc1.weight", "fc2.weight"]
    assert list(prunable_weights(model, include=["fc*"], exclude=["fc2.weight"])) == ["fc1.weight"]
    with pytest.raises(ValueError, match="nosuch"):
        prunable_weights(model, exclude=["nosuch*"])
    with pytest.raises(ValueError, match="excluded"):
        prunable_weights(model, exclude=["*"])
    with pytest.raises(ValueError, match="nothing to prune"):
        prunable_weights(nn.BatchNorm2d(3))
    for wrong in ({"include": "fc1"}, {"exclude": "12"}):
        with pytest.raises(ValueError, match="a list of patterns was expected"):
            prunable_weights(model, **wrong)


def test_a_shared_weight_counts_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(prunable_weights(model)) == ["0.weight"]
    assert list(prunable_weights(model, include=["1"])) == ["0.weight"]
    with pytest.raises(ValueError, match="excluded"):
        prunable_weights(model, exclude=["1"])


def test_a_layer_is_known_by_each_of_its_names():
    model = nn.ModuleDict({"one": nn.Linear(3, 3), "other": nn.Linear(3, 3)})
    model["again"] = model["one"]
    assert list(prunable_weights(model)) == ["one.weight", "other.weight"]
    assert list(prunable_weights(model, exclude=["again"])) == ["other.weight"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_weights_is_left_out():
    model = nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 3), nn.Linear(3, 4))
    assert magnitude_masks(model, 0.5).n_kept == 6


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (nn.LazyLinear(3), "no shape yet"),
        (nn.Linear(3, 3, dtype=torch.complex64), "complex64"),
        (nn.Linear(3, 3).to(torch.float8_e4m3fn), "float8"),
        (torch.ones(3, 8)[:, ::2], "gaps or overlaps"),
        (torch.ones(9)[::4, None].expand(3, 5), "gaps or overlaps"),  # as many values as places
        (prune.identity(nn.Linear(3, 3), "weight"), "prune.remove"),
    ],
)
def test_what_can_not_be_ranked_is_named_and_may_be_excluded(layer, sentence):
    if isinstance(layer, torch.Tensor):
        weight, layer = layer, nn.Linear(3, 3)
        layer.weight = nn.Parameter(weight)
    model = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(ValueError, match=rf"^1\.weight .*{sentence}.*exclude such layers"):
        prunable_weights(model)
    assert list(prunable_weights(model, exclude=["1"])) == ["0.weight"]


def test_a_weight_that_is_computed_is_refused_unless_it_is_excluded():
    model = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match=r"1\.weight is computed.*exclude"):
        prunable_weights(model)
    assert list(prunable_weights(model, exclude=["1"])) == ["0.weight"]


def test_a_computed_weight_is_known_by_each_of_its_names():
    model = nn.ModuleDict({"one": nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "other": nn.Linear(3, 3)})
    model["again"] = model["one"]
    for name in ("one", "again"):
        assert list(prunable_weights(model, exclude=[name])) == ["other.weight"]


def test_a_weight_that_is_computed_is_not_looked_at():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert list(prunable_weights(model, exclude=["1"])) == ["0.weight"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_weight_that_an_embedding_shares_is_left_alone():
    model = nn.ModuleDict({"words": nn.Embedding(50, 8), "body": nn.Linear(8, 8), "head": nn.Linear(8, 50)})
    model["head"].weight = model["words"].weight
    assert list(prunable_weights(model)) == list(prunable_weights(model, exclude=["head"])) == ["body.weight"]


def test_layers_on_several_devices_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, device="meta"))
    with pytest.raises(ValueError, match="the layers lie on cpu and meta"):
        prunable_weights(model)
