"""What the report of a comparison of detectors has of its own, made ready for the page."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sgekit.comparison import formats
from sgekit.comparison.class_tables import ClassTable, class_tables
from sgekit.comparison.detection_figures import SIZES, by_size, precision_recall
from sgekit.comparison.evidence import Evidence
from sgekit.comparison.figures import ordered
from sgekit.comparison.gains import Gains, Strip
from sgekit.comparison.results import Results, baseline_of
from sgekit.comparison.tables import ScoreRow, score_rows
from sgekit.figures.pictures import Picture, photograph, picture

OPEN = 12
"""Tables of as many classes are open where there is one contender; longer ones are collapsed."""


@dataclass(frozen=True)
class ChangedImages:
    """Images that a contender solves better or worse, as the page shows them."""

    attention: str
    summary: str
    better: tuple[Picture, ...]
    worse: tuple[Picture, ...]


@dataclass(frozen=True)
class DetectionParts:
    """The sections of a detector's report."""

    scores: dict[str, list[ScoreRow]]
    """By contender."""
    figures: list[Picture]
    classes: list[ClassTable]
    open: bool
    kind: str
    level: float
    changed: list[ChangedImages]


def detection_parts(results: Results, evidence: Evidence | None, out: Path) -> DetectionParts:
    """The parts of which there is something to show; figures are written into ``out``."""
    tables = class_tables(results, evidence.objects if evidence else {})
    numbers = {True: 0, False: 0}
    scores: dict[str, list[ScoreRow]] = {}
    for row in score_rows(results):
        scores.setdefault(row.attention, []).append(row)
    return DetectionParts(
        scores=scores,
        figures=_figures(results, evidence, out),
        classes=tables,
        open=len(tables) == 1 and len(tables[0].rows) <= OPEN,
        kind=evidence.kind if evidence else "box",
        level=evidence.level if evidence else 0.5,
        changed=[_changed(results, gains, out, numbers) for gains in evidence.gains]
        if evidence
        else [],
    )


def _figures(results: Results, evidence: Evidence | None, out: Path) -> list[Picture]:
    base = formats.display_name(baseline_of(results))
    rows = results.get("detection", [])
    figures = []
    for masks, name in ((False, "sizes"), (True, "mask-sizes")):
        prefix = "mask_" if masks else ""
        told = {
            f"{prefix}{score}": [row for row in rows if row["score"] == f"{prefix}{score}"]
            for score in SIZES
        }
        if not any(row["difference"] is not None for some in told.values() for row in some):
            continue
        cells = "; ".join(
            f"{formats.display_name(row['attention'])} {size} {_points(row['difference'])}"
            for (score, size) in SIZES.items()
            for row in told[f"{prefix}{score}"]
        )
        kind = "mask AP" if masks else "AP"
        figures.append(
            picture(
                name,
                partial(by_size, results, masks),
                out,
                f"Paired differences in {kind} to {base} by size of the objects, in points: "
                f"{cells}.",
                f"Differences in {kind} by size of the objects (small: up to 32² pixels of area, "
                "medium: up to 96²). Dot: mean; thick: 95 % interval over seeds; thin: over "
                "redrawn images.",
            )
        )
    areas = _areas(results, evidence) if evidence else ""
    if evidence and areas:
        figures.append(
            picture(
                "precision",
                partial(precision_recall, results, evidence.precision),
                out,
                f"Precision over recall of boxes. Area below the mean curve at overlap 0.5 and "
                f"0.75: {areas}.",
                "Precision over recall of boxes, mean over classes. Thick: mean over seeds; thin: "
                "one seed each. The area below a curve is AP50 or AP75.",
            )
        )
    return figures


def _areas(results: Results, evidence: Evidence) -> str:
    parts = []
    for contender in ordered(results):
        name = contender["attention"]
        runs = [run for run in evidence.precision.get(name, []) if np.isfinite(run).all()]
        if runs:
            fifty, seventy_five = np.mean(runs, axis=(0, 2)).tolist()
            parts.append(
                f"{formats.display_name(name)} {formats.percent(fifty)} % and "
                f"{formats.percent(seventy_five)} %"
            )
    return "; ".join(parts)


def _changed(results: Results, gains: Gains, out: Path, numbers: dict[bool, int]) -> ChangedImages:
    name = formats.display_name(gains.attention)
    base = formats.display_name(baseline_of(results))
    pictures: dict[bool, list[Picture]] = {True: [], False: []}
    for better, strips in ((True, gains.better), (False, gains.worse)):
        for strip in strips:
            # Through all contenders, so that no file is written twice.
            numbers[better] += 1
            file = f"{'better' if better else 'worse'}-{numbers[better]}"
            pictures[better].append(_strip(file, strip, name, base, out))
    total = gains.gained + gains.lost + gains.equal
    return ChangedImages(
        name,
        f"Of {total:,} images {gains.gained:,} have a larger F1 with {name}, {gains.lost:,} a "
        f"smaller one, and {gains.equal:,} the same.",
        tuple(pictures[True]),
        tuple(pictures[False]),
    )


def _strip(file: str, strip: Strip, name: str, base: str, out: Path) -> Picture:
    annotated, before, after = strip.words
    drawn = f"seed {strip.seed}, {strip.drawn[0]:.2f} → {strip.drawn[1]:.2f}"
    seeds = f"mean over {strip.seeds} seeds; drawn: {drawn}"
    if strip.seeds == 1:
        seeds = f"seed {strip.seed}"
    return photograph(
        file,
        strip.image,
        out,
        f"{strip.source} three times: annotated {annotated}; {base} found {before}; "
        f"{name} found {after}",
        f"{strip.source}: F1 {strip.before:.2f} → {strip.after:.2f} ({seeds})",
    )


def _points(difference: float | None) -> str:
    return formats.NONE if difference is None else formats.points(difference)
