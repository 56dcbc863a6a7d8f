"""The comparison's charts: accuracy curves, paired differences, cost."""

from itertools import cycle
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sgekit.comparison.formats import (
    decimals_for,
    display_name,
    interval,
    points,
    short_lines,
)
from sgekit.comparison.results import (
    Contender,
    Cost,
    CurvePoint,
    Results,
    Speed,
    Spread,
    accuracies,
    baseline_of,
    metric_of,
)
from sgekit.figures.style import LIGHT, Theme, figure, note, style, tick

WIDTH = 4.9
DASHES = ("--", "-", "-.", ":")


def curves(results: Results, theme: Theme = LIGHT) -> Figure:
    """Validation accuracy over epochs: each seed thin, the mean thick, mean ± sd as a band.

    The mean covers the epochs that all of a contender's runs have; one seed has no band.
    """
    drawn = figure(WIDTH, 3.9, theme)
    axes = drawn.add_subplot()
    any_curve = False
    key = f"val_{metric_of(results).key}"
    for index, (contender, dash) in enumerate(zip(ordered(results), cycle(DASHES), strict=False)):
        colour = theme.colour(index)
        lines = [line for run in contender["runs"] if (line := _line(run["curve"], key))]
        if not lines:
            continue
        any_curve = True
        for line in lines:
            axes.plot(list(line), list(line.values()), color=colour, alpha=0.3, linewidth=0.8)
        epochs = sorted(set.intersection(*(set(line) for line in lines)))
        values = np.array([[line[epoch] for epoch in epochs] for line in lines])
        mean = values.mean(axis=0)
        marker = "o" if len(epochs) == 1 else None
        name = ", ".join(short_lines(contender["attention"], results.get("sweep")))
        label = f"{name} ({_seeds(len(lines))})"
        axes.plot(
            epochs,
            mean,
            color=colour,
            linewidth=2,
            linestyle=dash,
            marker=marker,
            label=label,
        )
        if len(lines) > 1:
            sd = values.std(axis=0, ddof=1)
            axes.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.16, linewidth=0)
    if not any_curve:
        note(axes, "No run has finished an epoch yet.", theme)
        return drawn
    style(axes, theme)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {metric_of(results).noun}, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right", frameon=False, labelcolor=theme.ink, fontsize=10)
    return drawn


def differences(results: Results, theme: Theme = LIGHT) -> Figure:
    """Forest plot: each contender's mean paired difference with its 95 % interval, and each seed.

    A difference without an interval (one seed, or equal ones) is hollow and says so.
    """
    others = _others(results)
    names = [short_lines(other["attention"], results.get("sweep")) for other in others]
    drawn = figure(WIDTH, 1.5 + sum(0.45 + 0.17 * len(name) for name in names or [[""]]), theme)
    axes = drawn.add_subplot()
    reference = accuracies(ordered(results)[0])
    labels = []
    shown = False
    for index, (contender, lines) in enumerate(zip(others, names, strict=True)):
        name, colour = "\n".join(lines), theme.colour(index + 1)
        difference = contender.get("difference")
        if difference is None:
            labels.append(f"{name}\nno pair yet")
            continue
        shown = True
        values = accuracies(contender)
        seeds = [100 * (values[s] - reference[s]) for s in values.keys() & reference.keys()]
        axes.plot(
            seeds,
            [index + 0.2] * len(seeds),
            "|",
            color=colour,
            alpha=0.65,
            markersize=8,
            mew=1.4,
        )
        low, high, mean = (
            difference["low"],
            difference["high"],
            100 * difference["mean"],
        )
        if low is not None and high is not None:
            axes.plot([100 * low, 100 * high], [index, index], color=colour, linewidth=2.4)
            axes.plot([mean], [index], "o", color=colour, markersize=8)
        else:
            axes.plot(
                [mean],
                [index],
                "o",
                color=colour,
                markersize=8,
                mfc=theme.background,
                mew=2,
            )
        text = points(difference["mean"], decimals_for(difference))
        limits = interval(difference) or f"no interval, {_seeds(difference['n'])}"
        gap = "  " if len(lines) == 1 else "\n"
        labels.append(f"{name}{gap}{text}\n{limits}")
    if not shown:
        note(axes, "No seed has finished for two contenders yet.", theme)
        return drawn
    style(axes, theme, grid="x")
    axes.axvline(0, color=theme.baseline, linewidth=1.4, linestyle="--", zorder=1)
    axes.set_yticks(range(len(labels)), labels, color=theme.ink, fontsize=10)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    edge = 1.12 * max(0.1, *(abs(limit) for limit in axes.get_xlim()))
    axes.set_xlim(-edge, edge)
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    base = display_name(baseline_of(results))
    axes.set_xlabel(f"points more (right) or fewer (left) than {base}")
    return drawn


