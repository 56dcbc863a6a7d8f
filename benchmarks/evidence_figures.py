"""The figures of docs/evidence.md, from results that were kept."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evidence_series import SERIES

from sgekit.comparison.formats import display_name
from sgekit.data import SceneConfig
from sgekit.figures.style import LIGHT, figure, style

_KINDS = {"scenes": "built-in scenes", "caltech101": "photographs", "cifar10": "photographs",
          "dsb2018": "nuclei, box AP"}  # fmt: skip


def draw(found: dict[str, Any], path: Path) -> None:
    """Every contender's paired difference with its 95 % interval, below its series' name.

    Scenes, photographs and nuclei have scales of their own; runs that stand above are grey.
    """
    panels: dict[str, list[tuple[str, dict[str, Any] | None]]] = {}
    again = set[int]()
    seen = set[str]()
    for name, results in found.items():
        if name not in SERIES:
            continue
        lines = panels.setdefault(_KINDS[name.partition("-")[0]], [])
        lines.append((name, None))
        for entry in results["contenders"]:
            if difference := entry.get("difference"):
                label = f"{display_name(entry['attention'])} ({difference['n']})"
                lines.append((label, difference))
                runs = json.dumps([run.get("top1", run.get("ap")) for run in entry["runs"]])
                if runs in seen:
                    again.add(id(difference))
                seen.add(runs)
    heights = [len(lines) + 3 for lines in panels.values()]
    drawn = figure(7.2, 0.19 * sum(heights), LIGHT)
    grid = drawn.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
    for axes, (kind, lines) in zip(grid[:, 0], panels.items(), strict=True):
        for place, (_, difference) in enumerate(lines):
            if difference is None:
                continue
            mean, low, high = (difference[key] for key in ("mean", "low", "high"))
            colour = LIGHT.baseline if id(difference) in again else LIGHT.colour(1)
            if low is not None:
                axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2)
            face = colour if low is not None else LIGHT.background
            axes.plot([100 * mean], [place], "o", color=colour, mfc=face, markersize=4.5)
        axes.axvline(0, color=LIGHT.baseline, linestyle="--", linewidth=1.2)
        axes.set_yticks(range(len(lines)), [label for label, _ in lines], fontsize=7.5)
        for label, (_, difference) in zip(axes.get_yticklabels(), lines, strict=True):
            label.set_fontweight("bold" if difference is None else "normal")
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_title(f"{kind}: difference to plain, points (95 %)", fontsize=9, loc="left")
        style(axes, LIGHT, grid="x")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)


_DEFAULT = "scenes-normalisation"
STRENGTHS = {
    "noise on every pixel": {0.0: "scenes-noise-0", SceneConfig().noise: "scenes-noise-0.07",
                             0.14: "scenes-noise-0.14", 0.28: "scenes-noise-0.28"},
    "look-alikes in a scene, at most": {0.0: "scenes-distractors-0",
                                        float(SceneConfig().distractors): _DEFAULT,
                                        4.0: "scenes-distractors-4", 8.0: "scenes-distractors-8"},
}  # fmt: skip


def has_curves(found: dict[str, Any]) -> bool:
    """Whether a whole series with noise or look-alikes is there."""
    return any(map(_there(found).get, STRENGTHS))


def _there(found: dict[str, Any]) -> dict[str, dict[float, Any]]:
    """The finished series of what disturbs, by its strength."""
    return {
        words: {
            at: found[name]
            for at, name in sorted(series.items())
            if name in found and found[name]["complete"]
        }
        for words, series in STRENGTHS.items()
    }


def draw_curves(found: dict[str, Any], path: Path) -> None:
    """Plain and SGE against what disturbs: accuracy, its paired difference with a 95 % interval,
    and part score; means, and every seed as a dash."""
    drawn = figure(7.2, 7.4, LIGHT)
    panels = drawn.subplots(3, 2, sharex="col", sharey="row")
    for column, (words, there) in enumerate(_there(found).items()):
        width = max(there, default=1.0) or 1.0
        _curves(panels[0][column], there, accuracies, 0.012 * width)
        _intervals(panels[1][column], there)
        _curves(panels[2][column], there, _part_scores, 0.012 * width)
        panels[2][column].set_xlabel(words)
        for row in range(3):
            style(panels[row][column], LIGHT)
    for row, label in enumerate(
        ("top-1 accuracy, %", "SGE minus plain, points (95 %)", "part score")
    ):
        panels[row][0].set_ylabel(label)
    panels[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)


def _curves(axes: Any, there: dict[float, Any], values_of: Callable[..., Any], off: float) -> None:
    """Both networks, a little apart so that neither hides the other."""
    for number, attention in enumerate(("none", "sge")):
        colour, shift = LIGHT.colour(number), (2 * number - 1) * off
        values = {at + shift: values_of(results, attention) for at, results in there.items()}
        means = [statistics.fmean(of.values()) for of in values.values()]
        axes.plot(list(values), means, "-o", color=colour, label=display_name(attention))
        for at, of in values.items():
            axes.plot([at] * len(of), list(of.values()), "_", color=colour, markersize=9)


def _intervals(axes: Any, there: dict[float, Any]) -> None:
    colour = LIGHT.colour(1)
    for at, results in there.items():
        sge = next(e for e in results["contenders"] if e["attention"] == "sge")
        mean, low, high = (sge["difference"][key] for key in ("mean", "low", "high"))
        if low is not None:
            axes.plot([at, at], [100 * low, 100 * high], color=colour, linewidth=2)
        axes.plot([at], [100 * mean], "o", color=colour)
    axes.axhline(0, color=LIGHT.baseline, linestyle="--", linewidth=1.2)


def accuracies(results: dict[str, Any], attention: str) -> dict[int, float]:
    """Top-1 in percent of every seed."""
    entry = next(e for e in results["contenders"] if e["attention"] == attention)
    return {run["seed"]: 100 * run["top1"] for run in entry["runs"]}


def _part_scores(results: dict[str, Any], attention: str) -> dict[str, float]:
    scores: dict[str, float] = next(e for e in results["parts"] if e["attention"] == attention)[
        "scores"
    ]
    return scores
