"""Torch's random numbers, left as they were by what draws some of them on the side."""

from contextlib import AbstractContextManager

import torch


def random_numbers_kept(device: torch.device) -> AbstractContextManager[None]:
    """Afterwards the random numbers of the processor and of `device` go on as if nothing had been drawn meanwhile."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
