"""The copy of a network that scores: the same numbers, and the network itself is left alone."""

import copy
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY_CFG, write_coco

from detect_prune.darknet import parse_cfg
from detect_prune.darknet.activations import ACTIVATIONS
from detect_prune.datasets import load_data
from detect_prune.errors import DetectPruneError
from detect_prune.tasks import inference
from detect_prune.tasks.detector import Detector
from detect_prune.tasks.inference import full_float32, inference_copy, to_input
from detect_prune.tasks.scoring import PROTOCOLS, find_all


@pytest.fixture
def model():
    return build(TINY_CFG)


def build(cfg: str) -> Detector:
    """With statistics and scales that a fold must not mistake for ones."""
    torch.manual_seed(0)
    model = Detector(parse_cfg(cfg))
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        for value in (norm.weight, norm.running_var):
            torch.nn.init.uniform_(value, 0.5, 2)
        for value in (norm.bias, norm.running_mean):
            torch.nn.init.uniform_(value, -0.5, 0.5)
        norm.running_var[0] = 1e-5  # as small as eps, so that it matters
    return model.eval()


def test_the_copy_gives_the_same_numbers_and_the_network_stays_as_it_is(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    network = inference_copy(model)
    assert model.training and not network.training
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    pictures = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(network(pictures), model.eval()(pictures)):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.is_contiguous()


@pytest.mark.parametrize("activation", [*inference._ONE_DNN, "mish", "elu"])
@pytest.mark.parametrize("keys", ["groups=4", "dilation=2", "antialiasing=1", ""])
def test_activations_and_kinds_of_convolution(activation, keys, monkeypatch):
    assert activation in ACTIVATIONS
    text = TINY_CFG.replace("activation=mish", f"activation={activation}\n{keys}")
    model, pictures = build(text), torch.rand(3, 3, 64, 64)
    fused = inference_copy(model)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = inference_copy(model)
    kinds = [{type(layer).__name__ for layer in network.layers} for network in (fused, plain)]
    assert "_Fused" in kinds[0] and "_Fused" not in kinds[1]
    with torch.inference_mode():
        for network in (fused, plain):
            for ours, theirs in zip(network(to_input(pictures, network)), model(pictures)):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_pictures_become_inputs_between_0_and_1(model):
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(to_input(pictures, model), pictures.float() / 255)
    assert torch.equal(to_input(pictures.float() / 255, model), pictures.float() / 255)
    last = model.to(memory_format=torch.channels_last)
    assert to_input(pictures, last).is_contiguous(memory_format=torch.channels_last)


def test_a_network_of_1x1_kernels_takes_pictures():
    model = Detector(parse_cfg(TINY_CFG.replace("size=3", "size=1")))
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(to_input(pictures, model), pictures.float() / 255)


def tf32_allowed() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture
def tf32():
    places, before = (torch.backends.cudnn, torch.backends.cuda.matmul), tf32_allowed()
    for place in places:
        place.allow_tf32 = True
    yield
    for place, allowed in zip(places, before):
        place.allow_tf32 = allowed


def settings():
    """Of float32's precision, by both of torch's names; None where it refuses to tell."""
    backends, found = torch.backends, []
    for place, name in (
        (backends.cudnn, "allow_tf32"),
        (backends.cuda.matmul, "allow_tf32"),
        *((place, "fp32_precision") for place in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)),
        *((place, "fp32_precision") for place in (backends.mkldnn.conv, backends.mkldnn.matmul)),
    ):
        try:
            found.append(getattr(place, name))
        except (RuntimeError, AttributeError):
            found.append(None)
    return found


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has the older names only")
@pytest.mark.parametrize(
    "choose",
    [
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    ],
)
def test_float32_s_settings_are_put_back_whichever_name_set_them(choose, tf32):
    choose()
    chosen = settings()
    try:
        with full_float32(), full_float32():
            assert settings() == [False, False, "ieee", "ieee", "ieee", "ieee", "ieee"]
        assert settings() == chosen
    finally:
        torch.set_float32_matmul_precision("highest")


def test_of_several_threads_the_last_one_puts_the_settings_back(tf32):
    entered, left = threading.Event(), threading.Event()

    def first():
        with full_float32():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with full_float32():
        left.set()
        thread.join()
        assert tf32_allowed() == (False, False)
    assert tf32_allowed() == (True, True)


def test_what_is_found_can_be_worked_with(model):
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    found = model.predict(picture, score_threshold=0.001)
    found.boxes.mul_(2)
    halved = copy.deepcopy(model).double().predict(picture, score_threshold=0.001)
    assert abs(len(halved) - len(found)) <= 2
    for wrong in (None, [picture], torch.zeros(3, 64, 96)):
        with pytest.raises(DetectPruneError, match=r"a picture is a file, or an array \(height, width, 3\)"):
            model.predict(wrong)


def test_tf32_is_off_for_a_while(tf32):
    with pytest.raises(KeyboardInterrupt), full_float32():
        assert tf32_allowed() == (False, False)
        raise KeyboardInterrupt
    assert tf32_allowed() == (True, True)


@pytest.mark.parametrize(
    "run",
    [
        lambda model, data: find_all(model, data, PROTOCOLS["coco"], batch=2, quiet=True),
        lambda model, data: model.predict(data.path(0)),
    ],
)
def test_whoever_looks_for_boxes_does_it_without_tf32(model, tf32, tmp_path, monkeypatch, run):
    forward, seen = Detector.forward, []

    def watched(self, inputs):
        seen.append(tf32_allowed())
        return forward(self, inputs)

    monkeypatch.setattr(Detector, "forward", watched)
    run(model, load_data(write_coco(tmp_path / "squares", classes=2), splits=("val",)).val)
    assert set(seen) == {(False, False)} and tf32_allowed() == (True, True)


def test_a_picture_may_be_a_view_of_another_size_or_the_network_s(model):
    width, height = model.input_size
    for size in ((height, width), (40, 50)):
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        seen = [model.predict(one, score_threshold=0.001) for one in (picture[..., ::-1], picture[..., ::-1].copy())]
        assert len(seen[0]) > 0 and torch.equal(seen[0].boxes, seen[1].boxes)


def test_float32_on_a_gpu_is_as_on_the_processor(model, gpu):
    pictures = torch.rand(2, 3, 64, 96)
    with torch.inference_mode(), full_float32():
        for theirs, ours in zip(model(pictures), inference_copy(model.to(gpu))(pictures.to(gpu))):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-5)


def test_a_photograph_is_seen_as_its_viewers_show_it(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    pixels = np.random.default_rng(0).integers(0, 256, (80, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned, upright = (model.predict(one, score_threshold=1e-4) for one in (tmp_path / "a.png", np.rot90(pixels, -1)))
    assert len(upright.boxes) and np.array_equal(turned.boxes, upright.boxes)
