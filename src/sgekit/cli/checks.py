"""Show which implementations of SGE run here, which do not and why, and versions."""

import argparse
import importlib.metadata
import platform

import torch

import sgekit
from sgekit.cli import output
from sgekit.ops import available
from sgekit.ops.api import automatic

EXAMPLES = """examples:
  sgekit checks
  sgekit checks --out runs/checks      also writes results.json"""

OPTIONAL = (
    "timm",
    "torchvision",
    "lightning",
    "torchmetrics",
    "datasets",
    "matplotlib",
    "triton",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    output.add_out(parser)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(name: str) -> str:
    """What is said of a package that is not there."""
    if name == "triton":
        return "not installed (PyTorch brings it along under Linux)"
    return "not installed (pip install sgekit[train] brings it)"


def execute(options: argparse.Namespace) -> int:
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "xpu": torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    devices = [device for device, found in there.items() if found]
    versions = {name: _version(name) for name in ("torch", *OPTIONAL)}
    found = {
        device: [
            {"impl": impl, "runs": reason is None, "reason": reason}
            for impl, reason in available(torch.device(device))
        ]
        for device in devices
    }
    print(f"sgekit {sgekit.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name, version in versions.items():
        print(f"  {name:12} {version or missing(name)}")
    print(f"  CPU threads  {torch.get_num_threads()}")
    for kind in ("cuda", "xpu"):
        if there[kind]:
            print(f"  GPU          {torch.get_device_module(kind).get_device_name()}")
    for device, rows in found.items():
        print(f"spatial_group_enhance on {device}:")
        for row in rows:
            print(f"  {row['impl']:12} {row['reason'] or 'runs'}")
        print(f'  impl="auto" takes {automatic(device)}')
    output.write_results(options, "checks", {"versions": versions, "implementations": found})
    return 0
