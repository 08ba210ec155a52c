"""What a run is computed on: a time or a speed says little without it; and whether its memory is enough."""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import torch

from detect_prune.errors import DetectPruneError
from detect_prune.report.tables import size


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Plain values: processor, cores that this process may use, memory in bytes, system, versions, and the GPU if used.

    The memory is None where the system does not tell it in POSIX's way (Windows).
    """
    machine = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "opencv": cv2.__version__,
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


def for_people(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What `describe_machine` found, with the memory as `25.3 GB`; without it where the system does not tell."""
    told = {name: value for name, value in machine.items() if value is not None}
    return told | {name: size(value) for name, value in told.items() if name == "memory"}


def in_words(machine: Mapping[str, Any]) -> str:
    """The same on one line for a flat record."""
    return ", ".join(f"{name} {value}" for name, value in for_people(machine).items())


def _processor() -> str:
    # platform.processor() is empty, or just the architecture, on most Linux systems.
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def ran_out_of_memory(error: Exception) -> bool:
    """Whether what failed did so for want of memory. On a processor torch has no error of its own for that."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


class DoesNotFit(DetectPruneError):
    """A piece of work ran out of the device's memory."""


@contextlib.contextmanager
def within_memory(what: Callable[[], str], device: torch.device) -> Iterator[None]:
    """Work that may run out of the device's memory; `what` (`a step with batch 8`) is asked where it does.

    Raises:
        DoesNotFit: it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise DoesNotFit(f"{what()} does not fit into the memory of {device}; choose a smaller one") from None
