"""LeNet-5 and the CIFAR ResNets: published sizes, published weights, and an independent forward pass."""

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detect_prune.classification import (
    ARCHITECTURES,
    LeNet5,
    ResNetCifar,
    find_architecture,
)
from detect_prune.errors import DetectPruneError
from detect_prune.tensors import load_state


@pytest.mark.parametrize("depth, millions", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_sizes_are_those_of_the_paper(depth, millions):
    """He et al. 2015, table 6."""
    model = ResNetCifar(depth)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_lenet_as_built_is_caffe_s_in_training_too():
    model, pictures = LeNet5().train(), torch.rand(4, 1, 28, 28)
    plain = model(pictures)
    torch.testing.assert_close(model.eval()(pictures), plain)
    model.train().dropout.p = 0.5
    assert not torch.allclose(model(pictures), plain)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"conv1", "conv2", "fc1", "fc2"}


def test_impossible_depths_are_refused():
    with pytest.raises(ValueError, match="6n"):
        ResNetCifar(54)


def reference_resnet(state, x):
    """The forward pass from the published parameters alone, block by block."""

    def norm(x, name):
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        scale = weight / (var + 1e-5).sqrt()
        return x * scale.view(1, -1, 1, 1) + (bias - mean * scale).view(1, -1, 1, 1)

    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").relu()
    names = sorted({name.rpartition(".conv1")[0] for name in state if name.startswith("layer") and ".conv1" in name})
    for name in sorted(names, key=lambda n: (n[:6], int(n.rpartition(".")[2]))):
        weight = state[f"{name}.conv1.weight"]
        stride = 2 if weight.shape[0] != weight.shape[1] else 1
        y = norm(F.conv2d(x, weight, stride=stride, padding=1), f"{name}.bn1").relu()
        y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        if stride == 2:
            zeros = torch.zeros_like(x[:, : x.shape[1] // 2, ::2, ::2])
            x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
        x = (x + y).relu()
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize("depth, name", [(20, "resnet20-12fca82f.th"), (56, "resnet56-4bfd9763.th")])
def test_published_weights_give_the_reference_forward_pass(real_data, depth, name):
    path = real_data / "resnet-cifar" / name
    model = find_architecture(f"resnet{depth}").build(10)
    load_state(model, path)
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    state = {key.removeprefix("module."): value.double() for key, value in state.items()}
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        torch.testing.assert_close(model.double().eval()(x), reference_resnet(state, x), rtol=1e-9, atol=1e-9)


def test_wrong_files_are_refused_with_their_name(tmp_path):
    model = LeNet5()
    with pytest.raises(DetectPruneError, match="no such file"):
        load_state(model, tmp_path / "none.th")
    text = tmp_path / "text.th"
    text.write_text("hello")
    cut = tmp_path / "cut.th"
    torch.save(model.state_dict(), cut)
    cut.write_bytes(cut.read_bytes()[:5000])
    code = tmp_path / "code.th"
    code.write_bytes(pickle.dumps(print, protocol=2))
    for path in (text, cut, code):
        with pytest.raises(DetectPruneError, match=f"{path.name}.*not a checkpoint"):
            load_state(model, path)
    other = tmp_path / "other.th"
    torch.save(LeNet5(classes=7).state_dict(), other)
    with pytest.raises(DetectPruneError, match=r"fc2\.weight"):
        load_state(model, other)
    torch.save({"epoch": 3}, other)
    with pytest.raises(DetectPruneError, match="no state_dict"):
        load_state(model, other)
    with pytest.raises(DetectPruneError, match="lenet5"):
        find_architecture("lenet6")


@pytest.mark.parametrize("name, value", [("conv1.weight", float("nan")), ("bn1.running_var", -1.0)])
def test_damaged_weights_are_refused(tmp_path, name, value):
    model = find_architecture("resnet20").build(10)
    state = model.state_dict()
    state[name].view(-1)[0] = value
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(DetectPruneError, match=rf"a\.pt: {name} is not finite, or a variance below zero"):
        load_state(find_architecture("resnet20").build(10), tmp_path / "a.pt")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_takes_its_pictures(name):
    architecture = find_architecture(name)
    pictures = torch.randint(0, 256, (2, *architecture.input_shape), dtype=torch.uint8)
    ready = architecture.prepare(pictures)
    channel = (pictures[1, 0, 3, 4].item() / 255 - architecture.mean[0]) / architecture.std[0]
    # A grey near the mean leaves only rounding of their difference: the tolerance can't be relative.
    assert ready[1, 0, 3, 4].item() == pytest.approx(channel, abs=1e-5)
    assert architecture.build(7)(ready).shape == (2, 7)
