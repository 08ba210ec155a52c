"""The machine and the day that a measurement belongs to."""

import os
import platform
from datetime import date
from pathlib import Path

import torch


def machine() -> str:
    """Processor, cores, memory and torch, in one line."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GiB{gpu}, torch {torch.__version__}"


def today() -> str:
    return date.today().isoformat()
