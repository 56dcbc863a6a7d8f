"""The machine that a run finds: its device, its processes, and what it cannot run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sgekit.errors import InputError
from sgekit.training.recipes import Recipe


def world_and_rank() -> tuple[int, int]:
    """How many processes torchrun has started, and which of them this is."""
    return int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))


def default_workers(device: str) -> int:
    """Loader processes: none where they would take the cores that train."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if resolve_device(device) == "cpu":
        return 0 if cores < 4 else 2
    return max(1, min(8, cores // processes - 1))


def resolve_device(device: str) -> str:
    """Lightning's accelerator name. Raises InputError for one that is not here."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {device!r} is none of auto, cpu, cuda, mps")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch finds no CUDA GPU here")
    if device == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps was asked for, but torch finds none here")
    return device


def check_hardware(recipe: Recipe, accelerator: str) -> None:
    """Raise InputError for a recipe that this device cannot run."""
    if accelerator == "cpu":
        if recipe.precision == "fp16":
            raise InputError("precision fp16 needs a GPU; on a CPU use bf16 or fp32")
        if recipe.bn == "sync":
            raise InputError("bn sync needs GPUs: torch's SyncBatchNorm does not run on a CPU")


@contextmanager
def explain_batch_norm() -> Iterator[None]:
    """Turn BatchNorm's refusal of a single value a channel into an InputError."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "BatchNorm cannot train on one image whose map has shrunk to one position; "
            "use a larger --batch-size or --image-size"
        ) from error
