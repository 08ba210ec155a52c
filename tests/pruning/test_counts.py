"""What can be pruned, how many stay, and multiplications against arithmetic done by hand."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from detect_prune.classification import LeNet5
from detect_prune.pruning import count_macs, keep_count, magnitude_masks, prunable_weights


@pytest.mark.parametrize("ratio", ["0.29", "0.57", "0.58", "0.8", "0.988", "0.992", "0.9967", "1e-3"])
@pytest.mark.parametrize("n", [430500, 100, 7, 64429405])
def test_keep_count_is_decimal_arithmetic(ratio, n):
    removed = Fraction(ratio) * n
    assert keep_count(n, float(ratio)) == keep_count(n, ratio) == n - removed.numerator // removed.denominator


def test_a_ratio_next_to_one_leaves_a_weight():
    assert keep_count(10, "0." + "9" * 31) == 1


def test_a_float_floor_would_be_wrong():
    assert 100 - int(0.29 * 100) != keep_count(100, 0.29) == 71
    assert keep_count(430500, 0.58) == 180810


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan"), float("inf"), "many"])
def test_bad_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        keep_count(10, ratio)


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


def test_macs_by_hand():
    model = LeNet5()
    with torch.no_grad():
        model.fc1.weight[:, 100:] = 0
    macs = count_macs(model, torch.zeros(3, 1, 28, 28))
    assert {name: m.dense for name, m in macs.items()} == {
        "conv1.weight": 24 * 24 * 20 * 25,
        "conv2.weight": 8 * 8 * 50 * 20 * 25,
        "fc1.weight": 800 * 500,
        "fc2.weight": 5000,
    }
    assert macs["fc1.weight"].nonzero == 100 * 500


def test_macs_of_layers_with_another_batch_than_the_network():
    class Film(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.up = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2, stride=2)
            self.head, self.query = nn.Linear(2, 2), nn.Conv1d(2, 2, 1)

        def forward(self, x):
            frames = self.up(self.conv(x.flatten(0, 1)))
            one_by_one = torch.cat([self.head(frame.mean((1, 2))[None]) for frame in frames])
            return one_by_one.mean(0) + self.query(torch.ones(1, 2, 6)).sum()

    macs = count_macs(Film(), torch.randn(2, 5, 3, 6, 6))
    assert {name: m.dense for name, m in macs.items()} == {
        "conv.weight": 5 * 16 * 4 * 3 * 9,
        "up.weight": 5 * 16 * 4 * 2 * 4,
        "head.weight": 5 * 4,
        "query.weight": 6 * 4 // 2,  # once for both pictures
    }


def test_macs_of_groups_strides_transposed_and_repeated_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4)
            self.up = nn.ConvTranspose2d(8, 2, 2, stride=2)
            self.twice = nn.Linear(6, 6)
            self.norm = nn.BatchNorm2d(8)
            self.frozen = nn.BatchNorm2d(8).eval()

        def forward(self, x):
            x = self.frozen(self.norm(self.grouped(x)))  # (B, 8, 4, 3)
            return self.twice(self.twice(self.up(x)))  # (B, 2, 8, 6)

    model = Net()
    macs = count_macs(model, torch.randn(2, 4, 8, 6))
    assert macs["grouped.weight"].dense == (4 * 3) * 8 * (4 // 4) * 9
    assert macs["up.weight"].dense == (4 * 3) * 8 * 2 * 4
    assert macs["twice.weight"].dense == 2 * (2 * 8) * 36
    assert model.training and model.norm.training and not model.frozen.training
    assert torch.equal(model.norm.running_mean, torch.zeros(8))


class Unusual(nn.Module):
    """Calls its layers by name, has one without an output, and one that returns more than its output."""

    class Two(nn.Linear):
        def forward(self, input):
            return super().forward(input), None

    class Pair(nn.Conv2d):
        def forward(self, picture):
            return super().forward(picture), None

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2)
        self.none = nn.Linear(8, 1)
        self.none.weight, self.none.bias = nn.Parameter(torch.zeros(0, 8)), None
        self.two = self.Two(8, 5)
        self.conv = self.Pair(4, 6, 3)

    def forward(self, x):
        x = self.up(input=x)
        return self.none(x), self.two(x), self.conv(picture=x)


def test_layers_that_are_called_otherwise_are_counted():
    counts = count_macs(Unusual(), torch.zeros(2, 3, 4, 4))
    assert {name: each.dense for name, each in counts.items()} == {
        "up.weight": 4 * 4 * 3 * 4 * 2 * 2,
        "two.weight": 4 * 8 * 8 * 5,
        "conv.weight": 6 * 6 * 6 * 4 * 3 * 3,
    }
    with pytest.raises(ValueError, match="at least one picture"):
        count_macs(Unusual(), torch.zeros(0, 3, 4, 4))


def test_a_network_that_is_compiled_in_place_is_counted_all_the_same():
    model = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 2))
    expected = count_macs(model, torch.zeros(1, 20))
    model.compile(backend="eager")
    with torch.no_grad():
        model.eval()(torch.zeros(1, 20))
    assert count_macs(model, torch.zeros(1, 20)) == expected != {}


def test_a_weight_that_an_embedding_shares_is_left_alone():
    model = nn.ModuleDict({"words": nn.Embedding(50, 8), "body": nn.Linear(8, 8), "head": nn.Linear(8, 50)})
    model["head"].weight = model["words"].weight
    assert list(prunable_weights(model)) == list(prunable_weights(model, exclude=["head"])) == ["body.weight"]


def test_layers_on_several_devices_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, device="meta"))
    with pytest.raises(ValueError, match="the layers lie on cpu and meta"):
        prunable_weights(model)
