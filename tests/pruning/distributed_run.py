"""Run by test_distributed.py, alone or under torchrun: LeNet-5 through ADMM, cut and retraining.

Usage: distributed_run.py FOLDER; writes FOLDER/RANK.pt.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from detect_prune.classification import LeNet5
from detect_prune.pruning import GlobalADMM

GLOBAL_BATCH, STEPS, UPDATES = 32, 24, 6


def main(folder: Path) -> None:
    torch.manual_seed(0)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    # In double precision another order of summing turns no weight at the cut, whatever kernels the processor has.
    net = LeNet5().double()
    model = net
    if world > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.02, momentum=0.9)
    admm = GlobalADMM(net, 0.9, updates=UPDATES, importance="lamp")
    admm.attach(optimizer)
    share = slice(rank * GLOBAL_BATCH // world, (rank + 1) * GLOBAL_BATCH // world)
    for step in range(STEPS + 4):
        generator = torch.Generator().manual_seed(step)
        pictures = torch.rand(GLOBAL_BATCH, 1, 28, 28, generator=generator, dtype=torch.float64)
        labels = torch.randint(10, (GLOBAL_BATCH,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(pictures[share]), labels[share]).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step < STEPS and step % (STEPS // UPDATES) == STEPS // UPDATES - 1:
            admm.update()
        if step == STEPS - 1:
            state = {"z": dict(admm.z), "u": dict(admm.u), "rho": admm.rho}
            masks = admm.cut(optimizer)
            state["masks"] = {name: masks[name] for name in masks}
    state["weights"] = {name: weight.detach() for name, weight in net.named_parameters()}
    torch.save(state, folder / f"{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
