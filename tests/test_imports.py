"""The one direction of imports, and what importing costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sgekit

SOURCE = Path(sgekit.__file__).parent
# Rooms by floor, the ground first. A room imports rooms of lower floors only.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("files",),
    ("ops", "data"),
    ("modules",),
    ("models", "analysis"),
    ("figures",),
    ("detection",),
    ("training",),
    ("explanation",),
    ("comparison",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# What stands on these may be had without anything but torch.
TORCH_ALONE = [*(SOURCE / "ops").rglob("*.py"), SOURCE / "modules" / "sge.py"]
TRAINING_PACKAGES = {"lightning", "torchmetrics", "datasets", "matplotlib", "jinja2", "scipy"}


def imported(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names.add(node.module or "")
    return names


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "sgekit" and len(parts) > 1 else None


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or p.stem in FLOOR)


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(file: Path) -> None:
    parts = file.relative_to(SOURCE).parts
    room = parts[0].removesuffix(".py")
    assert room in FLOOR, f"{room} stands on no floor"
    for name in imported(file):
        other = room_of(name)
        if other is not None and other != room:
            assert FLOOR[other] < FLOOR[room], f"{room} imports {name}"


@pytest.mark.parametrize("file", TORCH_ALONE, ids=lambda p: p.name)
def test_the_operation_needs_torch_alone(file: Path) -> None:
    outside = {name.partition(".")[0] for name in imported(file)} - set(sys.stdlib_module_names)
    allowed = {"triton"} if "triton" in str(file.relative_to(SOURCE)) else set()
    assert outside <= {"torch", "sgekit"} | allowed


def test_the_operation_starts_without_triton() -> None:
    code = (
        "import sys, torch, sgekit; layer = sgekit.SpatialGroupEnhance(8, 4);"
        "layer(torch.ones(1, 8, 2, 2)); assert 'sgekit.ops.triton' not in sys.modules;"
        "layer(torch.ones(1, 8, 2, 2, dtype=torch.float64));"
        "assert 'sgekit.ops.triton_kernels.forward' not in sys.modules"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_networks_need_no_training_packages() -> None:
    for room in ("ops", "modules", "models", "analysis"):
        for file in (SOURCE / room).rglob("*.py"):
            used = {name.partition(".")[0] for name in imported(file)} & TRAINING_PACKAGES
            assert not used, f"{file} imports {used}"


def test_importing_sgekit_is_light_and_silent() -> None:
    code = (
        "import sys, sgekit; heavy = {'torch', 'timm', 'lightning'} & set(sys.modules);"
        "assert not heavy, heavy; sgekit.SpatialGroupEnhance; assert 'timm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names_exist() -> None:
    for name in sgekit.__all__:
        assert getattr(sgekit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sgee'"):
        _ = sgekit.sgee


def test_files_stay_small() -> None:
    long = {str(p): n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
