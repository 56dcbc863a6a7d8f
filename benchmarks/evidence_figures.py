"""The figures of docs/evidence.md, from results that were kept."""

import statistics
from pathlib import Path
from typing import Any

from evidence_series import SERIES

from sgekit.comparison.formats import display_name
from sgekit.data import SceneConfig
from sgekit.figures.style import LIGHT, figure, style


def draw(found: dict[str, Any], path: Path) -> None:
    """Every contender's paired difference with its 95 % interval, one below the other."""
    rows = [
        (f"{SERIES[name].question}  {display_name(entry['attention'])}", entry["difference"])
        for name, results in found.items()
        if name in SERIES
        for entry in results["contenders"]
        if entry.get("difference")
    ]
    drawn = figure(7.2, 0.8 + 0.28 * len(rows), LIGHT)
    axes = drawn.add_subplot()
    for place, (_, difference) in enumerate(rows):
        mean, low, high = (difference[key] for key in ("mean", "low", "high"))
        if low is not None:
            axes.plot([100 * low, 100 * high], [place, place], color=LIGHT.colour(1), linewidth=2)
        face = LIGHT.colour(1) if low is not None else LIGHT.background
        axes.plot([100 * mean], [place], "o", color=LIGHT.colour(1), mfc=face)
    axes.axvline(0, color=LIGHT.baseline, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("difference to plain, points (95 %)")
    style(axes, LIGHT, grid="x")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)


_DEFAULT = "scenes-normalisation"
STRENGTHS = {
    "noise on every pixel": {0.0: "scenes-noise-0", SceneConfig().noise: _DEFAULT,
                             0.14: "scenes-noise-0.14", 0.28: "scenes-noise-0.28"},
    "look-alikes in a scene, at most": {0.0: "scenes-distractors-0",
                                        float(SceneConfig().distractors): _DEFAULT,
                                        4.0: "scenes-distractors-4", 8.0: "scenes-distractors-8"},
}  # fmt: skip


def has_curves(found: dict[str, Any]) -> bool:
    """Whether a series with noise or look-alikes is there."""
    return any(name in found for series in STRENGTHS.values() for name in series.values())


def draw_curves(found: dict[str, Any], path: Path) -> None:
    """Accuracy and part score of plain and SGE against what disturbs: means, and every seed."""
    drawn = figure(7.2, 5.4, LIGHT)
    panels = drawn.subplots(2, 2, sharex="col", sharey="row")
    for column, (words, series) in enumerate(STRENGTHS.items()):
        there = {strength: found[name] for strength, name in series.items() if name in found}
        for row, (label, values_of) in enumerate(
            (("top-1 accuracy, %", accuracies), ("part score", _part_scores))
        ):
            axes = panels[row][column]
            for number, attention in enumerate(("none", "sge")):
                values = {at: values_of(results, attention) for at, results in there.items()}
                line = [(at, statistics.fmean(of.values())) for at, of in values.items()]
                seeds = [(at, value) for at, of in values.items() for value in of.values()]
                colour = LIGHT.colour(number)
                axes.plot(
                    *zip(*line, strict=True), "-o", color=colour, label=display_name(attention)
                )
                axes.plot(*zip(*seeds, strict=True), "_", color=colour, alpha=0.6)
            axes.set_ylabel(label if column == 0 else "")
            axes.set_xlabel(words if row == 1 else "")
            style(axes, LIGHT)
    panels[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)


def accuracies(results: dict[str, Any], attention: str) -> dict[int, float]:
    """Top-1 in percent of every seed."""
    entry = next(e for e in results["contenders"] if e["attention"] == attention)
    return {run["seed"]: 100 * run["top1"] for run in entry["runs"]}


def _part_scores(results: dict[str, Any], attention: str) -> dict[str, float]:
    scores: dict[str, float] = next(e for e in results["parts"] if e["attention"] == attention)[
        "scores"
    ]
    return scores
