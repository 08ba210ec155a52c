"""The written pair loads again, with the same weights, zeros included."""

import torch

from detect_prune.darknet import Darknet, load_cfg, parse_cfg, read_weights
from detect_prune.export.darknet import save_network

CFG = """
[net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=14
size=1
stride=1
pad=1
activation=linear
[yolo]
mask=0,1
anchors=4,4, 9,9
classes=2
num=2
"""


def pruned_network():
    torch.manual_seed(0)
    network = Darknet(parse_cfg(CFG))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter *= (torch.rand_like(parameter) > 0.8).float()
    return network


def test_written_network_loads_again_and_keeps_its_zeros(tmp_path):
    network = pruned_network()
    paths = save_network(network, tmp_path / "new folder", "pruned")
    assert [path.name for path in paths] == ["pruned.cfg", "pruned.weights"]
    assert sorted(paths) == sorted((tmp_path / "new folder").iterdir()), "no temporary file is left"
    again = Darknet(load_cfg(paths[0]))
    read_weights(again, paths[1])
    for (name, before), after in zip(network.named_parameters(), again.parameters()):
        assert torch.equal(before, after), name
    picture = torch.rand(1, 3, 32, 32)
    for before, after in zip(network.eval()(picture), again.eval()(picture)):
        assert torch.equal(before, after)


def test_header_of_the_first_weights_travels_along(tmp_path):
    network = pruned_network()
    first = save_network(network, tmp_path, stem="first")
    data = bytearray(first[1].read_bytes())
    data[12:20] = (123_456_789_012).to_bytes(8, "little")
    first[1].write_bytes(data)
    header = read_weights(network, first[1])
    second = save_network(network, tmp_path, stem="second", header=header)
    assert second[1].read_bytes() == bytes(data)
