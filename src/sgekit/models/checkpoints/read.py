"""What is in a file of weights, read without running anything that it holds."""

import argparse
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sgekit.errors import InputError

KEY = "sgekit"
"""Under this a training run's checkpoint and a safetensors file say what they are of."""

TRAINING = "sgekit_training"
"""Under this a run's checkpoint says how it is trained."""

Kind = Literal["run", "sgekit", "safetensors", "released", "detector", "pytorch"]
KINDS: dict[Kind, str] = {
    "run": "a checkpoint of sgekit train",
    "sgekit": "sgekit's weights",
    "safetensors": "safetensors weights",
    "released": "a released classification checkpoint",
    "detector": "a detector's checkpoint",
    "pytorch": "PyTorch weights",
}

# What wrappers put before every key: DataParallel, torch.compile, Lightning modules.
_WRAPPERS = ("module.", "_orig_mod.", "model.")

# The command's options, which trainers keep beside the weights: plain data, runs no code.
_HARMLESS: list[Any] = [argparse.Namespace]


@dataclass(frozen=True)
class Contents:
    """The weights in a file, under the names they have without wrappers."""

    path: Path
    kind: Kind
    tensors: dict[str, Tensor]
    identity: dict[str, Any] | None = None
    """What sgekit wrote into the file on what it is of."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Numbers and words beside the weights, such as epoch and best_acc."""
    others: tuple[str, ...] = ()
    """Keys of weights that are not the network's, such as a detector's heads."""


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as a safetensors file does, or is named like one."""
    if path.suffix == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**27


def read_torch(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The dictionary in a file of torch.save: tensors and plain values, nothing that runs.

    Raises InputError where the file is missing, empty, a folder or a web page, is no
    checkpoint, is damaged, or is a pickle that wants to run code.
    """
    path = _existing(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        # torch names a forbidden class as a global, a newer protocol's opcodes as operands.
        words = str(error)
        with path.open("rb") as file:
            pickled = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        if pickled and ("global" in words.lower() or "Unsupported operand" in words):
            raise InputError(
                f"{path} is refused: it is a pickle that holds more than tensors and plain "
                "values and could run code when opened"
            ) from error
        raise InputError(f"{path} is damaged or no checkpoint") from error
    except Exception as error:  # bytes that are no checkpoint can fail in any way
        raise InputError(f"{path} is damaged or no checkpoint") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def read_weights(path: str | Path) -> Contents:
    """The weights in a file of any kind that KINDS names. Raises InputError as read_torch does."""
    path = _existing(path)
    if is_safetensors(path):
        return _read_safetensors(path)
    content = read_torch(path)
    identity = content.get(KEY)
    if isinstance(identity, dict):
        state = _weights(content.get("state_dict"), path)
        own = {name.removeprefix("model."): value for name, value in state.items()
               if name.startswith("model.")}  # fmt: skip
        others = tuple(name for name in state if not name.startswith("model."))
        return Contents(path, "run", own, identity, _notes(content), others)
    inner = next((content[k] for k in ("state_dict", "model") if _is_dict(content.get(k))), content)
    tensors = _unwrapped(_weights(inner, path))
    backbone = {name.removeprefix("backbone."): value for name, value in tensors.items()
                if name.startswith("backbone.")}  # fmt: skip
    notes = _notes(content) if inner is not content else {}
    if backbone:
        others = tuple(name for name in tensors if not name.startswith("backbone."))
        return Contents(path, "detector", backbone, None, notes, others)
    released = inner is not content and {"best_acc", "optimizer"} <= set(content)
    return Contents(path, "released" if released else "pytorch", tensors, None, notes)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a checkpoint file; name a file in it")
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    try:
        with path.open("rb") as file:
            head = file.read(256).lstrip().lower()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; download or copy it again")
    if head.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        raise InputError(
            f"{path} is a web page, not a checkpoint: the server asked for a confirmation or "
            "reported an error; download the file with a browser"
        )
    return path


def _read_safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or no safetensors file: {error}") from error
    if not tensors:
        raise InputError(f"{path} holds no weights")
    if KEY not in header:
        notes: dict[str, Any] = dict(header)
        return Contents(path, "safetensors", _unwrapped(tensors), None, notes)
    try:
        identity = json.loads(header[KEY])
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: what it says of itself cannot be read: {error}") from error
    if not isinstance(identity, dict):
        raise InputError(f"{path} was written by another version of sgekit")
    return Contents(path, "sgekit", tensors, identity)


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0


def _weights(state: Any, path: Path) -> dict[str, Tensor]:
    """The state as names and tensors; anything else is no file of weights."""
    if not _is_dict(state):
        raise InputError(f"{path} holds no weights")
    wrong = next((k for k, v in state.items() if not isinstance(v, Tensor)), None)
    if wrong is None:
        if odd := [name for name in state if not isinstance(name, str)]:
            raise InputError(f"{path} is no plain file of weights: {odd[0]!r} is no name")
        for name, value in state.items():
            if kind := _unusual(value):
                raise InputError(f"{path}: {name} is {kind}; save it as plain numbers")
        return {name: value.detach() for name, value in state.items()}
    if not any(isinstance(value, Tensor) for value in state.values()):
        names = ", ".join(map(str, list(state)[:5]))
        raise InputError(f"{path} holds no weights, but {names}")
    raise InputError(
        f"{path} is no plain file of weights: its {wrong!r} is a {type(state[wrong]).__name__}"
    )


def _unusual(value: Tensor) -> str | None:
    """What a tensor is that no network here can take as a weight."""
    if value.layout != torch.strided:
        return "sparse"
    if value.is_quantized:
        return "quantised"
    if value.is_meta:
        return "on the meta device and holds no numbers"
    return "complex" if value.is_complex() else None


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while first := next((w for w in _WRAPPERS if all(k.startswith(w) for k in tensors)), None):
        tensors = {name.removeprefix(first): value for name, value in tensors.items()}
    return tensors


def _notes(content: Mapping[str, Any]) -> dict[str, Any]:
    """The plain numbers and words of a checkpoint, apart from its weights."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if isinstance(plain, str | int | float | bool):
            found[str(name)] = plain
    if isinstance(training := content.get(TRAINING), Mapping):
        found["training"] = dict(training)
    return found
