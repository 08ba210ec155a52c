"""The network as a whole."""

import gc
import warnings
import weakref

import pytest
import torch
from official import BUILT, REFUSED

from detect_prune.darknet import CfgWarning, Darknet, load_cfg, parse_cfg, read_weights
from detect_prune.darknet.plan import plan_network
from detect_prune.darknet.steps import Head, max_stride, plan_sizes
from detect_prune.detection.loss import YoloLoss
from detect_prune.errors import DetectPruneError
from detect_prune.resources import packaged_folder

TINY = packaged_folder("cfg") / "yolov4-tiny.cfg"


@pytest.fixture(scope="module")
def tiny():
    """yolov4-tiny for 64 x 96 pixels (width, height), with fresh weights."""
    torch.manual_seed(0)
    return Darknet(load_cfg(TINY).with_input_size(64, 96)).eval()


def test_what_the_network_says_of_itself(tiny):
    assert tiny.input_size == (64, 96)
    assert max_stride(tiny.steps) == 32
    assert tiny.num_classes == 80
    assert len(tiny.layers) == len(tiny.cfg.layers) == 38
    assert [head.layer for head in tiny.heads] == [30, 37]


def test_a_batch_equals_its_pictures_one_by_one(calibrate):
    net = calibrate(Darknet(load_cfg(TINY).with_input_size(64, 96)))
    x = torch.rand(3, 3, 96, 64)
    with torch.no_grad():
        together = net(x)
        for index in range(3):
            for a, b in zip(together, net(x[index : index + 1])):
                torch.testing.assert_close(a[index : index + 1], b, rtol=1e-4, atol=1e-4)


