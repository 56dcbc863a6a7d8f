"""What the trained detectors found in the evaluation images, read from their runs' folders."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgekit.comparison.plan import Plan
from sgekit.comparison.results import Results
from sgekit.data.detection import DetectionData
from sgekit.detection.curves import curves
from sgekit.detection.drawing import image_scores
from sgekit.detection.evaluation import CocoEvaluation, Kind
from sgekit.detection.matching import THRESHOLDS, Floats, Ints, Matches
from sgekit.errors import InputError
from sgekit.training.detection_run import DETECTIONS

IOUS = (0.5, 0.75)
"""Overlaps of which precision and recall are told."""
LEVELS: Floats = np.arange(1, 20) / 20
"""Scores from which on a detection may be shown."""

_AT = [int(np.argmin(np.abs(THRESHOLDS - iou))) for iou in IOUS]


@dataclass(frozen=True)
class RunFound:
    """One run, reduced.

    ``precision`` (2, 101) at recalls of 0 to 1, of boxes, at each of `IOUS`: the mean over the
    classes that have objects, NaN where none has. ``solved`` (19, I): F1 of each image at each of
    `LEVELS`, of masks where the detector has them.
    """

    folder: Path
    precision: Floats
    solved: Floats


@dataclass(frozen=True)
class Found:
    """The ended runs by contender and seed. ``objects`` counts each class, crowds left out."""

    runs: dict[str, dict[int, RunFound]]
    image_ids: Ints
    objects: dict[str, int]
    kind: Kind


def read_found(results: Results, plan: Plan, data: DetectionData, out: Path) -> Found:
    """Everything that the runs of ``results`` found in ``out``.

    Raises `InputError` where a run's detections cannot be read.
    """
    truth = data.val.ground_truth()
    folders = {(run.attention, run.seed): run.out for run in plan.runs(out)}
    ended: dict[str, list[Any]] = {c["attention"]: list(c["runs"]) for c in results["contenders"]}
    every = [run for runs in ended.values() for run in runs]
    kind: Kind = "mask" if every and all(run["scores"].get("mask") for run in every) else "box"
    empty = CocoEvaluation(truth, masks=False)
    empty.load([])
    matches = empty.matches("box")
    labels = matches.object_label[matches.object_counts[0]]
    counts = np.bincount(labels, minlength=len(matches.classes)).tolist()
    return Found(
        {
            name: {run["seed"]: _reduced(truth, folders[name, run["seed"]], kind) for run in runs}
            for name, runs in ended.items()
        },
        matches.image_ids,
        dict(zip(matches.classes, counts, strict=True)),
        kind,
    )


def read_detections(folder: Path) -> list[dict[str, Any]]:
    """COCO's result list of a run. Raises `InputError` where it cannot be read."""
    file = folder / DETECTIONS
    try:
        detections: list[dict[str, Any]] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); delete {folder} to train this run again"
        ) from error
    return detections


def read_matches(truth: Mapping[str, Any], folder: Path, kind: Kind) -> Matches:
    """A run's detections, matched to the ground truth. Raises as `read_detections`."""
    return _evaluation(truth, folder, kind).matches(kind)


def _evaluation(truth: Mapping[str, Any], folder: Path, kind: Kind) -> CocoEvaluation:
    evaluation = CocoEvaluation(truth, kind == "mask")
    evaluation.load(read_detections(folder))
    return evaluation


def _reduced(truth: Mapping[str, Any], folder: Path, kind: Kind) -> RunFound:
    evaluation = _evaluation(truth, folder, kind)
    boxes = evaluation.matches("box")
    drawn = curves(boxes).precision[0, _AT]
    known = ~np.isnan(drawn[0, :, 0])
    if known.any():
        precision = drawn[:, known].mean(axis=1)
    else:
        precision = np.full((len(IOUS), drawn.shape[2]), np.nan)
    shown = boxes if kind == "box" else evaluation.matches("mask")
    return RunFound(
        folder, precision, np.stack([image_scores(shown, float(level)) for level in LEVELS])
    )
