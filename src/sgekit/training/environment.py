"""What a result was measured with: versions, device, threads."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch


def processor() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware of this run, as plain values."""
    versions = {
        name: importlib.metadata.version(name)
        for name in ("torch", "timm", "lightning", "torchvision")
    }
    return {
        "python": platform.python_version(),
        **versions,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "date": datetime.date.today().isoformat(),
    }
