"""Every section against a naive reference: loops that follow Darknet's C, in float64."""

import math

import numpy as np
import pytest
import torch
from tiny import TINY_CFG

from detect_prune.darknet import Darknet, parse_cfg
from detect_prune.darknet.activations import ACTIVATIONS


def picture(width=12, height=8, batch=2, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.3


def naive_convolution(x, weight, bias, stride=(1, 1), padding=0, dilation=1, groups=1):
    """convolutional_layer.c with im2col_cpu_ext: stride is (x, y); padding, on each side, counts dilated pixels."""
    batch, _, height, width = x.shape
    out, per_group, k, _ = weight.shape
    reach = dilation * (k - 1) + 1
    h, w = (height + 2 * padding - reach) // stride[1] + 1, (width + 2 * padding - reach) // stride[0] + 1
    y = np.zeros((batch, out, h, w))
    for b, o, i, j in np.ndindex(y.shape):
        first = o // (out // groups) * per_group
        total = bias[o]
        for c, m, n in np.ndindex(per_group, k, k):
            row, col = i * stride[1] - padding + m * dilation, j * stride[0] - padding + n * dilation
            if 0 <= row < height and 0 <= col < width:
                total += weight[o, c, m, n] * x[b, first + c, row, col]
        y[b, o, i, j] = total
    return y


def naive_pool(x, size, stride, padding, average=False):
    """maxpool_layer.c: windows start -(padding // 2) pixels off on both axes; only pixels of the map count."""
    batch, channels, height, width = x.shape
    h, w = (height + padding - size) // stride[1] + 1, (width + padding - size) // stride[0] + 1
    y = np.zeros((batch, channels, h, w))
    for b, c, i, j in np.ndindex(y.shape):
        top, left = i * stride[1] - padding // 2, j * stride[0] - padding // 2
        seen = x[b, c, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
        y[b, c, i, j] = seen.mean() if average else seen.max()
    return y


def naive_blur(x, size, stride):
    row = np.array([1, 2, 1]) / 4 if size == 3 else np.array([1, 1]) / 2
    weight = np.broadcast_to(np.outer(row, row), (x.shape[1], 1, size, size))
    return naive_convolution(x, weight, np.zeros(x.shape[1]), stride, 1 if size == 3 else 0, groups=x.shape[1])


def run(small_cfg, all_maps, layers, width=12, height=8, seed=0):
    """(network in float64, the maps of all its layers) for the given sections."""
    torch.manual_seed(seed)
    net = Darknet(small_cfg(layers, width, height)).double().eval()
    return net, [m.numpy() for m in all_maps(net, picture(width, height))]


CONVOLUTION = "[convolutional]\nfilters=4\nsize=3\npad=1\nactivation={}\n"


@pytest.mark.parametrize(
    "options, expected",
    [
        ("size=3\npad=1", {"padding": 1}),
        ("size=3\nstride=2\npad=1", {"padding": 1, "stride": (2, 2)}),
        ("size=3\nstride_x=2\nstride_y=1\npad=1", {"padding": 1, "stride": (2, 1)}),
        ("size=3\nstride=3\nstride_y=2\npad=1", {"padding": 1, "stride": (3, 2)}),
        ("size=3\ndilation=2\npad=1", {"padding": 2, "dilation": 2}),
        ("size=3\ndilation=3\npadding=1\nstride=2", {"padding": 3, "dilation": 3, "stride": (2, 2)}),
        ("size=1\ndilation=4\npad=1", {"padding": 0}),
        ("size=1\ndilation=4\npadding=1", {"padding": 1}),
        ("size=5\npadding=1", {"padding": 1}),
        ("size=2\npad=1\npadding=7", {"padding": 1}),
        ("size=3\npad=1\ngroups=2", {"padding": 1, "groups": 2}),
        ("size=3\npad=1\ngroups=4\nstride=2", {"padding": 1, "groups": 4, "stride": (2, 2)}),
    ],
)
def test_convolution(options, expected, small_cfg, all_maps):
    layers = CONVOLUTION.format("leaky") + f"[convolutional]\nfilters=8\nactivation=linear\n{options}\n"
    net, maps = run(small_cfg, all_maps, layers)
    conv = net.layers[1].conv
    torch.nn.init.normal_(conv.bias)
    maps = [m.numpy() for m in all_maps(net, picture())]
    want = naive_convolution(maps[0], conv.weight.detach().numpy(), conv.bias.detach().numpy(), **expected)
    np.testing.assert_allclose(maps[1], want, atol=1e-12)


def test_batch_norm_is_darknets(small_cfg, all_maps):
    net, _ = run(small_cfg, all_maps, CONVOLUTION.format("linear") + "batch_normalize=1\n")
    layer = net.layers[0]
    assert layer.conv.bias is None
    for tensor, low, high in ((layer.norm.weight, 0.5, 2), (layer.norm.bias, -1, 1), (layer.norm.running_mean, -1, 1),
                              (layer.norm.running_var, 1e-6, 1)):  # fmt: skip
        torch.nn.init.uniform_(tensor, low, high)
    (y, *_) = all_maps(net, picture())
    plain = naive_convolution(picture().numpy(), layer.conv.weight.detach().numpy(), np.zeros(4), padding=1)
    beta, gamma, mean, variance = (
        t.detach().numpy()[:, None, None]
        for t in (layer.norm.bias, layer.norm.weight, layer.norm.running_mean, layer.norm.running_var)
    )
    np.testing.assert_allclose(y.numpy(), (plain - mean) / np.sqrt(variance + 1e-5) * gamma + beta, atol=1e-10)


@pytest.mark.parametrize("antialiasing, size", [(1, 3), (2, 2)])
@pytest.mark.parametrize("width, height", [(12, 8), (11, 9)])
def test_antialiasing_blurs_after_the_activation_and_strides_there(
    antialiasing, size, width, height, small_cfg, all_maps
):
    layers = CONVOLUTION.format("leaky") + f"stride_x=2\nstride_y=3\nantialiasing={antialiasing}\n"
    net, maps = run(small_cfg, all_maps, layers, width, height)
    conv = net.layers[0].conv
    y = naive_convolution(picture(width, height).numpy(), conv.weight.detach().numpy(), np.zeros(4), padding=1)
    np.testing.assert_allclose(maps[0], naive_blur(np.where(y > 0, y, 0.1 * y), size, (2, 3)), atol=1e-12)
    assert not [name for name in net.state_dict() if "blur" in name]


@pytest.mark.parametrize("width, height", [(12, 8), (11, 9)])
@pytest.mark.parametrize(
    "options, size, stride, padding",
    [
        ("size=2\nstride=2", 2, (2, 2), 1),
        ("size=2\nstride=1", 2, (1, 1), 1),
        ("stride=2", 2, (2, 2), 1),
        ("size=3\nstride=2", 3, (2, 2), 2),
        ("size=4\nstride=3", 4, (3, 3), 3),
        ("size=5\nstride=1", 5, (1, 1), 4),
        ("size=13\nstride=1", 13, (1, 1), 12),
        ("size=3\nstride_x=2\nstride_y=1", 3, (2, 1), 2),
        ("size=2\nstride=2\npadding=0", 2, (2, 2), 0),
        ("size=3\nstride=1\npadding=4", 3, (1, 1), 4),
        ("size=2\nstride=3\npadding=2", 2, (3, 3), 2),
    ],
)
@pytest.mark.parametrize("kind", ["maxpool", "local_avgpool"])
def test_pooling(kind, options, size, stride, padding, width, height, small_cfg, all_maps):
    layers = CONVOLUTION.format("linear") + f"[{kind}]\n{options}\n"
    _, maps = run(small_cfg, all_maps, layers, width, height)
    # All values negative: padding that counted as 0 would win every maximum.
    maps_in = maps[0] - 10
    net = Darknet(small_cfg(layers, width, height)).double()
    got = net.layers[1](torch.from_numpy(maps_in)).numpy()
    np.testing.assert_allclose(got, naive_pool(maps_in, size, stride, padding, kind == "local_avgpool"), atol=1e-12)


def test_antialiased_pooling(small_cfg, all_maps):
    _, maps = run(small_cfg, all_maps, CONVOLUTION.format("linear") + "[maxpool]\nsize=2\nstride=2\nantialiasing=1\n")
    np.testing.assert_allclose(maps[1], naive_blur(naive_pool(maps[0], 2, (1, 1), 1), 3, (2, 2)), atol=1e-12)


@pytest.mark.parametrize("out", [1, 2, 3, 4])
def test_depth_pooling(out, small_cfg, all_maps):
    _, maps = run(
        small_cfg, all_maps, CONVOLUTION.format("linear") + f"[maxpool]\nmaxpool_depth=1\nout_channels={out}\n"
    )
    # maxpool_layer.c: for (k = g; k < l.c; k += l.out_c)
    want = np.stack([np.max([maps[0][:, k] for k in range(g, 4, out)], 0) for g in range(out)], 1)
    np.testing.assert_array_equal(maps[1], want)


def test_route_takes_the_same_slice_of_each(small_cfg, all_maps):
    layers = CONVOLUTION.format("linear") + "[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"
    _, maps = run(small_cfg, all_maps, layers + "[route]\nlayers=-1,0\n[route]\nlayers=1,-3\ngroups=2\ngroup_id=1\n")
    np.testing.assert_array_equal(maps[2], np.concatenate([maps[1], maps[0]], 1))
    np.testing.assert_array_equal(maps[3], np.concatenate([maps[1][:, 3:], maps[0][:, 2:]], 1))


THREE = "".join(f"[convolutional]\nfilters={n}\nsize=1\nactivation=linear\n" for n in (3, 8, 5))


def test_shortcut_adds_the_common_channels_of_several(small_cfg, all_maps):
    _, maps = run(small_cfg, all_maps, THREE + "[shortcut]\nfrom=-2,0\nactivation=leaky\n")
    want = maps[2].copy()  # 5 channels; layer 1 has more, layer 0 fewer
    want += maps[1][:, :5]
    want[:, :3] += maps[0]
    np.testing.assert_allclose(maps[3], np.where(want > 0, want, 0.1 * want), atol=1e-12)


@pytest.mark.parametrize("kind, count", [("per_feature", 1), ("per_layer", 1), ("per_channel", 5)])
@pytest.mark.parametrize("normalization", ["none", "relu", "avg_relu", "softmax"])
def test_weighted_shortcut(kind, count, normalization, small_cfg, all_maps):
    layers = (
        THREE
        + f"[shortcut]\nfrom=-2,0\nactivation=linear\nweights_type={kind}\nweights_normalization={normalization}\n"
    )
    net, _ = run(small_cfg, all_maps, layers)
    torch.nn.init.normal_(net.layers[3].weights)
    maps = [m.numpy() for m in all_maps(net, picture())]
    flat = net.layers[3].weights.detach().numpy().ravel()  # as the file has them
    want = np.zeros_like(maps[3])
    for c in range(5):
        row = [flat[s * count + (c if count > 1 else 0)] for s in range(3)]
        if normalization in ("relu", "avg_relu"):
            row = [max(w, 1e-3) for w in row]
        elif normalization == "softmax":
            row = [math.exp(w - max(row)) for w in row]
        if normalization != "none":
            row = [w / (sum(row) + 1e-4) for w in row]
        for weight, other in zip(row, (maps[2], maps[1], maps[0])):
            if c < other.shape[1]:
                want[:, c] += weight * other[:, c]
    np.testing.assert_allclose(maps[3], want, atol=1e-12)


def test_sam_and_scale_channels(small_cfg, all_maps):
    layers = CONVOLUTION.format("linear") * 2 + "[sam]\nfrom=-2\nactivation=relu\n"
    layers += "[avgpool]\n[convolutional]\nfilters=4\nsize=1\nactivation=logistic\n[scale_channels]\nfrom=2\n"
    layers += "[convolutional]\nfilters=1\nsize=1\nactivation=linear\n"
    layers += "[scale_channels]\nfrom=-2\nscale_wh=1\nactivation=leaky\n"
    _, maps = run(small_cfg, all_maps, layers)
    np.testing.assert_allclose(maps[2], np.maximum(maps[1] * maps[0], 0), atol=1e-12)
    np.testing.assert_allclose(maps[3][:, :, 0, 0], maps[2].mean((2, 3)), atol=1e-12)
    np.testing.assert_allclose(maps[5], maps[2] * maps[4], atol=1e-12)
    product = maps[5] * maps[6]
    np.testing.assert_allclose(maps[7], np.where(product > 0, product, 0.1 * product), atol=1e-12)


def test_upsample_repeats_and_scales(small_cfg, all_maps):
    _, maps = run(small_cfg, all_maps, CONVOLUTION.format("linear") + "stride=2\n[upsample]\nstride=2\nscale=0.5\n")
    np.testing.assert_allclose(maps[1], 0.5 * maps[0].repeat(2, 2).repeat(2, 3), atol=1e-12)


def darknet_reorg(flat, w, h, c, stride):
    """reorg_cpu with forward=0 for one picture: `w`, `h`, `c` are what its loops run over."""
    out, in_c = np.zeros_like(flat), c // stride**2
    for k, j, i in np.ndindex(c, h, w):
        c2, offset = k % in_c, k // in_c
        w2, h2 = i * stride + offset % stride, j * stride + offset // stride
        out[i + w * (j + h * k)] = flat[w2 + w * stride * (h2 + h * stride * c2)]
    return out


@pytest.mark.parametrize("kind", ["reorg3d", "reorg"])
def test_reorg(kind, small_cfg, all_maps):
    _, maps = run(small_cfg, all_maps, CONVOLUTION.format("linear") + f"[{kind}]\nstride=2\n")
    assert maps[1].shape == (2, 16, 4, 6)
    # reorg3d loops over the output's shape, the old reorg over the input's: that is all the difference.
    w, h, c = (6, 4, 16) if kind == "reorg3d" else (12, 8, 4)
    for got, x in zip(maps[1], maps[0]):
        np.testing.assert_array_equal(got.ravel(), darknet_reorg(x.ravel(), w, h, c, 2))


def test_dropout_is_of_training_only(small_cfg, all_maps):
    net, maps = run(small_cfg, all_maps, CONVOLUTION.format("linear") + "[dropout]\nprobability=.5\n")
    np.testing.assert_array_equal(maps[1], maps[0])
    y = all_maps(net.train(), picture())[1]
    assert 0.3 < (y == 0).double().mean() < 0.7


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


FORMULAS = {
    "linear": lambda x: x,
    "leaky": lambda x: x if x > 0 else 0.1 * x,
    "revleaky": lambda x: x if x > 0 else 0.1 * x,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "swish": lambda x: x * sigmoid(x),
    "logistic": sigmoid,
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "elu": lambda x: x if x >= 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507 * (x if x >= 0 else 1.6732 * (math.exp(x) - 1)),
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x**3)),
    "hard_mish": lambda x: x if x > 0 else x * x / 2 + x if x > -2 else 0,
    "tanh": math.tanh,
    "loggy": lambda x: 2 * sigmoid(x) - 1,
    "relie": lambda x: x if x > 0 else 0.01 * x,
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "hardtan": lambda x: min(max(x, -1), 1),
    "lhtan": lambda x: 0.001 * x if x < 0 else 0.001 * (x - 1) + 1 if x > 1 else x,
    "plse": lambda x: 0.01 * (x + 4) if x < -4 else 0.01 * (x - 4) + 1 if x > 4 else 0.125 * x + 0.5,
    "stair": lambda x: math.floor(x / 2) + (x - math.floor(x) if math.floor(x) % 2 else 0),
}

