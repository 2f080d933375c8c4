"""What a figure depends on besides the code: hardware, libraries, load, date."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import features

LIBRARIES = ("ccrop-pipeline", "lightly", "numpy", "pillow", "simplejpeg", "torch", "torchvision")


def describe_machine() -> dict[str, Any]:
    """Facts for the head of the results."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "pillow_libjpeg_turbo": features.version_feature("libjpeg_turbo"),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu() -> str:
    """Name of the processor; Linux keeps it here, and Python has no way to it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
