"""The charts of detectors: precision over recall, and differences in AP by size."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sgekit.comparison.figures import DASHES, WIDTH, ordered
from sgekit.comparison.formats import NONE, display_name, points, short_lines
from sgekit.comparison.found import IOUS
from sgekit.comparison.results import Results, ScoreDifference, baseline_of
from sgekit.detection.curves import RECALLS
from sgekit.detection.matching import Floats
from sgekit.figures.style import LIGHT, Theme, figure, note, style, tick

SIZES = {"ap": "all", "ap_small": "small", "ap_medium": "medium", "ap_large": "large"}


def precision_recall(
    results: Results, precision: Mapping[str, Sequence[Floats]], theme: Theme = LIGHT
) -> Figure:
    """Precision over recall at each of `IOUS`: each run thin, the mean over runs thick.

    ``precision`` holds for each contender (2, 101) of every run, see `found.RunFound`.
    """
    drawn = figure(WIDTH, 3.4, theme)
    panels = drawn.subplots(1, len(IOUS), sharey=True)
    shown = False
    for index, (contender, dash) in enumerate(zip(ordered(results), cycle(DASHES), strict=False)):
        runs = [
            100 * run for run in precision.get(contender["attention"], ()) if np.isfinite(run).all()
        ]
        if not runs:
            continue
        shown = True
        colour = theme.colour(index)
        label = ", ".join(short_lines(contender["attention"], results.get("sweep")))
        for place, axes in enumerate(panels):
            for run in runs:
                axes.plot(100 * RECALLS, run[place], color=colour, alpha=0.25, linewidth=0.7)
            mean = np.mean([run[place] for run in runs], axis=0)
            axes.plot(100 * RECALLS, mean, color=colour, linewidth=2, linestyle=dash, label=label)
    if not shown:
        for axes in panels:
            note(axes, "", theme)
        drawn.text(0.5, 0.5, "No run has ended yet.", ha="center", color=theme.muted)
        return drawn
    for iou, axes in zip(IOUS, panels, strict=True):
        style(axes, theme)
        axes.set_title(f"overlap (IoU) {iou:g}", color=theme.ink, fontsize=10)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 101)
    panels[0].set_ylabel("precision, %")
    drawn.supxlabel("recall, %", color=theme.ink, fontsize=10.5)
    lines, labels = panels[0].get_legend_handles_labels()
    columns = 3 if max(map(len, labels)) < 16 else 2
    drawn.legend(
        lines,
        labels,
        loc="outside upper center",
        ncols=min(columns, len(labels)),
        frameon=False,
        labelcolor=theme.ink,
        fontsize=10,
    )
    return drawn


def by_size(results: Results, masks: bool = False, theme: Theme = LIGHT) -> Figure:
    """Paired differences in AP of all objects and by size, with both 95 % intervals.

    Thick: over seeds; thin, with ends: over redrawn images. A dot without an interval over seeds
    is hollow. ``results`` as `summary.summarise` and `detection.score_differences` leave them.
    """
    prefix = "mask_" if masks else ""
    rows = {(row["attention"], row["score"]): row for row in results.get("detection", [])}
    names = [
        contender["attention"]
        for contender in ordered(results)
        if (contender["attention"], f"{prefix}ap") in rows
    ]
    drawn = figure(WIDTH, 1.5 + len(SIZES) * (0.34 + 0.18 * len(names)), theme)
    axes = drawn.add_subplot()
    order = [contender["attention"] for contender in ordered(results)]
    labels, handles = [], []
    shown = False
    for place, (score, size) in enumerate(SIZES.items()):
        told = []
        for number, name in enumerate(names):
            row = rows[name, f"{prefix}{score}"]
            y = place + (number - (len(names) - 1) / 2) * 0.8 / len(names)
            shown |= _difference(axes, row, y, theme.colour(order.index(name)), theme)
            told.append(NONE if row["difference"] is None else points(row["difference"]))
        # With several there is no room, and the table has the figures.
        alike = len(set(told)) == 1 and (len(told) == 1 or told[0] == NONE)
        labels.append(f"{size}  {told[0]}" if alike else size)
    if not shown:
        note(axes, "No seed has finished for two contenders yet.", theme)
        return drawn
    style(axes, theme, grid="x")
    axes.axvline(0, color=theme.baseline, linewidth=1.4, linestyle="--", zorder=1)
    for place in range(1, len(SIZES)):
        axes.axhline(place - 0.5, color=theme.grid, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(labels)), labels, color=theme.ink, fontsize=10)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    edge = 1.12 * max(0.1, *(abs(limit) for limit in axes.get_xlim()))
    axes.set_xlim(-edge, edge)
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    kind = "mask AP" if masks else "AP"
    axes.set_xlabel(
        f"points of {kind} more (right) or fewer (left) than {display_name(baseline_of(results))}"
    )
    if len(names) > 1:
        handles = [
            Line2D(
                [],
                [],
                color=theme.colour(order.index(name)),
                marker="o",
                linewidth=2.4,
                label=", ".join(short_lines(name, results.get("sweep"))),
            )
            for name in names
        ]
        drawn.legend(
            handles=handles,
            loc="outside upper center",
            ncols=min(3, len(handles)),
            frameon=False,
            labelcolor=theme.ink,
            fontsize=10,
        )
    return drawn


def _difference(axes: Axes, row: ScoreDifference, y: float, colour: str, theme: Theme) -> bool:
    """One difference with its intervals; False where there is none."""
    if row["difference"] is None:
        return False
    mean, low, high = 100 * row["difference"], row["low"], row["high"]
    if row["image_low"] is not None and row["image_high"] is not None:
        ends = [100 * row["image_low"], 100 * row["image_high"]]
        axes.plot(ends, [y, y], color=colour, linewidth=1, marker="|", markersize=7, mew=1)
    known = low is not None and high is not None
    if low is not None and high is not None:
        axes.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=3, alpha=0.55)
    face = colour if known else theme.background
    axes.plot([mean], [y], "o", color=colour, markersize=7, mfc=face, mew=1.8, zorder=3)
    return True
