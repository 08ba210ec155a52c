"""Weights files, byte by byte."""

import struct

import numpy as np
import pytest
import torch

from detect_prune.darknet import Darknet, WeightsHeader, load_cfg, read_backbone, read_weights, write_weights
from detect_prune.errors import DetectPruneError

# 4*3*9 + 4*4 = 124 floats, then 2 of the shortcut, then 2*(4/2) + 2 = 6, then the head's 6*2 + 6 = 18.
LAYERS = """[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=mish
[maxpool]
size=2
stride=1
[shortcut]
from=0
weights_type=per_feature
[convolutional]
filters=2
groups=2
activation=linear
"""
SECTION_ENDS = (124, 126, 132, 150)


@pytest.fixture
def net(small_cfg):
    return Darknet(small_cfg(LAYERS))


def file_of(path, floats, header=WeightsHeader()):  # noqa: B008 (frozen)
    path.write_bytes(header.pack() + np.arange(1, floats + 1, dtype="<f4").tobytes())
    return path


def test_order_within_the_file(net, tmp_path):
    assert sum(step.floats for step in net.steps) == SECTION_ENDS[-1]
    read_weights(net, file_of(tmp_path / "a.weights", SECTION_ENDS[-1]))
    first, add, grouped, head = (net.layers[i] for i in (0, 2, 3, 4))
    order = [first.norm.bias, first.norm.weight, first.norm.running_mean, first.norm.running_var, first.conv.weight]
    order += [add.weights, grouped.conv.bias, grouped.conv.weight, head.conv.bias, head.conv.weight]
    flat = torch.cat([tensor.detach().flatten() for tensor in order])
    assert flat.equal(torch.arange(1.0, SECTION_ENDS[-1] + 1))
    assert first.conv.weight[1, 2, 0, 1] == 16 + 1 + ((1 * 3 + 2) * 3 + 0) * 3 + 1  # (out, in, row, column)


@pytest.mark.parametrize(
    "header, size",
    [
        (WeightsHeader(), 20),
        (WeightsHeader(0, 1, 0, 2**32 - 1), 16),
        (WeightsHeader(0, 2, 5, 2**40), 20),
        (WeightsHeader(1, 0, 0, 7), 20),
        (WeightsHeader(0, 0, 3, 7), 16),
    ],
)
def test_both_headers_and_the_round_trip(header, size, net, tmp_path):
    path = file_of(tmp_path / "a.weights", SECTION_ENDS[-1], header)
    assert path.stat().st_size == size + 4 * SECTION_ENDS[-1]
    assert read_weights(net, path) == header
    write_weights(net.to(memory_format=torch.channels_last), tmp_path / "b.weights", header)
    assert (tmp_path / "b.weights").read_bytes() == path.read_bytes()


def test_written_header_is_darknets_current_one(net, tmp_path):
    write_weights(net, tmp_path / "a.weights")
    assert (tmp_path / "a.weights").read_bytes()[:20] == struct.pack("<iiiQ", 0, 2, 5, 0)


def test_random_network_survives_the_file(net, calibrate, small_cfg, tmp_path):
    calibrate(net)
    write_weights(net, tmp_path / "a.weights")
    other = Darknet(small_cfg(LAYERS)).eval()
    read_weights(other, tmp_path / "a.weights")
    x = torch.rand(1, 3, 8, 12)
    with torch.no_grad():
        assert net(x)[0].equal(other(x)[0])


