"""What the contenders cost, measured once for each comparison."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from sgekit.comparison import detection
from sgekit.comparison.cost import Load, inference, measure, training_step
from sgekit.comparison.detection import DetectorLoad
from sgekit.comparison.memory import Step, peak_memory
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
    extras = build_extras(recipe)
    make = partial(build, plan.model, groups=plan.groups, num_classes=classes, **extras)
    load = Load.of(recipe, classes, device)
    return _measured(plan, {name: partial(make, name) for name in plan.attention}, load, console)


def _detectors(
    plan: Plan, recipe: DetectionRecipe, classes: int, device: str, console: Console
) -> dict[str, Cost]:
    settings = {run.attention: run for run in plan.runs(Path())}
    makers = {name: partial(build_detector, settings[name], classes) for name in plan.attention}
    load = DetectorLoad.of(plan, recipe, classes, device)
    return _measured(plan, makers, load, console, detection.training_step)


def _measured(
    plan: Plan,
    makers: Mapping[str, Callable[[], nn.Module]],
    load: Load | DetectorLoad,
    console: Console,
    training: Step = training_step,
) -> dict[str, Cost]:
    known = measure(
        lambda name: makers[name](),
        list(makers),
        plan.baseline,
        load,
        seconds=SECONDS,
        progress=lambda text: console.print(text, highlight=False),
        kinds={"training": training, "inference": inference},
    )
    console.print(f"measuring the peak memory of {', '.join(makers)}", highlight=False)
    # Every contender in a process of its own, two at a time where they do not share a device.
    with ThreadPoolExecutor(2 if load.device == "cpu" else 1) as pool:
        peaks = pool.map(
            lambda name: peak_memory(name, makers[name], load, training), plan.attention
        )
        for name, peak in zip(plan.attention, peaks, strict=True):
            known[name]["peak_memory_bytes"] = peak
    return known


def _read(file: Path, machine: dict[str, Any]) -> dict[str, Cost]:
    """What was measured on this machine; empty where it has to be measured (again)."""
    try:
        content = json.loads(file.read_text())
        costs: dict[str, Cost] = content["costs"] if content["machine"] == machine else {}
        return {name: cost for name, cost in costs.items() if cost["train"] and cost["inference"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Missing or damaged: measuring costs seconds and needs nobody's attention.
        return {}
