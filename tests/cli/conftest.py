"""Runs commands as a user does, through the installed entry point."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sgekit.data import SceneConfig, write_scenes

Completed = subprocess.CompletedProcess[str]
Sgekit = Callable[..., Completed]


@pytest.fixture
def sgekit(tmp_path: Path) -> Sgekit:
    """sgekit("train", "--epochs", 1, code=0) in a temporary folder."""

    def call(*arguments: object, code: int = 0) -> Completed:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("sgekit")), *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image folder: 32-pixel scenes, train/ and val/."""
    out = tmp_path_factory.mktemp("scenes")
    write_scenes(SceneConfig(image_size=32, train=48, val=24), out)
    return out
