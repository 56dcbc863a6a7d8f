"""What the package needs: networks want torch, timm and safetensors; nothing else is imported."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import sgekit

SOURCE = Path(sgekit.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def distribution(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


CORE = {distribution(line) for line in PROJECT["dependencies"]}
EXTRAS = {
    distribution(line) for lines in PROJECT["optional-dependencies"].values() for line in lines
} - {"sgekit"}


def imported() -> set[str]:
    """The packages that any file of sgekit imports, anywhere in it."""
    names: set[str] = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"sgekit"}


def test_what_is_imported_is_declared() -> None:
    """So no library of another licence comes in unseen."""
    providers = packages_distributions()
    for name in imported() - {"triton"}:  # which PyTorch brings along
        # Of an extra that is not installed here the package bears its distribution's name.
        distributions = {distribution(d) for d in providers.get(name, [name])}
        assert distributions & (CORE | EXTRAS), f"{name} is imported and not declared"


def test_insertion_works_with_the_core_alone() -> None:
    """With every package of the extras hidden, but what timm itself imports."""
    providers = packages_distributions()
    hidden = {n for n, of in providers.items() if {distribution(d) for d in of} & EXTRAS}
    code = f"""
import sys
import timm
for name in {sorted(hidden)!r}:
    if name not in sys.modules:
        sys.modules[name] = None
import torch
from torch import nn
import sgekit

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
    def forward(self, x):
        return x + self.norm(self.conv(x))

own = nn.Sequential(nn.Conv2d(3, 8, 3), Block())
assert sgekit.insert(own, "sge", groups="auto") == ["1.norm.attention"]
assert own(torch.randn(1, 3, 8, 8)).shape == (1, 8, 6, 6)
network = timm.create_model("resnet18", num_classes=3)
assert len(sgekit.insert(network, "sge")) == 8
assert network(torch.randn(1, 3, 64, 64)).shape == (1, 3)
assert len(sgekit.remove(network)) == 8
assert "lightning" not in sys.modules or sys.modules["lightning"] is None
"""
    assert {"lightning", "matplotlib", "rich"} <= hidden
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