def costs(results: Results, theme: Theme = LIGHT) -> Figure:
    """Bars of training and inference time relative to the baseline, from 1.00×, with the spread."""
    others = [c for c in _others(results) if c.get("cost") is not None]
    names = [short_lines(other["attention"], results.get("sweep")) for other in others]
    drawn = figure(WIDTH, 1.6 + sum(0.33 + 0.17 * len(name) for name in names or [[""]]), theme)
    left, right = drawn.subplots(1, 2, sharey=True)
    base = display_name(baseline_of(results))
    if not others:
        note(left, "", theme)
        note(right, "", theme)
        drawn.text(0.5, 0.5, "No cost has been measured.", ha="center", color=theme.muted)
        return drawn
    order = [contender["attention"] for contender in ordered(results)]
    ratios: list[Spread] = []
    for index, contender in enumerate(others):
        colour = theme.colour(order.index(contender["attention"]))
        cost = contender.get("cost")
        for axes, speed in zip((left, right), _speeds(cost), strict=True):
            if speed is not None:
                _bar(axes, index, speed["ratio"], colour, theme)
                ratios.append(speed["ratio"])
    # The same scale for both, with room on the right for the figures beside the bars.
    lowest = min([1.0, *(ratio["low"] for ratio in ratios)])
    span = max([1.04, *(ratio["high"] for ratio in ratios)]) - lowest
    for axes, title in ((left, "training"), (right, "inference")):
        style(axes, theme, grid="x")
        axes.axvline(1, color=theme.baseline, linewidth=1.4, linestyle="--", zorder=1)
        axes.set_title(title, color=theme.ink, fontsize=10)
        axes.set_xlim(lowest - 0.15 * span, lowest + 1.6 * span)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2f}×"))
    labels = ["\n".join(lines) for lines in names]
    left.set_yticks(range(len(others)), labels, color=theme.ink, fontsize=10)
    left.set_ylim(len(others) - 0.45, -0.55)
    drawn.supxlabel(f"time relative to {base}", color=theme.ink, fontsize=10)
    return drawn


def _bar(axes: Axes, index: int, ratio: Spread, colour: str, theme: Theme) -> None:
    median, low, high = ratio["median"], ratio["low"], ratio["high"]
    axes.barh(index, median - 1, left=1, height=0.5, color=colour, alpha=0.8)
    axes.plot([low, high], [index, index], color=theme.ink, linewidth=1.4)
    axes.annotate(
        f"{median:.2f}×",
        (max(high, 1.0), index),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=theme.ink,
        fontsize=10,
    )


def ordered(results: Results) -> list[Contender]:
    """The baseline first, the others as they come: the index tells the colour."""
    baseline = baseline_of(results)
    return sorted(results["contenders"], key=lambda contender: contender["attention"] != baseline)


def _others(results: Results) -> list[Contender]:
    return ordered(results)[1:]


def _speeds(cost: Cost | None) -> tuple[Speed | None, Speed | None]:
    return (None, None) if cost is None else (cost["train"], cost["inference"])


def _line(curve: list[CurvePoint], key: str) -> dict[int, float]:
    """The metric in percent by epoch, of the epochs that have one."""
    values = {point["epoch"]: cast(dict[str, Any], point).get(key) for point in curve}
    return {epoch: 100 * value for epoch, value in values.items() if value is not None}


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"