# Over the channels of one place: values -> values.
CHANNEL_FORMULAS = {
    "normalize_channels": lambda v: [max(x, 0) / (1e-4 + sum(max(y, 0) for y in v)) for x in v],
    "normalize_channels_softmax": lambda v: [math.exp(x) / (1e-4 + sum(map(math.exp, v))) for x in v],
    "normalize_channels_softmax_maxval": lambda v: [
        math.exp(x - max(v)) / (1e-4 + sum(math.exp(y - max(v)) for y in v)) for x in v
    ],
}


def test_every_activation_has_a_formula():
    assert FORMULAS.keys() | CHANNEL_FORMULAS.keys() == set(ACTIVATIONS)


@pytest.mark.parametrize("name", CHANNEL_FORMULAS)
def test_activation_over_channels(name):
    x = 3 * torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = ACTIVATIONS[name](x)
    for b, i, j in np.ndindex(2, 4, 3):
        want = CHANNEL_FORMULAS[name](x[b, :, i, j].tolist())
        np.testing.assert_allclose(got[b, :, i, j].numpy(), want, atol=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
def test_activation(name):
    x = torch.linspace(-9, 9, 181, dtype=torch.float64)
    want = [FORMULAS[name](value) for value in x.tolist()]
    # Darknet writes the constants of selu and gelu with four to six digits.
    np.testing.assert_allclose(ACTIVATIONS[name](x).numpy(), want, atol=2e-4 if name in ("selu", "gelu") else 1e-9)


def test_fresh_weights_are_never_zero(monkeypatch):
    """A zero says that a weight was pruned; of so many normal draws some are zero."""
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda weight, **given: torch.nn.init.zeros_(weight))
    monkeypatch.setattr(torch.nn.init, "normal_", lambda weight, **given: torch.nn.init.zeros_(weight))
    net = Darknet(parse_cfg(TINY_CFG))
    assert all(bool(part.all()) for name, part in net.named_parameters() if part.dim() == 4)


def test_running_statistics_keep_nine_tenths_as_darknets_do(small_cfg):
    layer = "[convolutional]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=linear\n"
    net = Darknet(small_cfg(layer)).train()
    x = torch.rand(2, 3, 8, 12)
    net(x)
    mean = net.layers[0].conv(x).mean((0, 2, 3))
    torch.testing.assert_close(net.layers[0].norm.running_mean, 0.1 * mean)
