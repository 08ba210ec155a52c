"""The support is held through everything an optimizer can do, and saved in one bit a weight."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detect_prune.pruning import LayerwiseRatio, Masks, magnitude_masks


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(5 * 16, 7))


def train(model, optimizer, steps=5, clip=False, accumulate=1):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(accumulate):
            x = torch.randn(8, 2, 6, 6, generator=generator)
            F.cross_entropy(model(x), torch.randint(7, (8,), generator=generator)).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def holds(masks, model):
    weights = dict(model.named_parameters())
    return all(torch.count_nonzero(weights[name][~masks[name]]) == 0 for name in masks)


def closure_of(model, optimizer):
    """What an optimizer calls for its gradients: 16 pictures, always the same."""
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(16, 2, 6, 6, generator=generator), torch.randint(7, (16,), generator=generator)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        return loss

    return closure


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, amsgrad=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("extra", [{}, {"clip": True, "accumulate": 3}])
def test_held_through_an_optimizer_with_a_past(kind, extra):
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, **extra)  # momentum on weights that are about to go
    masks = magnitude_masks(model, 0.8)
    masks.attach(optimizer)
    masks.attach(optimizer)
    weights = dict(model.named_parameters())
    before = {name: weights[name].detach().clone() for name in masks}
    for _ in range(4):
        train(model, optimizer, steps=1, **extra)
        for name in masks:
            removed = ~masks[name]
            assert torch.count_nonzero(weights[name][removed]) == 0
            for value in optimizer.state[weights[name]].values():
                if value.shape == removed.shape:
                    assert torch.count_nonzero(value[removed]) == 0
    assert any(not torch.equal(weights[name], before[name]) for name in masks)
    masks.detach()
    train(model, optimizer)
    assert any(torch.count_nonzero(weights[name][~masks[name]]) for name in masks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_held_through_mixed_precision(dtype):
    """fp16 with a loss scaler that meets an overflow, and bf16; with clipping, momentum, decay and an average."""
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    train(model, optimizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    masks = magnitude_masks(model, 0.8)
    masks.attach(optimizer)
    masks.apply(average.module)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, enabled=dtype == torch.float16)
    start = {name: masks[name].clone() for name in masks}
    scales = []
    for seed in range(14):
        x = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = F.cross_entropy(model(x), torch.arange(8) % 7)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        average.update_parameters(model)
        for network_of in (model, average.module):
            weights = dict(network_of.named_parameters())
            assert all(weights[name].isfinite().all() and not weights[name][~start[name]].any() for name in masks)
    assert dtype == torch.bfloat16 or scales[-1] < 2.0**24  # steps were skipped, and steps were taken
    assert scales[-1] == scales[-2]


def test_held_against_momentum_that_comes_back():
    """A checkpoint of the optimizer from before the cut, loaded after it."""
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    train(model, optimizer)
    past = copy.deepcopy(optimizer.state_dict())
    masks = magnitude_masks(model, 0.8)
    masks.attach(optimizer)
    optimizer.load_state_dict(past)
    train(model, optimizer, steps=1)
    assert Masks.from_nonzero(model).n_kept == masks.n_kept


def test_an_average_of_masked_weights_stays_masked():
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    masks = magnitude_masks(model, 0.9)
    masks.attach(optimizer)
    masks.apply(average.module)
    average.update_parameters(model)
    for _ in range(3):
        train(model, optimizer, steps=1)
        average.update_parameters(model)
    assert Masks.from_nonzero(average.module).n_kept == masks.n_kept


def test_survives_saving():
    model = network()
    masks = magnitude_masks(model, 0.7)
    buffer = io.BytesIO()
    torch.save(masks.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert Masks.from_state_dict(model, state | {"bound": ["0.weight"]}).bound == ("0.weight",)
    assert sum(len(bits) for bits in state["bits"].values()) == -(-90 // 8) + -(-560 // 8)
    other = Masks.from_state_dict(copy.deepcopy(model), state)
    assert all(torch.equal(other[name], masks[name]) for name in masks)
    with pytest.raises(ValueError, match="belong"):
        Masks.from_state_dict(nn.Linear(4, 4), state)
    wrong = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(80, 8))
    with pytest.raises(ValueError, match=r"2\.weight"):
        Masks.from_state_dict(wrong, state)


def test_read_back_beside_a_layer_that_was_left_out():
    """A weight that is computed can't be pruned, and was not."""
    model = nn.Sequential(nn.Linear(6, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 2)))
    masks = magnitude_masks(model, 0.5, exclude=["1"])
    assert Masks.from_state_dict(model, masks.state_dict()).n_kept == masks.n_kept == 18