def test_any_multiple_of_the_largest_stride(tiny):
    for width, height in ((32, 32), (64, 96), (160, 32)):
        with torch.no_grad():
            raws = tiny(torch.rand(1, 3, height, width))
        assert [tuple(raw.shape) for raw in raws] == [
            (1, 255, height // 32, width // 32),
            (1, 255, height // 16, width // 16),
        ]


def test_a_size_that_does_not_fit_names_the_route(tiny):
    with pytest.raises(
        DetectPruneError,
        match=r"yolov4-tiny.cfg:\d+: .*different sizes .* 70x96 is no multiple of the largest stride, 32",
    ):
        tiny(torch.rand(1, 3, 96, 70))


def test_the_name_of_the_file_changes_nothing(tmp_path, tiny):
    (tmp_path / "yolov3.cfg").write_text(TINY.read_text())
    renamed = Darknet(load_cfg(tmp_path / "yolov3.cfg"))
    assert [s.scale for s in renamed.steps] == [s.scale for s in tiny.steps]


def test_maps_are_let_go_after_their_last_reader(tiny):
    maps = {}
    alive = []

    def remember(index):
        def hook(_module, _inputs, output):
            # An identity route hands its input on; a map is known by the first layer that made it.
            maps.setdefault(id(output), (index, weakref.ref(output)))
            alive.append({made for made, ref in maps.values() if ref() is not None and made != index})

        return hook

    hooks = [layer.register_forward_hook(remember(index)) for index, layer in enumerate(tiny.layers)]
    with torch.no_grad():
        tiny(torch.rand(1, 3, 96, 64))
    for hook in hooks:
        hook.remove()
    gc.collect()
    # While layer 20 is made: its input and layer 18, which the block's last route reads; nothing of the blocks before.
    assert alive[20] <= {18, 19}
    # While the last convolution runs, only what it reads.
    assert alive[36] <= {29, 35}
    assert max(map(len, alive)) <= 5


def test_fresh_heads_are_calm(tiny):
    """Objects are rare at the start, boxes near their anchors, and nothing is nan or extreme."""
    net = Darknet(load_cfg(TINY).with_input_size(64, 96)).train()
    for raw in net(torch.rand(4, 3, 96, 64)):
        boxes = raw.unflatten(1, (3, 85))
        assert boxes[:, :, 4].sigmoid().mean() < 0.02
        assert boxes[:, :, :4].abs().max() < 2
        assert boxes.isfinite().all()


def test_fresh_layers_keep_the_scale_of_what_goes_through():
    """Without batch norm's help (evaluation mode, statistics 0 and 1) activations neither vanish nor explode."""
    torch.manual_seed(0)
    net = Darknet(load_cfg(packaged_folder("cfg") / "yolov3-tiny.cfg").with_input_size(64, 64)).eval()
    scales = []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: scales.append(out.std().item())) for layer in net.layers]
    with torch.no_grad():
        net(torch.randn(2, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert all(0.1 < scale < 10 for scale in scales[:15])


def test_gradients_reach_every_weight():
    net = Darknet(load_cfg(TINY).with_input_size(64, 64)).train()
    sum(raw.square().mean() for raw in net(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.abs().sum() > 0 for name, p in net.named_parameters() if name.endswith("conv.weight"))


def test_channels_last_and_bf16(calibrate):
    net = calibrate(Darknet(load_cfg(TINY).with_input_size(64, 96)))
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        plain = net(x)
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x)
    for a, b, c in zip(plain, last, half):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert c.dtype == torch.float32
        assert (a - c).abs().mean() < 0.05 * a.abs().mean()


@pytest.mark.parametrize("new_coords", [0, 1])
def test_a_confident_mistake_learns_in_bf16(new_coords):
    """The gradient of an objectness with a logit of 8 and nothing there, before the activation."""
    net = Darknet(
        parse_cfg(
            "[net]\nwidth=32\nheight=32\n[convolutional]\nsize=32\nstride=32\nfilters=7\n"
            f"activation={'logistic' if new_coords else 'linear'}\n"
            f"[yolo]\nclasses=2\nanchors=8,8\nnew_coords={new_coords}\n"
        )
    )
    conv = net.layers[0].conv
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.fill_(8.0)
    with torch.autocast("cpu", torch.bfloat16):
        raws = net(torch.zeros(1, 3, 32, 32))
    loss, _ = YoloLoss(net.heads)(raws, torch.zeros(0, 6), (32, 32))
    loss.backward()
    assert conv.bias.grad[4].item() == pytest.approx(1, abs=0.01)


def test_traced_network_gives_the_same(tiny):
    x = torch.rand(1, 3, 96, 64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch calls its own tracer deprecated
        traced = torch.jit.trace(tiny, x)
        other = torch.rand(2, 3, 96, 64)
        for a, b in zip(traced(other), tiny(other)):
            torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::detect_prune.darknet.CfgWarning")
def test_official_networks_are_planned_or_say_why_not(real_data):
    planned = []
    for path in sorted((real_data / "darknet/cfg").glob("*.cfg")):
        if path.name in REFUSED or "[region]" in path.read_text():
            with pytest.raises(DetectPruneError, match=f":[0-9]+: .*{REFUSED.get(path.name, 'region')}.*not supported"):
                plan_network(load_cfg(path))
            continue
        planned.append(path.name)
    assert tuple(planned) == BUILT


@pytest.mark.filterwarnings("ignore::detect_prune.darknet.CfgWarning")
@pytest.mark.parametrize("name", BUILT)
def test_official_networks_take_any_multiple_of_the_largest_stride(name, official_cfg):
    cfg = official_cfg(name)
    steps = plan_network(cfg)
    side = max_stride(steps)
    for columns, rows in ((1, 1), (2, 1), (3, 5)):
        sizes = plan_sizes(steps, (columns * side, rows * side))
        for step in (step for step in steps if isinstance(step, Head)):
            x, y = step.scale
            assert sizes[step.index] == (columns * side // x, rows * side // y)
    with pytest.raises(DetectPruneError, match="multiple of the largest stride"):
        plan_sizes(steps, (2 * side, side + side // 2 - 2))


@pytest.mark.filterwarnings("ignore::detect_prune.darknet.CfgWarning")
@pytest.mark.parametrize("name", BUILT)
def test_official_cfgs_survive_writing_and_renaming(name, official_cfg):
    cfg = official_cfg(name)
    again = parse_cfg(cfg.text(), "yolov2-tiny.cfg")
    assert again == cfg
    # Sections are compared by their text, and everything else of a step comes from them: the file's name does not.
    assert [step.spec for step in plan_network(again) if isinstance(step, Head)] == [
        step.spec for step in plan_network(cfg) if isinstance(step, Head)
    ]
    assert [(step.sources, step.channels, step.scale, step.floats) for step in plan_network(again)] == [
        (step.sources, step.channels, step.scale, step.floats) for step in plan_network(cfg)
    ]


@pytest.mark.parametrize("name", ["yolo-fastest-1.1/yolo-fastest-1.1", "yolov4-tiny/yolov4-tiny"])
def test_real_weights_run_without_a_warning(name, real_data):
    """Weights that were read into the wrong places would not keep the activations in bounds."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CfgWarning)
        net = Darknet(load_cfg(real_data / f"weights/{name}.cfg"))
    read_weights(net, real_data / f"weights/{name}.weights")
    with torch.no_grad():
        for raw in net.eval()(torch.rand(1, 3, 96, 96)):
            assert raw.isfinite().all() and raw.abs().max() < 100
            assert raw.unflatten(1, (3, 85))[:, :, 4].mean() < -3  # noise holds next to no objects
