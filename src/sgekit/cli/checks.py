"""Show which implementations of SGE run here, which do not and why, and versions."""

import argparse
import importlib.metadata
import platform

import torch

import sgekit
from sgekit.cli import output
from sgekit.ops import available

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


def execute(options: argparse.Namespace) -> int:
    devices = (
        ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    )
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
        print(f"  {name:12} {version or 'not installed (pip install sgekit[train] brings it)'}")
    print(f"  CPU threads  {torch.get_num_threads()}")
    if torch.cuda.is_available():
        print(f"  GPU          {torch.cuda.get_device_name()}")
    for device, rows in found.items():
        print(f"spatial_group_enhance on {device}:")
        for row in rows:
            print(f"  {row['impl']:12} {row['reason'] or 'runs'}")
        chosen = next(row["impl"] for row in rows if row["runs"])
        print(f'  impl="auto" takes {chosen}')
    output.write_results(options, "checks", {"versions": versions, "implementations": found})
    return 0
