"""Checkpoints of training runs: written atomically, read without running their code."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from sgekit.errors import InputError
from sgekit.models import build
from sgekit.models.checkpoints import (
    KEY,
    TRAINING,
    identify,
    is_safetensors,
    load_contents,
    read_torch,
    read_weights,
    rebuild,
)

__all__ = [
    "KEY",
    "TRAINING",
    "AtomicCheckpointIO",
    "DetectorIdentity",
    "Identity",
    "identity_of",
    "load_network",
    "read_checkpoint",
    "weights_of",
]


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is of: enough to build the network again and to feed it."""

    model: str
    attention: str
    groups: int | str | None
    classes: tuple[str, ...]
    image_size: int
    eval_crop: float
    interpolation: str

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"classes": list(self.classes)}

    def differences(self, other: "Identity | DetectorIdentity") -> str:
        """In words, where another network departs from this one; empty if nowhere."""
        if isinstance(other, DetectorIdentity):
            return f"the classifier {self.model} instead of the detector {other.detector}"
        found = []
        for name in ("model", "attention", "groups"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{name} {mine} instead of {theirs}")
        if self.classes != other.classes:
            found.append(
                f"{len(self.classes)} classes ({_few(self.classes)}) instead of "
                f"{len(other.classes)} ({_few(other.classes)})"
            )
        return ", ".join(found)


@dataclass(frozen=True)
class DetectorIdentity:
    """What a detector's checkpoint is of: enough to build the detector again and to feed it."""

    detector: str
    model: str
    attention: str
    groups: int | str | None
    fpn_attention: str | None
    norm: str
    classes: tuple[str, ...]
    min_size: int
    max_size: int
    anchor_sizes: tuple[float, ...]
    proposals: int
    fpn_channels: int
    head_width: int

    def plain(self) -> dict[str, Any]:
        lists = {"classes": list(self.classes), "anchor_sizes": list(self.anchor_sizes)}
        return asdict(self) | lists

    def differences(self, other: "DetectorIdentity | Identity") -> str:
        """In words, where another network departs from this one; empty if nowhere."""
        if isinstance(other, Identity):
            return f"the detector {self.detector} instead of the classifier {other.model}"
        found = [
            f"{name} {getattr(self, name)} instead of {getattr(other, name)}"
            for name in asdict(self)
            if name != "classes" and getattr(self, name) != getattr(other, name)
        ]
        if self.classes != other.classes:
            found.append(
                f"{len(self.classes)} classes ({_few(self.classes)}) instead of "
                f"{len(other.classes)} ({_few(other.classes)})"
            )
        return ", ".join(found)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a full disk spares the old file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except (OSError, RuntimeError) as error:
            kept = f"; the checkpoint already there, {target}, is kept" if target.exists() else ""
            raise InputError(
                f"cannot write the checkpoint {target}: {_reason(error)}{kept}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        return read_checkpoint(path, map_location or "cpu")


def _reason(error: BaseException) -> str:
    # torch's zip writer hides the operating system's error behind its own.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0]


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The dictionary in a checkpoint file: tensors and plain values, nothing that runs.

    Raises InputError where the file is missing, is no checkpoint, is damaged, or is a
    pickle that wants to run code.
    """
    return read_torch(path, map_location)


def identity_of(checkpoint: dict[str, Any], path: str | Path) -> Identity | DetectorIdentity:
    """What the checkpoint is of. Raises InputError if sgekit did not write it."""
    plain = checkpoint.get(KEY)
    if not isinstance(plain, dict):
        raise InputError(f"{path} was not written by sgekit: it does not say which network it is")
    kind = DetectorIdentity if "detector" in plain else Identity
    try:
        lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
        return kind(**(plain | lists))
    except TypeError as error:
        raise InputError(f"{path} was written by another version of sgekit: {error}") from error


def weights_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The network's weights in a run's checkpoint; their average where the run kept one."""
    return {
        name.removeprefix("model."): value
        for name, value in checkpoint.get("state_dict", {}).items()
        if name.startswith("model.")
    }


def load_network(path: str | Path) -> tuple[nn.Module, Identity]:
    """The trained network in a run's checkpoint, in eval mode, and what it is.

    Where the run kept an exponential moving average of the weights, that is what is loaded.
    A safetensors file that sgekit wrote does as well.
    """
    if is_safetensors(Path(path)):
        return _from_safetensors(path)
    checkpoint = read_checkpoint(path)
    identity = identity_of(checkpoint, path)
    if isinstance(identity, DetectorIdentity):
        raise InputError(
            f"{path} is of the detector {identity.detector}; this needs a classifier's checkpoint"
        )
    network = build(
        identity.model,
        identity.attention,
        groups=identity.groups,  # type: ignore[arg-type]
        num_classes=len(identity.classes),
    )
    try:
        network.load_state_dict(weights_of(checkpoint))
    except RuntimeError as error:
        raise InputError(
            f"{path} does not fit {identity.model} with {identity.attention}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    return network.eval(), identity


def _from_safetensors(path: str | Path) -> tuple[nn.Module, Identity]:
    contents = read_weights(path)
    if contents.kind != "sgekit":
        raise InputError(
            f"{path} does not say which network it is of; make a file that does with "
            f"`sgekit convert {path} OUT`"
        )
    metadata = identify(contents)
    if not metadata.classes:
        raise InputError(f"{path} holds a network without classifier, which labels nothing")
    network = rebuild(metadata)
    load_contents(network, contents)
    same = {field.name: getattr(metadata, field.name) for field in fields(Identity)}
    return network.eval(), Identity(**same)
