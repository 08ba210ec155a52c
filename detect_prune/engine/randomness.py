"""Torch's random numbers, left as they were by what draws some of them on the side."""

from contextlib import AbstractContextManager

import torch


def seed_torch(seed: int, device: torch.device) -> None:
    """Seeds the random numbers of the processor and of `device`. torch.manual_seed seeds those of all GPUs."""
    seed = int(seed)  # of numpy's, perhaps
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def random_numbers_kept(device: torch.device) -> AbstractContextManager[None]:
    """Afterwards the random numbers of the processor and of `device` go on as if nothing had been drawn meanwhile."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
