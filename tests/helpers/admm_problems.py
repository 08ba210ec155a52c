"""Small networks, data and problems on which ADMM is tried."""

import torch
from torch import nn
from torch.nn import functional as F


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    )


def batches(seed, n):
    """Five kinds of pictures that can be told apart."""
    generator = torch.Generator().manual_seed(99)
    prototypes = torch.randn(5, 1, 6, 6, generator=generator)
    generator.manual_seed(seed)
    for _ in range(n):
        labels = torch.randint(5, (32,), generator=generator)
        yield prototypes[labels] + 0.5 * torch.randn(32, 1, 6, 6, generator=generator), labels


def step(model, optimizer, batch):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


class Free(nn.Module):
    """Layers whose weights are the variables of a problem; there is no input."""

    def __init__(self, *shapes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(columns, rows, bias=False) for rows, columns in shapes)

    def vector(self):
        return torch.cat([layer.weight.flatten() for layer in self.layers])


def solve(model, loss, admm, rate, steps_per_update):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    admm.attach(optimizer)
    for _ in range(admm.updates):
        for _ in range(steps_per_update):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        admm.update()
    return admm.cut()
