"""Whether some group of each trained network points at each part, where the data have regions."""

import json
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console

from sgekit.comparison.plan import Plan
from sgekit.comparison.results import PartsOfContender, Results, RunParts, baseline_of
from sgekit.comparison.statistics import paired_difference
from sgekit.data import ImageData, SceneSplit
from sgekit.data.detection import DetectionData
from sgekit.data.regions import RegionData, of_detection, of_scenes, open_regions
from sgekit.errors import InputError
from sgekit.explanation.explained import explain_data
from sgekit.explanation.subject import Classifier, Detector, Subject, groups_of
from sgekit.files import write_atomic
from sgekit.training.checkpoint import load_network
from sgekit.training.detection_run import load_detector
from sgekit.training.machine import resolve_device
from sgekit.training.settings import RunSettings

IMAGES = 400
"""At most so many evaluation images, evenly spread."""
FILE = "parts.json"
CHANCE = "positions and habit"
"""What scores are above; those above another chance are measured anew."""


def regions_of(data: ImageData | DetectionData, path: str | None) -> RegionData | None:
    """The evaluation images with their regions, or None where these are not known."""
    if isinstance(data, DetectionData):
        return of_detection(data.name, data.classes, data.val)
    if isinstance(data.val, SceneSplit):
        return of_scenes(data.val.config, data.val.split)
    written = path is not None and (Path(path).expanduser() / "part_masks").is_dir()
    return open_regions(path, eval_split=data.val_name) if written else None


def add_parts(
    results: Results,
    plan: Plan,
    data: ImageData | DetectionData,
    path: str | None,
    out: Path,
    console: Console,
) -> None:
    """Put the part scores of the ended runs into ``results``, measuring those that have none yet.

    Each run's is kept beside it. Nothing is added where the data have no regions. A run whose
    checkpoint is gone, and a network without a place for attention, have no score.
    """
    regions = regions_of(data, path)
    if regions is None:
        return
    ended = [run for run in plan.runs(out) if (run.out / "run.json").exists()]
    if any(not (run.out / FILE).exists() for run in ended):
        console.print("measuring which parts the groups point at")
    scores = {(run.attention, run.seed): _kept(run, regions) for run in ended}
    results["parts"] = _told(results, scores)


def _kept(run: RunSettings, regions: RegionData) -> RunParts | None:
    file = run.out / FILE
    if file.exists():
        try:
            kept = cast(RunParts, json.loads(file.read_text()))
        except ValueError as error:
            raise InputError(f"{file} cannot be read ({error}); delete it") from error
        if isinstance(kept, dict) and kept.get("chance") == CHANCE:
            return kept
    measured = _measured(run, regions)
    if measured is not None:
        write_atomic(file, (json.dumps(measured, indent=2) + "\n").encode())
    return measured


def _measured(run: RunSettings, regions: RegionData) -> RunParts | None:
    checkpoint = run.out / "last.ckpt"
    if not checkpoint.exists():
        return None
    device = resolve_device(run.device)
    try:
        subject: Subject
        if run.detector:
            detector, what = load_detector(checkpoint)
            subject = Detector(detector, device, classes=what.classes, groups=groups_of(what))
        else:
            network, who = load_network(checkpoint)
            subject = Classifier(network, device, who=who, groups=groups_of(who))
    except InputError as problem:
        if "no place" not in str(problem):
            raise
        return None
    found = explain_data(
        subject, regions, images=IMAGES, show=0, disturb=False, maps=("after",)
    ).score
    if found is None:
        return None
    return {"score": found.score, "found": found.found, "parts": len(found.parts), "chance": CHANCE}


def _told(
    results: Results, scores: dict[tuple[str, int], RunParts | None]
) -> list[PartsOfContender]:
    told: list[PartsOfContender] = []
    baseline = baseline_of(results)
    by_name: dict[str, dict[int, RunParts]] = {}
    for (name, seed), score in scores.items():
        if score is not None:
            by_name.setdefault(name, {})[seed] = score
    for contender in results["contenders"]:
        name = contender["attention"]
        mine = by_name.get(name, {})
        if not mine:
            continue
        values = [run["score"] for run in mine.values()]
        entry: PartsOfContender = {
            "attention": name,
            "scores": {str(seed): run["score"] for seed, run in sorted(mine.items())},
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "found": float(np.mean([run["found"] for run in mine.values()])),
            "parts": next(iter(mine.values()))["parts"],
            "difference": None,
            "low": None,
            "high": None,
        }
        reference = by_name.get(baseline, {})
        # A part about which nothing can be said of one network leaves no pair.
        both = mine.keys() & reference.keys()
        seeds = sorted(s for s in both if mine[s]["parts"] == reference[s]["parts"])
        if name != baseline and seeds:
            paired = paired_difference(
                [mine[seed]["score"] for seed in seeds],
                [reference[seed]["score"] for seed in seeds],
            )
            entry["difference"], entry["low"], entry["high"] = paired.mean, paired.low, paired.high
        told.append(entry)
    return told