@pytest.mark.parametrize(
    "floats, what",
    [
        (SECTION_ENDS[-1] - 1, r"1 float too few.* 17 floats into the \[convolutional\] at line 22 \(layer 4\)"),
        (SECTION_ENDS[-1] + 1, r"1 float too many.* the \[convolutional\] at line 22 \(layer 4\)"),
        (SECTION_ENDS[0], r"26 floats too few.* 0 floats into the \[shortcut\] at line 14 \(layer 2\).*backbone"),
        (SECTION_ENDS[0] + 1, r"25 floats too few.* 1 float into the \[shortcut\]"),
        (0, r"150 floats too few.* 0 floats into the \[convolutional\] at line 5 \(layer 0\)"),
    ],
)
def test_wrong_lengths_say_by_how_much_and_where(floats, what, net, tmp_path):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(DetectPruneError, match=what) as caught:
        read_weights(net, file_of(tmp_path / "a.weights", floats))
    assert str(caught.value).startswith(str(tmp_path / "a.weights"))
    assert "\n" not in str(caught.value)
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("floats", SECTION_ENDS)
def test_partial_files_end_after_a_section(floats, net, tmp_path):
    head = net.layers[4].conv.weight.clone()
    read_backbone(net, file_of(tmp_path / "a.conv.1", floats))
    assert net.layers[0].norm.bias[0] == 1
    assert net.layers[4].conv.weight.equal(head) == (floats < SECTION_ENDS[-1])


@pytest.mark.parametrize("floats", [0, 1, SECTION_ENDS[0] + 1, SECTION_ENDS[-1] - 1, SECTION_ENDS[-1] + 1])
def test_partial_files_that_end_elsewhere(floats, net, tmp_path):
    with pytest.raises(DetectPruneError, match=r"too few|too many"):
        read_backbone(net, file_of(tmp_path / "a.conv.1", floats))


def test_files_that_are_no_weights(net, tmp_path):
    path = tmp_path / "a.weights"
    for content, what in (
        (b"", "only 0 bytes"),
        (struct.pack("<iii", 0, 2, 5) + b"\0" * 5, "inside its header"),
        (b"<!DOCTYPE html>" * 50, "does not begin like"),
        (b"PK\x03\x04" * 200, "does not begin like"),
        (WeightsHeader().pack() + b"\0" * 603, "3 bytes of a float"),
    ):
        path.write_bytes(content)
        with pytest.raises(DetectPruneError, match=what):
            read_weights(net, path)
    with pytest.raises(DetectPruneError, match="no such file; a file of Darknet weights"):
        read_weights(net, tmp_path / "missing.weights")
    with pytest.raises(DetectPruneError, match="folder"):
        read_weights(net, tmp_path)


@pytest.mark.parametrize("at, value, what", [(0, np.nan, "beta"), (140, np.inf, "weights"), (12, -1.0, "variance")])
def test_values_that_no_network_has(at, value, what, net, tmp_path):
    values = np.ones(SECTION_ENDS[-1], "<f4")
    values[at] = value
    path = tmp_path / "a.weights"
    path.write_bytes(WeightsHeader().pack() + values.tobytes())
    with pytest.raises(DetectPruneError, match=f"the {what} of the .*another network"):
        read_weights(net, path)


def test_variances_a_hair_below_zero_are_read(net, tmp_path):
    """The published MobileNetV2-YOLO-Fastest-voc has some of -7e-44."""
    values = np.full(SECTION_ENDS[-1], -7e-44, "<f4")
    (tmp_path / "a.weights").write_bytes(WeightsHeader().pack() + values.tobytes())
    read_weights(net, tmp_path / "a.weights")


@pytest.mark.parametrize(
    "name",
    [
        "yolov4-tiny/yolov4-tiny",
        "yolo-fastest-1.1/yolo-fastest-1.1",
        "mobilenetv2-yolo-fastest-voc/MobileNetV2-YOLO-Fastest-voc",
    ],
)
def test_published_weights_round_trip(name, real_data, tmp_path):
    path = real_data / f"weights/{name}.weights"
    net = Darknet(load_cfg(real_data / f"weights/{name}.cfg"))
    write_weights(net, tmp_path / "again.weights", read_weights(net, path))
    assert (tmp_path / "again.weights").read_bytes() == path.read_bytes()


def test_published_weights_of_another_network(real_data):
    net = Darknet(load_cfg(real_data / "weights/yolo-fastest-1.1/yolo-fastest-1.1.cfg"))
    with pytest.raises(DetectPruneError, match=r"5,716,752 floats too many.*another network"):
        read_weights(net, real_data / "weights/yolov4-tiny/yolov4-tiny.weights")
