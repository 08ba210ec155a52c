"""Multiply-accumulates against counts by hand."""

import pytest
import torch
from torch import nn

from detect_prune.classification import LeNet5
from detect_prune.pruning import count_macs


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