def test_another_support_is_taken_up_at_once():
    model = network()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    masks = magnitude_masks(model, 0.5)
    masks.attach(optimizer)
    train(model, optimizer)
    smaller = magnitude_masks(model, 0.8)
    masks.replace(smaller)
    weights = dict(model.named_parameters())
    for _ in range(2):
        assert masks.n_kept == 130 == sum(int(weights[name].count_nonzero()) for name in masks)
        for name in masks:
            state = optimizer.state[weights[name]]
            assert not any(state[key][~masks[name]].any() for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
        train(model, optimizer, steps=1)
    with pytest.raises(ValueError, match="belong"):
        masks.replace({"0.weight": masks["0.weight"]})


def test_counts():
    model = network()
    with torch.no_grad():
        model[0].weight[:2] = 0
    masks = Masks.from_nonzero(model)
    assert masks.kept() == {"0.weight": (54, 90), "2.weight": (560, 560)}
    assert (masks.n_kept, masks.n_total) == (614, 650)
    assert "614 of 650 weights kept (94.46%)" in str(masks)


def test_channels_last_and_nan():
    model = network().to(memory_format=torch.channels_last)
    masks = magnitude_masks(model, 0.5)
    with torch.no_grad():
        model[0].weight[~masks["0.weight"]] = float("nan")
    masks.apply()
    assert model[0].weight.isfinite().all() and int((model[0].weight != 0).sum()) == masks.kept()["0.weight"][0]


def test_what_would_not_be_held_is_refused():
    model, other = network(), network()
    masks = magnitude_masks(model, 0.8)
    with pytest.raises(ValueError, match="trains none"):
        masks.attach(torch.optim.SGD(other.parameters(), 0.1))
    with pytest.raises(ValueError, match=r"has no 0\.weight, 2\.weight"):
        masks.apply(AveragedModel(model))
    masks.apply(AveragedModel(model).module)
    model.requires_grad_(False)
    masks.attach(torch.optim.SGD(other.parameters(), 0.1))  # frozen weights stay what they are
    with pytest.raises(ValueError, match="has its own"):
        magnitude_masks(model, constraint=LayerwiseRatio(0.5), floor=0.1)


def test_held_through_an_optimizer_for_each_layer():
    model = network()
    masks = magnitude_masks(model, 0.8)
    optimizers = [torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9) for layer in (model[0], model[2])]
    for optimizer in optimizers:
        masks.attach(optimizer)
    for optimizer in optimizers:
        train(model, optimizer)
    assert masks.n_kept == sum(int((model[place].weight != 0).sum()) for place in (0, 2))


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_descends_on_what_is_left(line_search):
    model = network()
    masks = magnitude_masks(model, 0.8)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.3, max_iter=8, line_search_fn=line_search)
    masks.attach(optimizer)
    descend, losses = closure_of(model, optimizer), []

    def closure():
        # Also between the two ends of a step, where the optimizer looks around.
        assert holds(masks, model)
        losses.append(descend())
        return losses[-1]

    for _ in range(8):
        optimizer.step(closure)
    assert losses[-1] < 0.1 * losses[0]


def test_a_closure_that_breaks_off_leaves_the_support_as_it_is():
    model = network()
    masks = magnitude_masks(model, 0.8)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    masks.attach(optimizer)
    descend, calls = closure_of(model, optimizer), []

    def closure():
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return descend()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert holds(masks, model)


def test_copies_are_held_once_they_are_attached():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masks = magnitude_masks(model, 0.8)
    masks.attach(optimizer)
    train(model, optimizer)
    for copied in (copy.deepcopy((model, optimizer, masks)), pickle.loads(pickle.dumps((model, optimizer, masks)))):
        other, its_optimizer, its_masks = copied
        its_masks.attach(its_optimizer)
        train(other, its_optimizer)
        train(model, optimizer)
        assert holds(its_masks, other) and holds(masks, model)


def test_held_with_its_momentum_where_a_closure_computes_the_gradients():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masks = magnitude_masks(model, 0.8)
    masks.attach(optimizer)
    for _ in range(3):
        optimizer.step(closure=closure_of(model, optimizer))
    for name, weight in model.named_parameters():
        if name in masks:
            for value in (weight, optimizer.state[weight]["momentum_buffer"]):
                assert torch.count_nonzero(value[~masks[name]]) == 0 and torch.count_nonzero(value)


def test_another_default_device_changes_nothing():
    model = network()
    masks = magnitude_masks(model, 0.8, importance="lamp")
    with torch.device("meta"):
        same = Masks.from_state_dict(model, masks.state_dict())
        again = magnitude_masks(model, 0.8, importance="lamp")
    for name in masks:
        assert torch.equal(masks[name], same[name]) and torch.equal(masks[name], again[name])


def test_a_network_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"mask of weight is \(1, 20\), its weights are \(50, 20\)"):
        magnitude_masks(nn.Linear(20, 1), 0.5).apply(nn.Linear(20, 50))


def test_masks_are_a_mapping_and_take_one_another():
    model = network()
    masks, others = magnitude_masks(model, 0.5), magnitude_masks(model, 0.8)
    assert len(masks) == 2 and list(masks.keys()) == ["0.weight", "2.weight"] and "0.bias" not in masks
    assert masks == masks and masks != others and len({masks, others}) == 2
    masks.replace(others)
    assert all(torch.equal(mask, others[name]) for name, mask in masks.items())


@pytest.mark.parametrize(
    "take", [Masks.from_state_dict, lambda model, state: magnitude_masks(model, 0.5).load_state_dict(state)]
)
def test_what_is_no_state_of_masks_is_refused(take):
    model = network()
    for state in (model.state_dict(), {}, {"bits": {}}):
        with pytest.raises(ValueError, match="its own state_dict"):
            take(model, state)


def test_masks_that_do_not_fit_are_not_taken_in_part():
    masks = magnitude_masks(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 0.5)
    other = magnitude_masks(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), 0.9)
    before = {name: masks[name] for name in masks}
    for take in (lambda: masks.load_state_dict(other.state_dict()), lambda: masks.replace(other)):
        with pytest.raises(ValueError, match=r"the mask of 1\.weight"):
            take()
        assert all(torch.equal(masks[name], mask) for name, mask in before.items())
