"""LeNet-5 as Caffe ships it: the network of most pruning papers, with 430,500 weights."""

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    """conv 20 of 5x5, pool, conv 50 of 5x5, pool, 500 units, ReLU, `classes` units. Its one nonlinearity beside the
    pools is that ReLU. Caffe's has no dropout; here it may be set for training (`Phase.dropout`) before each of the two
    linear layers, and is none as built.

    Source: BVLC/caffe, examples/mnist/lenet.prototxt.
    """

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)
        self.dropout = nn.Dropout(0.0)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 1, 28, 28) -> (B, classes) logits."""
        x = F.max_pool2d(self.conv1(pictures), 2)  # (B, 20, 12, 12)
        x = F.max_pool2d(self.conv2(x), 2)  # (B, 50, 4, 4)
        units = F.relu(self.fc1(self.dropout(x.flatten(1))))
        return self.fc2(self.dropout(units))
