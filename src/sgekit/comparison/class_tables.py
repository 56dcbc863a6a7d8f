"""Average precision class by class, each contender against the baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgekit.comparison.formats import NONE, display_name, percent, points
from sgekit.comparison.results import Results, baseline_of
from sgekit.comparison.statistics import paired_difference


@dataclass(frozen=True)
class ClassRow:
    """One class as text: annotated objects, AP of both, and the paired difference in points."""

    name: str
    objects: str
    baseline: str
    value: str
    difference: str
    interval: str


@dataclass(frozen=True)
class ClassTable:
    """All classes of one contender, the largest gain first; ``kind`` is "box" or "mask"."""

    attention: str
    kind: str
    rows: tuple[ClassRow, ...]
    excluding: int
    """Classes whose interval excludes zero."""
    told: int
    """Classes that have an interval."""


def class_tables(results: Results, objects: Mapping[str, int]) -> list[ClassTable]:
    """A table a contender and kind, of the seeds that the baseline has too; none of classifiers.

    ``objects`` counts the evaluation images' objects by class; what it does not name is a dash.
    """
    base_name = baseline_of(results)
    by_name = {c["attention"]: _by_seed(c["runs"]) for c in results["contenders"]}
    base = by_name[base_name]
    tables = []
    for name, own in by_name.items():
        seeds = sorted(own.keys() & base.keys())
        if name == base_name or not seeds:
            continue
        for kind in ("box", "mask"):
            mine, theirs = (
                [scores for seed in seeds if (scores := side[seed].get(kind)) is not None]
                for side in (own, base)
            )
            if len(mine) == len(theirs) == len(seeds):
                tables.append(_table(name, kind, mine, theirs, objects))
    return tables


def _table(
    name: str,
    kind: str,
    mine: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    objects: Mapping[str, int],
) -> ClassTable:
    rows: list[tuple[float, ClassRow]] = []
    excluding = told = 0
    for label in mine[0]["per_class"]:
        count = f"{objects[label]:,}" if label in objects else NONE
        pairs = [
            (a["per_class"][label], b["per_class"][label])
            for a, b in zip(mine, theirs, strict=True)
        ]
        pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
        if not pairs:
            # Nothing of this class is annotated; it stands at the end.
            rows.append((-np.inf, ClassRow(label, count, NONE, NONE, NONE, NONE)))
            continue
        found = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
        interval = NONE
        if found.low is not None and found.high is not None:
            interval = f"{points(found.low)} to {points(found.high)}"
            told += 1
            excluding += found.low > 0 or found.high < 0
        rows.append(
            (
                found.mean,
                ClassRow(
                    label,
                    count,
                    percent(float(np.mean([b for _, b in pairs]))),
                    percent(float(np.mean([a for a, _ in pairs]))),
                    points(found.mean),
                    interval,
                ),
            )
        )
    rows.sort(key=lambda row: -row[0])
    return ClassTable(display_name(name), kind, tuple(row for _, row in rows), excluding, told)


def _by_seed(runs: Any) -> dict[int, dict[str, Any]]:
    """The scores of the runs that have some."""
    return {run["seed"]: run["scores"] for run in runs if run.get("scores")}
