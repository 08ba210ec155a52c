"""The worth of weights: definitions, scale, and what a scaled convolution before batch norm must not change."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detect_prune.pruning import (
    Fisher,
    GlobalADMM,
    GlobalBudget,
    Normalised,
    Raw,
    Taylor,
    magnitude_masks,
    prunable_weights,
)
from detect_prune.pruning.importance import make_importance, scaled_worths
from detect_prune.pruning.lamp import _SORTED, _sampling_step


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def scaled_pair():
    torch.manual_seed(0)
    model = Small()
    for _ in range(20):
        model(torch.randn(16, 3, 10, 10))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv1.weight.mul_(10)
        other.bn1.running_mean.mul_(10)
        other.bn1.running_var.mul_(100)
    x = torch.randn(4, 3, 10, 10)
    torch.testing.assert_close(model.eval()(x), other.eval()(x), rtol=1e-3, atol=1e-4)
    return model.train(), other.train()


@pytest.mark.parametrize("kind", ["raw", "normalised", "lamp", "taylor"])
def test_a_layer_of_zeros_is_worth_what_plain_magnitude_says(kind):
    torch.manual_seed(0)
    weights = {"body": torch.randn(6, 5), "head": torch.zeros(3, 6)}
    importance = make_importance(kind)
    if importance.observes:
        importance.observe({name: torch.randn_like(weight) for name, weight in weights.items()})
    q = scaled_worths(importance, weights, 0.5)
    assert (q["head"] == 1).all()


def test_a_head_of_zeros_learns_while_it_is_pruned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
    nn.init.zeros_(model[2].weight)
    x = torch.randn(128, 12)
    labels = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    admm = GlobalADMM(model, 0.8, updates=10, rho=1e-2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    admm.attach(optimizer)
    for number in range(1, 101):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        if number % 10 == 0:
            admm.update()
    admm.cut()
    assert F.cross_entropy(model(x), labels) < 0.5


def admm_mask(model, importance, gradual=False):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-30)
    options = {} if importance is None else {"importance": importance}
    admm = GlobalADMM(model, 0.7, updates=4, gradual=gradual, **options)
    admm.attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(16, 3, 10, 10)), torch.randint(4, (16,))).backward()
        optimizer.step()
    admm.update()
    masks = admm.cut()
    return torch.cat([masks[name].flatten() for name in masks])


@pytest.mark.parametrize("gradual", [False, True])
@pytest.mark.parametrize("importance", [None, "normalised", "lamp", "fisher", "fisher-layer", "taylor"])
def test_scaling_a_convolution_before_batch_norm_changes_nothing(importance, gradual):
    """Of the mask that ADMM comes to with the weights as they are: here it hardly moves them."""
    one, ten = scaled_pair()
    first, second = admm_mask(one, importance, gradual), admm_mask(ten, importance, gradual)
    # A gradient is a sum in floating point; where two weights are worth the same to the last bits, their order may
    # turn.
    assert int((first != second).sum()) <= (2 if importance and "fisher" in importance else 0)


def test_raw_magnitude_is_the_one_that_changes():
    one, ten = scaled_pair()
    assert int((admm_mask(one, "raw") != admm_mask(ten, "raw")).sum()) > 20


@pytest.mark.parametrize("importance", ["raw", "normalised", "lamp"])
def test_worth_keeps_the_length_of_the_weights(importance):
    model = Small()
    weights = {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1}
    q = scaled_worths(make_importance(importance), weights, 0.2)
    plain = sum(float(w.square().sum()) for w in weights.values())
    assert sum(float((q[name] * w.square()).sum()) for name, w in weights.items()) == pytest.approx(plain, rel=1e-4)


def test_definitions():
    weight = {"w": torch.tensor([[3.0, -1.0], [2.0, 2.0]])}
    assert float(Raw().worths(weight, 0.5)["w"]) == 1
    assert float(Normalised().worths(weight, 0.5)["w"]) == pytest.approx(4 / 18)


@pytest.mark.parametrize("ratio", [0.3, 0.9, 0.99])
def test_lamp_keeps_what_its_paper_keeps(ratio):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 30), nn.Linear(30, 2))
    scores = []
    for layer, scale in zip(model, (0.01, 1.0, 30.0)):
        with torch.no_grad():
            layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator) ** 3)
        squares = layer.weight.detach().double().square().flatten()
        scores.append(squares / torch.stack([squares[squares >= square].sum() for square in squares]))
    masks = magnitude_masks(model, ratio, importance="lamp")
    kept = torch.cat([masks[name].flatten() for name in masks])
    expected = torch.zeros(len(kept), dtype=torch.bool)
    expected[torch.cat(scores).topk(masks.n_kept).indices] = True
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_lamp_pays_what_a_weight_costs(ratio):
    """Greedy by LAMP's score over cost; only what is left for the first that does not fit may go elsewhere."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 30), nn.Linear(30, 20))
    prices = (64.0, 9.0, 1.0)
    scores, costs = [], []
    for layer, price in zip(model, prices):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) ** 3)
        squares = layer.weight.detach().double().square().flatten()
        scores.append(squares / torch.stack([squares[squares >= square].sum() for square in squares]) / price)
        costs.append(torch.full_like(squares, price))
    scores, costs = torch.cat(scores), torch.cat(costs)
    budget = round(float((1 - ratio) * costs.sum()))
    constraint = GlobalBudget(budget, {f"{i}.weight": price for i, price in enumerate(prices)})
    masks = magnitude_masks(model, constraint=constraint, importance="lamp")
    kept = torch.cat([masks[name].flatten() for name in masks])
    order = scores.argsort(descending=True)
    expected = torch.zeros(len(kept), dtype=torch.bool)
    expected[order[costs[order].cumsum(0) <= budget]] = True
    assert (kept | ~expected).all()
    assert float(costs[kept & ~expected].sum()) <= budget - float(costs[expected].sum()) < 64


