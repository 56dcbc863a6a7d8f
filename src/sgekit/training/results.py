"""A training run as plain values, for its results.json."""

from typing import Any

from sgekit.data import ImageData
from sgekit.data.detection import DetectionData
from sgekit.training.environment import environment
from sgekit.training.machine import resolve_device
from sgekit.training.run import RunResult
from sgekit.training.settings import RunSettings


def describe(settings: RunSettings, data: ImageData, result: RunResult) -> dict[str, Any]:
    """What was trained, on what, with what outcome."""
    return {
        "model": settings.model,
        "attention": settings.attention,
        "groups": settings.groups,
        "seed": settings.seed,
        "pretrained": settings.pretrained,
        "init": settings.checkpoint and str(settings.checkpoint),
        "recipe": settings.recipe.flat(),
        "data": describe_data(data),
        "environment": environment(resolve_device(settings.device)),
        "result": result.plain(),
    }


def describe_data(data: ImageData | DetectionData) -> dict[str, Any]:
    """The data set in numbers."""
    left_out = (
        {"skipped": len(data.skipped)}
        if isinstance(data, ImageData)
        else {"skipped": 0, "notes": list(data.notes)}
    )
    return {
        "name": data.name,
        "kind": data.kind,
        "classes": len(data.classes),
        "train": len(data.train),
        "val": len(data.val),
        "val_name": data.val_name,
        **left_out,
    }
