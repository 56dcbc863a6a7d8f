"""The comparison itself: cost, runs, results after every run, report."""

import json
import time
from pathlib import Path
from typing import cast

import torch
from rich.console import Console

import sgekit
from sgekit.comparison.costs import known_costs
from sgekit.comparison.detection import describe_detector, score_differences
from sgekit.comparison.evidence import gather
from sgekit.comparison.examples import gate_examples
from sgekit.comparison.parts import add_parts
from sgekit.comparison.plan import Plan, claim, default_out, extended, finished, fixed_part
from sgekit.comparison.report import write_report
from sgekit.comparison.results import SCHEMA, Contender, Results, Run, write_json
from sgekit.comparison.summary import summarise
from sgekit.data import ImageData
from sgekit.data.detection import DetectionData
from sgekit.detection.create import kind_of
from sgekit.files import write_atomic
from sgekit.models import build, describe
from sgekit.models.contender import parse
from sgekit.training.detection_recipes import DetectionRecipe
from sgekit.training.detection_run import DetectionResult, check_data, run_detection
from sgekit.training.environment import environment
from sgekit.training.machine import resolve_device
from sgekit.training.recipes import Recipe
from sgekit.training.results import describe_data
from sgekit.training.run import RunResult, build_network, load_start, run
from sgekit.training.settings import RunSettings


def compare(
    plan: Plan,
    data: ImageData | DetectionData,
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
    contenders = [_contender(plan, name, data) for name in plan.attention]
    if plan.checkpoint is not None and isinstance(data, ImageData):
        for settings in plan.runs(out)[: len(plan.attention)]:
            load_start(build_network(settings, len(data.classes)), settings, data.classes)
    claim(out, fixed)
    plan = extended(plan, out)
    added = plan.attention[len(contenders) :]
    contenders += [_contender(plan, name, data) for name in added]
    network = f"{plan.detector} on {plan.model}" if plan.detector else plan.model
    console.print(f"comparing {', '.join(plan.attention)} in {network} on {data.name}: {out}")
    began = time.perf_counter()
    for contender, cost in zip(
        contenders, known_costs(plan, data, out, device, console), strict=True
    ):
        contender["cost"] = cost
    results = _begun(plan, data, path, command, device, contenders)
    by_name = {contender["attention"]: contender for contender in contenders}
    runs = [r for r in plan.runs(out) if (r.attention, r.seed) in asked or finished(r)]
    # What has ended is there from the first write on, whatever is trained in between.
    entries = [finished(settings) for settings in runs]
    for number, settings in enumerate(runs):
        ended = ""
        if entries[number] is None:
            label = f"[{number + 1}/{len(runs)}] {settings.label}"
            entry, ended = _train(settings.labelled(label), data, console)
            write_atomic(settings.out / "run.json", json.dumps(entry, indent=2).encode())
            entries[number] = entry
        elif number + 1 < len(runs):
            continue
        for name, contender in by_name.items():
            contender["runs"] = [
                entry
                for one, entry in zip(runs, entries, strict=True)
                if one.attention == name and entry is not None
            ]
        results["seconds"] = time.perf_counter() - began
        results["complete"] = None not in entries
        results = summarise(results)
        by_name = {contender["attention"]: contender for contender in results["contenders"]}
        write_json(results, out / "results.json")
        if ended:
            console.print(ended, highlight=False)
    evidence = None
    if isinstance(data, DetectionData):
        console.print("redrawing the evaluation images for intervals")
        results["detection"] = score_differences(results, plan, data, out)
        write_json(results, out / "results.json")
        evidence = gather(results, plan, data, out)
    add_parts(results, plan, data, path, out, console)
    write_json(results, out / "results.json")
    console.print("drawing the report")
    report = write_report(results, gate_examples(plan, data, out, device), out, evidence)
    return results, report


def _begun(
    plan: Plan,
    data: ImageData | DetectionData,
    path: str | None,
    command: str,
    device: str,
    contenders: list[Contender],
) -> Results:
    """The results before any run."""
    recipe = plan.recipe
    detects = isinstance(recipe, DetectionRecipe)
    size = recipe.min_size[-1] if isinstance(recipe, DetectionRecipe) else recipe.image_size
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
            "image_size": size,
            "recipe": recipe.flat(),
            "data": {"path": path, **describe_data(data)},  # type: ignore[typeddict-item]
            "metric": "ap" if detects else "top1",
        },
        "environment": environment(device),
        "baseline": plan.baseline,
        "contenders": contenders,
        "seconds": 0.0,
    }
    if plan.detector:
        results["settings"]["detector"] = plan.detector
    if plan.sweep:
        results["sweep"] = plan.sweep.among(plan.attention)
    return results


def _train(
    settings: RunSettings, data: ImageData | DetectionData, console: Console
) -> tuple[Run, str]:
    """One run as it stands in the results, and a line that tells its end."""
    result: RunResult | DetectionResult
    if isinstance(data, DetectionData):
        result = run_detection(settings, data, console)
        reached = f"AP {100 * result.ap:.1f} %"
    else:
        result = run(settings, data, console)
        reached = f"top-1 {100 * result.top1:.1f} %"
    text = f"{settings.label}: {reached} after {result.epochs} epochs, {result.seconds:.0f} s"
    return cast(Run, result.plain()), text


def check(plan: Plan) -> None:
    """Raise InputError for a device or network that there is not, before data are opened."""
    resolve_device(plan.device)
    for attention in plan.attention:
        parse(attention).starts_neutral(trained=plan.pretrained)
    if plan.detector is None:
        with torch.device("meta"):
            for attention in plan.attention:
                build(plan.model, attention, groups=plan.groups, num_classes=2, preserve=False)
    else:
        kind_of(plan.detector)  # raises for one that there is not


def _contender(plan: Plan, attention: str, data: ImageData | DetectionData) -> Contender:
    if isinstance(data, DetectionData):
        check_data(str(plan.detector), data)
        settings = next(run for run in plan.runs(Path()) if run.attention == attention)
        return describe_detector(settings, len(data.classes))
    info = describe(
        plan.model,
        attention,
        groups=plan.groups,
        num_classes=len(data.classes),
        image_size=_classification(plan).image_size,
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


def _classification(plan: Plan) -> Recipe:
    if not isinstance(plan.recipe, Recipe):
        raise TypeError(f"{plan.recipe.name} is a detector's recipe")
    return plan.recipe