def uneven_kernels():
    """Kernels whose centre is much larger than their corners, and a matrix with a few large columns."""
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 96, 3), nn.Linear(800, 500))
    for convolution in model[:2]:
        convolution.weight[:, :, 1, 1] *= 10
    model[2].weight[:, ::25] *= 5
    return model


def channels_last():
    return uneven_kernels().to(memory_format=torch.channels_last)


def unseen_giants(count):
    """A layer that has giants where no regular sample looks, which leave less to all others; one that is mostly zeros,
    a small one of nothing else, and one that keeps all it has."""
    model = nn.Sequential(
        nn.Linear(300, 200), nn.Linear(200, 300), nn.Linear(300, 200), nn.Linear(200, 20), nn.Linear(20, 1)
    )
    unseen = torch.arange(60_000) % _sampling_step(60_000) != 0
    model[0].weight.view(-1)[unseen.nonzero().flatten()[:count]] *= 1000
    model[2].weight[:-2] = 0
    model[3].weight[:] = 0
    return model


@pytest.mark.parametrize(
    "make",
    [uneven_kernels, channels_last, lambda: unseen_giants(50), lambda: unseen_giants(4000)],
    ids=["uneven kernels", "channels last", "50 giants", "4000 giants"],
)
@pytest.mark.parametrize("ratio", [0.2, 0.8, 0.9, 0.95, 0.99, 0.9967, 0.9995])
def test_lamp_is_exact_in_large_layers(make, ratio):
    torch.manual_seed(0)
    with torch.no_grad():
        model = make()
    assert max(weight.numel() for weight in prunable_weights(model).values()) > 2 * _SORTED
    masks = magnitude_masks(model, ratio, importance="lamp", floor=0.0)
    kept, scores = [], []
    for name, weight in prunable_weights(model).items():
        squares = weight.detach().double().square().flatten()
        falling, order = squares.sort(descending=True)
        score = torch.empty_like(squares)
        score[order] = (falling / falling.cumsum(0)).nan_to_num()
        kept.append(masks[name].flatten())
        scores.append(score)
    kept, scores = torch.cat(kept), torch.cat(scores)
    expected = torch.zeros_like(kept)
    expected[scores.topk(masks.n_kept).indices] = True
    # Where the budget reaches zeros, any of them will do. Of a layer that is all zeros one weight stays, in whose stead
    # another goes.
    different = (kept != expected) & (scores > 0)
    assert different.sum() <= sum(not weight.any() for weight in prunable_weights(model).values())


def test_fisher_is_the_running_mean_of_squares():
    for per_layer in (False, True):
        fisher = Fisher(per_layer=per_layer, decay=0.9, damping=0.0)
        generator = torch.Generator().manual_seed(0)
        squares = []
        for _ in range(30):
            gradient = torch.randn(3, 4, generator=generator)
            squares.append(gradient.square().mean() if per_layer else gradient.square())
            fisher.observe({"other": 9 * torch.randn(5, generator=generator), "w": gradient})
        share = torch.tensor([0.1 * 0.9 ** (29 - i) for i in range(30)])
        expected = sum(s * w for s, w in zip(squares, share)) / share.sum()
        torch.testing.assert_close(fisher.worths({"w": torch.ones(3, 4)}, 0.5)["w"], expected)
        other = Fisher(per_layer=per_layer, decay=0.9, damping=0.0)
        other.load_state_dict(fisher.state_dict())
        assert torch.equal(
            other.worths({"w": torch.ones(3, 4)}, 0.5)["w"], fisher.worths({"w": torch.ones(3, 4)}, 0.5)["w"]
        )
    with pytest.raises(ValueError, match="gradients"):
        Fisher().worths({"w": torch.ones(2)}, 0.5)


