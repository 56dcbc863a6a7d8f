"""What the contenders cost, measured once for each comparison."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sgekit.comparison import detection
from sgekit.comparison.cost import Load, measure
from sgekit.comparison.detection import DetectorLoad
from sgekit.comparison.memory import peak_memory
from sgekit.comparison.plan import Plan
from sgekit.comparison.results import Cost
from sgekit.data import ImageData
from sgekit.data.detection import DetectionData
from sgekit.files import write_atomic
from sgekit.models import build
from sgekit.training.detection_recipes import DetectionRecipe
from sgekit.training.detection_run import build_detector
from sgekit.training.environment import processor
from sgekit.training.recipes import Recipe
from sgekit.training.run import build_extras

SECONDS = 4.0
"""How long each of the two timings takes, at least five rounds."""


def known_costs(
    plan: Plan, data: ImageData | DetectionData, out: Path, device: str, console: Console
) -> list[Cost]:
    """Measured once; read again when the same machine goes on with the same contenders."""
    file = out / "cost.json"
    machine = {"device": device, "cpu": processor(), "threads": torch.get_num_threads()}
    known = _read(file, machine)
    if not set(plan.attention) <= known.keys():
        classes = len(data.classes)
        if isinstance(plan.recipe, DetectionRecipe):
            known = _detectors(plan, plan.recipe, classes, device, console)
        else:
            known = _classifiers(plan, plan.recipe, classes, device, console)
        text = json.dumps({"machine": machine, "costs": known}, indent=2)
        write_atomic(file, (text + "\n").encode())
    return [known[attention] for attention in plan.attention]


def _classifiers(
    plan: Plan, recipe: Recipe, classes: int, device: str, console: Console
) -> dict[str, Cost]:
    load, extras = Load.of(recipe, classes, device), build_extras(recipe)
    known = measure(
        lambda attention: build(
            plan.model, attention, groups=plan.groups, num_classes=classes, **extras
        ),
        list(plan.attention),
        plan.baseline,
        load,
        seconds=SECONDS,
        progress=lambda text: console.print(text, highlight=False),
    )
    console.print(f"measuring the peak memory of {', '.join(plan.attention)}", highlight=False)
    # Every contender in a process of its own, two at a time where they do not share a device.
    with ThreadPoolExecutor(2 if device == "cpu" else 1) as pool:
        peaks = pool.map(
            lambda name: peak_memory(plan.model, name, plan.groups, load, extras), plan.attention
        )
        for attention, peak in zip(plan.attention, peaks, strict=True):
            known[attention]["peak_memory_bytes"] = peak
    return known


def _detectors(
    plan: Plan, recipe: DetectionRecipe, classes: int, device: str, console: Console
) -> dict[str, Cost]:
    settings = {run.attention: run for run in plan.runs(Path())}
    return measure(
        lambda attention: build_detector(settings[attention], classes),
        list(plan.attention),
        plan.baseline,
        DetectorLoad.of(plan, recipe, classes, device),
        seconds=SECONDS,
        progress=lambda text: console.print(text, highlight=False),
        kinds={"training": detection.training_step, "inference": detection.inference},
    )


def _read(file: Path, machine: dict[str, Any]) -> dict[str, Cost]:
    """What was measured on this machine; empty where it has to be measured (again)."""
    try:
        content = json.loads(file.read_text())
        costs: dict[str, Cost] = content["costs"] if content["machine"] == machine else {}
        return {name: cost for name, cost in costs.items() if cost["train"] and cost["inference"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Missing or damaged: measuring costs seconds and needs nobody's attention.
        return {}
