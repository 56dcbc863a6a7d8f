"""The comparison itself: cost, runs, results after every run, report."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import sgekit
from sgekit.comparison.cost import Load, measure
from sgekit.comparison.examples import gate_examples
from sgekit.comparison.memory import peak_memory
from sgekit.comparison.plan import Plan, claim, default_out, extended, finished, fixed_part
from sgekit.comparison.report import write_report
from sgekit.comparison.results import (
    SCHEMA,
    Contender,
    Cost,
    Results,
    write_json,
)
from sgekit.comparison.summary import summarise
from sgekit.data import ImageData
from sgekit.files import write_atomic
from sgekit.models import build, describe
from sgekit.training.environment import environment, processor
from sgekit.training.machine import resolve_device
from sgekit.training.results import describe_data
from sgekit.training.run import build_extras, run


def compare(
    plan: Plan,
    data: ImageData,
    *,
    path: str | None = None,
    out: Path | None = None,
    command: str = "",
    console: Console | None = None,
) -> tuple[Results, Path]:
    """Train every contender with every seed; returns the results and the report's path.

    Goes on where an earlier call with the same settings stopped: finished runs are read,
    an unfinished one resumes after its last epoch. Runs of other contenders and seeds that
    have ended in ``out`` are part of the results. Leaves in ``out`` results.json, report.html
    and the figures, and brings them up to date after every run. Raises InputError on bad
    settings, NonFiniteLossError where a training diverges.
    """
    console = console or Console(stderr=True)
    device = resolve_device(plan.device)
    fixed = fixed_part(plan, data, path)
    out = out or default_out(fixed)
    asked = {(run.attention, run.seed) for run in plan.runs(out)}
    # Described first: what cannot be built is refused before anything is written.
    contenders = [_contender(plan, name, len(data.classes)) for name in plan.attention]
    claim(out, fixed)
    plan = extended(plan, out)
    added = plan.attention[len(contenders) :]
    contenders += [_contender(plan, name, len(data.classes)) for name in added]
    console.print(f"comparing {', '.join(plan.attention)} in {plan.model} on {data.name}: {out}")
    began = time.perf_counter()
    for contender, cost in zip(contenders, _costs(plan, data, out, device, console), strict=True):
        contender["cost"] = cost
    results: Results = {
        "schema": SCHEMA,
        "sgekit": sgekit.__version__,
        "command": command,
        "complete": False,
        "settings": {
            "model": plan.model,
            "attention": list(plan.attention),
            "seeds": list(plan.seeds),
            "groups": plan.groups,
            "image_size": plan.recipe.image_size,
            "recipe": plan.recipe.flat(),
            "data": {"path": path, **describe_data(data)},  # type: ignore[typeddict-item]
        },
        "environment": environment(device),
        "baseline": plan.baseline,
        "contenders": contenders,
        "seconds": 0.0,
    }
    if plan.sweep:
        results["sweep"] = plan.sweep.among(plan.attention)
    by_name = {contender["attention"]: contender for contender in contenders}
    runs = [r for r in plan.runs(out) if (r.attention, r.seed) in asked or finished(r)]
    for number, settings in enumerate(runs, start=1):
        entry, ended = finished(settings), ""
        if entry is None:
            label = f"[{number}/{len(runs)}] {settings.label}"
            result = run(settings.labelled(label), data, console)
            entry = result.plain()  # type: ignore[assignment]
            write_atomic(settings.out / "run.json", json.dumps(entry, indent=2).encode())
            ended = (
                f"{label}: top-1 {100 * result.top1:.1f} % after {result.epochs} epochs, "
                f"{result.seconds:.0f} s"
            )
        by_name[settings.attention]["runs"].append(entry)  # type: ignore[arg-type]
        results["seconds"] = time.perf_counter() - began
        results["complete"] = number == len(runs)
        results = summarise(results)
        by_name = {contender["attention"]: contender for contender in results["contenders"]}
        write_json(results, out / "results.json")
        if ended:
            console.print(ended, highlight=False)
    console.print("drawing the report")
    report = write_report(results, gate_examples(plan, data, out, device), out)
    return results, report


def _contender(plan: Plan, attention: str, classes: int) -> Contender:
    info = describe(
        plan.model,
        attention,
        groups=plan.groups,
        num_classes=classes,
        image_size=plan.recipe.image_size,
    )
    return {
        "attention": attention,
        "parameters": info.parameters,
        "operations": {
            "multiply_adds": info.operations.multiply_adds,
            "other": info.operations.other,
            "attention": info.operations.attention,
        },
        "runs": [],
    }


def _build(plan: Plan, attention: str, classes: int) -> nn.Module:
    return build(
        plan.model,
        attention,
        groups=plan.groups,
        num_classes=classes,
        **build_extras(plan.recipe),
    )


def _costs(plan: Plan, data: ImageData, out: Path, device: str, console: Console) -> list[Cost]:
    """Measured once; read again when the same machine goes on with the same contenders."""
    file = out / "cost.json"
    machine = {"device": device, "cpu": processor(), "threads": torch.get_num_threads()}
    known = _known_costs(file, machine)
    if not set(plan.attention) <= known.keys():
        classes = len(data.classes)
        load = Load.of(plan.recipe, classes, device)
        known = measure(
            lambda attention: _build(plan, attention, classes),
            list(plan.attention),
            plan.baseline,
            load,
            seconds=4.0,
            progress=lambda text: console.print(text, highlight=False),
        )
        console.print(f"measuring the peak memory of {', '.join(plan.attention)}", highlight=False)
        extras = build_extras(plan.recipe)
        # Every contender in a process of its own, two at a time where they do not share a device.
        with ThreadPoolExecutor(2 if device == "cpu" else 1) as pool:
            peaks = pool.map(
                lambda name: peak_memory(plan.model, name, plan.groups, load, extras),
                plan.attention,
            )
            for attention, peak in zip(plan.attention, peaks, strict=True):
                known[attention]["peak_memory_bytes"] = peak
        text = json.dumps({"machine": machine, "costs": known}, indent=2)
        write_atomic(file, (text + "\n").encode())
    return [known[attention] for attention in plan.attention]


def _known_costs(file: Path, machine: dict[str, Any]) -> dict[str, Cost]:
    """What was measured on this machine; empty where it has to be measured (again)."""
    try:
        content = json.loads(file.read_text())
        costs: dict[str, Cost] = content["costs"] if content["machine"] == machine else {}
        return {name: cost for name, cost in costs.items() if cost["train"] and cost["inference"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Missing or damaged: measuring costs seconds and needs nobody's attention.
        return {}