def test_taylor_is_the_first_order_term_of_each_output():
    """A weight of its filter's usual length is worth |g w|: q w^2 = rms(g) rms(w), and a little of its layer's."""
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(5, 7, generator=generator), "b": 3 * torch.randn(2, 3, 3, 3, generator=generator)}
    taylor = Taylor()
    for name, weight in weights.items():
        gradient = torch.randn(weight.shape, generator=generator) * (0.1 if name == "a" else 10)
        for _ in range(3):
            taylor.observe({name: gradient})
        own, slopes = (value.square().flatten(1).mean(1) for value in (weight, gradient))
        expected = (slopes * own + taylor.damping * (slopes * own).mean()).sqrt()
        q = taylor.worths({name: weight}, 0.5)[name]
        assert q.shape == (len(weight), *[1] * (weight.dim() - 1))
        torch.testing.assert_close(q.flatten() * own, expected)


def test_taylor_makes_nothing_infinite_of_filters_of_zeros():
    taylor = Taylor()
    weight, gradient = torch.ones(4, 6), torch.ones(4, 6)
    weight[0], gradient[1], weight[2], gradient[2] = 0.0, 0.0, 0.0, 0.0
    taylor.observe({"w": gradient})
    worths = taylor.worths(
        {
            "w": weight,
        },
        0.5,
    )["w"]
    assert bool(worths.isfinite().all()) and bool((worths > 0).all())
    assert float(worths.max() / worths[3]) < 10
    assert float(worths[1] / worths[3]) < 0.2


def test_taylor_takes_weights_of_any_precision():
    for kind in (torch.float64, torch.bfloat16):
        taylor = Taylor()
        taylor.observe({"w": torch.ones(3, 2, dtype=kind)})
        worth = taylor.worths({"w": torch.full((3, 2), 2.0, dtype=kind)}, 0.5)["w"]
        torch.testing.assert_close(worth, torch.full_like(worth, 0.5), rtol=0.01, atol=0)


@pytest.mark.parametrize("factor", [1e-3, 10.0])
def test_with_taylor_even_one_filter_may_be_scaled(factor):
    """Before batch norm each filter is as free of scale as its layer."""
    torch.manual_seed(0)
    model = Small()
    model.bn1.eps = 1e-12
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv1.weight[3].mul_(factor)
    one, two = (admm_mask(copy.deepcopy(each), "taylor") for each in (model, other))
    assert int((one != two).sum()) <= 2  # a gradient is a sum in floating point
    one, two = (admm_mask(copy.deepcopy(each), "lamp") for each in (model, other))
    assert int((one != two).sum()) > 10


@pytest.mark.parametrize("zeros", [False, True])
def test_what_an_importance_has_given_stays_its_own(zeros):
    class Kept(Raw):
        def __init__(self):
            self._q = {"w": torch.tensor(5.0), "v": torch.tensor([[2.0], [3.0]])}

        def worths(self, weights, keep, costs=None):
            return self._q

    importance = Kept()
    weights = {"w": torch.zeros(4) if zeros else torch.ones(4), "v": torch.ones(2, 3)}
    first = scaled_worths(importance, weights, 0.5)
    second = scaled_worths(importance, weights, 0.5)
    assert importance._q["w"] == 5 and importance._q["v"].tolist() == [[2], [3]]
    assert all(torch.equal(first[name], second[name]) for name in weights)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="normalised"):
        make_importance("magic")
    with pytest.raises(ValueError, match="zero"):
        model = nn.Linear(3, 3)
        nn.init.zeros_(model.weight)
        magnitude_masks(model, 0.5)


def test_what_fisher_read_from_a_file_follows_the_network_to_its_device():
    saved = Fisher()
    saved.observe({"w": torch.ones(2, 2)})
    fisher = Fisher()
    fisher.load_state_dict(saved.state_dict())
    assert fisher.worths({"w": torch.ones(2, 2, device="meta")}, 0.5)["w"].device.type == "meta"
    fisher.observe({"w": torch.ones(2, 2, device="meta")})
    assert fisher.state_dict()["mean"]["w"].device.type == "meta"


def test_a_weight_without_a_gradient_is_worth_a_share_of_its_layers_mean():
    fisher = Fisher(damping=0.1)
    fisher.observe({"w": torch.tensor([[0.0, 2.0]])})
    torch.testing.assert_close(fisher.worths({"w": torch.ones(1, 2)}, 0.5)["w"], torch.tensor([[0.2, 4.2]]))
    assert Fisher().damping == 0.1 and Taylor().damping == 0.01


def test_squares_of_half_precision_do_not_overflow():
    fisher = Fisher()
    fisher.observe({"w": torch.full((2, 3), 1000.0, dtype=torch.float16)})
    assert fisher.worths({"w": torch.ones(2, 3)}, 0.5)["w"].isfinite().all()


def test_what_another_importance_has_learnt_is_not_taken():
    fisher = Fisher()
    fisher.observe({"w": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="belongs to another importance: it holds mean, steps"):
        Raw().load_state_dict(fisher.state_dict())
