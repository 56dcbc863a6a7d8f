"""The figures of docs/evidence.md, from results that were kept."""

import statistics
from pathlib import Path
from typing import Any

from evidence_series import SERIES

from sgekit.comparison.formats import display_name
from sgekit.data import SceneConfig
from sgekit.figures.style import LIGHT, figure, style


def draw(found: dict[str, Any], path: Path) -> None:
    """Every contender's paired difference with its 95 % interval, below its series' question."""
    groups = {
        SERIES[name].question: [e for e in results["contenders"] if e.get("difference")]
        for name, results in found.items()
        if name in SERIES
    }
    count = sum(1 + len(entries) for entries in groups.values())
    drawn = figure(7.2, 0.8 + 0.22 * count, LIGHT)
    axes = drawn.add_subplot()
    place, ticks = -1, {}
    for question, entries in groups.items():
        place += 1
        axes.text(
            0.01, place, question, transform=axes.get_yaxis_transform(), va="center", fontsize=8
        )
        for entry in entries:
            place += 1
            mean, low, high = (entry["difference"][key] for key in ("mean", "low", "high"))
            if low is not None:
                ends = [100 * low, 100 * high]
                axes.plot(ends, [place, place], color=LIGHT.colour(1), linewidth=2)
            face = LIGHT.colour(1) if low is not None else LIGHT.background
            axes.plot([100 * mean], [place], "o", color=LIGHT.colour(1), mfc=face, markersize=5)
            ticks[place] = display_name(entry["attention"])
    axes.axvline(0, color=LIGHT.baseline, linestyle="--", linewidth=1.2)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_ylim(count - 0.4, -0.6)
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
