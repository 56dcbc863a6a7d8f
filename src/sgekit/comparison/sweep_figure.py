"""The sweep's chart: the difference to the baseline against the option's value."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from sgekit.comparison.formats import display_name, values_text
from sgekit.comparison.results import Difference, Results, accuracies, baseline_of
from sgekit.figures.style import LIGHT, Theme, figure, note, style, tick

# Characters of all the values' labels that stand side by side; more are turned.
_ROOM = 40


def sweep(results: Results, theme: Theme = LIGHT) -> Figure:
    """Mean paired differences with 95 % intervals over the values, and each seed.

    Positive numbers that span more than a factor of 8 stand on a log2 axis, others in even
    steps; numbers in rising order, all else as given. A difference without an interval is
    hollow. ``results`` must hold a sweep.
    """
    swept = results["sweep"]
    contenders = {contender["attention"]: contender for contender in results["contenders"]}
    order = _ordered(swept["values"])
    places = _places([swept["values"][name] for name in order])
    logarithmic = places is not None
    xs = places if places is not None else [float(index) for index in range(len(order))]
    baseline = baseline_of(results)
    reference = accuracies(contenders[baseline])
    drawn = figure(4.9, 3.4, theme)
    axes = drawn.add_subplot()
    colour = theme.colour(1)
    line: list[tuple[float, float]] = []
    for x, name in zip(xs, order, strict=True):
        difference = contenders[name].get("difference")
        if difference is None:
            continue
        values = accuracies(contenders[name])
        seeds = [100 * (values[s] - reference[s]) for s in values.keys() & reference.keys()]
        axes.plot([x] * len(seeds), seeds, "_", color=colour, alpha=0.65, markersize=9, mew=1.4)
        limits = _limits(difference)
        if limits:
            axes.plot([x, x], limits, color=colour, linewidth=2.4)
        mean = 100 * difference["mean"]
        face = colour if limits else theme.background
        axes.plot([x], [mean], "o", color=colour, markersize=8, mfc=face, mew=2, zorder=3)
        line.append((x, mean))
    if not line:
        note(axes, "No seed has finished for two contenders yet.", theme)
        return drawn
    style(axes, theme)
    if _is_numeric([swept["values"][name] for name in order]):
        # Only between numbers does a line say something.
        axes.plot(*zip(*line, strict=True), color=colour, linewidth=1, alpha=0.5, zorder=1)
    axes.axhline(0, color=theme.baseline, linewidth=1.4, linestyle="--", zorder=1)
    if logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(xs) / 1.4, max(xs) * 1.4)
    else:
        axes.set_xlim(-0.5, len(xs) - 0.5)
    labels = [values_text(swept["values"][name]) for name in order]
    turned = len("  ".join(labels)) > _ROOM
    axes.set_xticks(xs, labels, rotation=45 if turned else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.set_xlabel(":".join(swept["options"]))
    axes.set_ylabel(f"points more or fewer than {display_name(baseline)}")
    return drawn


def _limits(difference: Difference) -> list[float] | None:
    low, high = difference["low"], difference["high"]
    return None if low is None or high is None else [100 * low, 100 * high]


def _is_numeric(values: Sequence[Sequence[Any]]) -> bool:
    return all(
        len(value) == 1 and isinstance(value[0], int | float) and not isinstance(value[0], bool)
        for value in values
    )


def _ordered(values: dict[str, list[Any]]) -> list[str]:
    if _is_numeric(list(values.values())):
        return sorted(values, key=lambda name: values[name][0])
    return list(values)


def _places(values: Sequence[Sequence[Any]]) -> list[float] | None:
    """Where the values stand on a log2 axis, or None where they don't belong on one."""
    if not _is_numeric(values):
        return None
    numbers = [float(value[0]) for value in values]
    return numbers if min(numbers) > 0 and max(numbers) > 8 * min(numbers) else None
