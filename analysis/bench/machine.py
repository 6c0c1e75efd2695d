"""What the figures were measured on."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from analysis.output import write_text
from moe_tasks.runtime import cpu_name

# Dense bf16 arithmetic per second, from the makers' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}


def describe(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Machine, versions, the command that was given and the sizes that it means."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": _memory(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "moe_tasks")},
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "arguments": sys.argv[1:],
        "sizes": dict(sizes),
    }


def write_machine(description: Mapping[str, Any], path: Path) -> None:
    """Write ``path`` as JSON."""
    write_text(path, json.dumps(description, indent=1) + "\n")


def peak_flops() -> float | None:
    """Dense bf16 operations per second of the GPU, if its name is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((flops for known, flops in PEAK_FLOPS.items() if known in name), None)


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
