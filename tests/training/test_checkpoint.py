import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sgekit.errors import InputError
from sgekit.training.checkpoint import (
    AtomicCheckpointIO,
    Identity,
    load_network,
    read_checkpoint,
)

WHO = Identity("resnet10_small", "sge", None, ("a", "b"), 32, 1.0, "bilinear")


class Harmful:
    """Unpickling it would run code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, plain_pickle: bool) -> None:
    evidence, file = tmp_path / "ran", tmp_path / "bad.ckpt"
    if plain_pickle:
        file.write_bytes(pickle.dumps({"state_dict": Harmful(evidence)}))
    else:
        torch.save({"state_dict": Harmful(evidence)}, file)
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(file)
    assert not evidence.exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.ckpt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.ckpt"):
        read_checkpoint(file)


def test_a_cut_off_checkpoint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.ckpt"):
        read_checkpoint(file)


def test_foreign_checkpoints_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint file"):
        read_checkpoint(tmp_path / "missing.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    with pytest.raises(InputError, match="holds a Tensor"):
        read_checkpoint(tmp_path / "tensor.ckpt")
    for bad in ({"model": "resnet18"}, WHO.plain() | {"colour": "red"}):
        torch.save({"state_dict": {}, "sgekit": bad}, tmp_path / "version.ckpt")
        with pytest.raises(InputError, match="written by another version"):
            load_network(tmp_path / "version.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not written by sgekit"):
        load_network(tmp_path / "other.ckpt")
    torch.save(
        {"state_dict": {"model.fc.bias": torch.zeros(9)}, "sgekit": WHO.plain()},
        tmp_path / "k.ckpt",
    )
    with pytest.raises(InputError, match="does not fit resnet10_small"):
        load_network(tmp_path / "k.ckpt")


def test_a_full_disk_spares_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"epoch": 1}, file)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sgekit.training.checkpoint.os.fsync", full)
    with pytest.raises(InputError, match=r"No space left on device; the checkpoint already there"):
        io.save_checkpoint({"epoch": 2}, file)
    assert read_checkpoint(file) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_real_full_device_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"epoch": 1}, file)
    original = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, *a, **k: original(
            Path("/dev/full") if self.suffix == ".partial" else self, *a, **k
        ),
    )
    with pytest.raises(InputError, match="cannot write the checkpoint"):
        io.save_checkpoint({"weights": torch.zeros(100_000)}, file)
    assert read_checkpoint(file) == {"epoch": 1}


def test_differences_are_told_in_words() -> None:
    other = Identity("resnet18", "se", 8, ("a", "b", "c", "d"), 32, 1.0, "bilinear")
    words = WHO.differences(other)
    assert "model resnet10_small instead of resnet18" in words
    assert "attention sge instead of se" in words
    assert "2 classes (a, b) instead of 4 (a, b, c, …)" in words
    assert WHO.differences(WHO) == ""
