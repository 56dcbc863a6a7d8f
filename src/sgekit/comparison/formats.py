"""Numbers as people read them: points, ratios, counts and bytes.

Accuracies are fractions in the data and percent or percentage points in text. Signs are the
typographic minus (U+2212) and plus.
"""

from collections.abc import Sequence
from typing import Any

from sgekit.comparison.results import Difference, Spread, SweepValues
from sgekit.models.contender import parse, written

NONE = "–"


def display_name(attention: str) -> str:
    """``none`` is called plain: "better than none" says something else."""
    return "plain" if attention == "none" else attention


def short_lines(attention: str, sweep: SweepValues | None = None) -> list[str]:
    """A contender in short lines: its name, then each option; within a sweep what varies alone."""
    contender = parse(attention)
    swept = sweep is not None and attention in sweep["values"]
    shown = sweep["options"] if sweep is not None and swept else list(contender.options)
    options = [f"{option}={written(contender.options[option])}" for option in shown]
    return options if swept else [display_name(contender.name), *options]


def values_text(values: Sequence[Any]) -> str:
    """A contender's values in a sweep as they are typed: ``8``, ``0:1``."""
    return ":".join(map(written, values))


def signed(value: float, decimals: int = 1) -> str:
    """``value`` with its sign; what rounds to zero has none."""
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def points(fraction: float, decimals: int = 1) -> str:
    """A difference of accuracies (fraction) in percentage points, signed, without the unit."""
    return signed(100 * fraction, decimals)


def capital(text: str) -> str:
    """The text with a capital at its beginning; what follows stays (AP)."""
    return text[:1].upper() + text[1:]


def percent(fraction: float | None, decimals: int = 1) -> str:
    """An accuracy (fraction) in percent, without the unit."""
    return NONE if fraction is None else f"{100 * fraction:.{decimals}f}"


def decimals_for(difference: Difference) -> int:
    """Decimals (1 to 3) with which neither the interval's width nor a limit rounds to zero points.

    A limit of +0.04 shown as 0.0 would contradict the verdict that the interval excludes zero.
    """
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        smallest = abs(difference["mean"])
        return 1 if smallest == 0 or smallest >= 0.0005 else 2
    smallest = 100 * min((high - low) / 2, abs(low), abs(high))
    return next((d for d in (1, 2) if smallest >= 0.5 * 10**-d), 3)


def half_width(difference: Difference) -> float:
    """Half the interval's width, a fraction; 0 where there is no interval."""
    low, high = difference["low"], difference["high"]
    return 0.0 if low is None or high is None else (high - low) / 2


def interval(difference: Difference) -> str | None:
    """``+0.3 to +1.3`` in points, or None where there is no interval."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return None
    decimals = decimals_for(difference)
    return f"{points(low, decimals)} to {points(high, decimals)}"


def mean_sd(mean: float | None, sd: float | None) -> str:
    """An accuracy in percent, with its sd where there is one."""
    if mean is None:
        return NONE
    return f"{percent(mean)} %" if sd is None else f"{percent(mean)} ± {percent(sd)} %"


def ratio(spread: Spread) -> str:
    """A time relative to the baseline with its spread: ``1.12× (1.10–1.15)``."""
    return f"{spread['median']:.2f}× ({spread['low']:.2f}–{spread['high']:.2f})"


def p_value(p: float | None) -> str:
    """A p value with four decimals; never 0."""
    if p is None:
        return NONE
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def count(value: float) -> str:
    """A count with three digits: ``1.23 M``; counts below 1000 stand as they are."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f}"


def rough(value: int) -> str:
    """An estimate of seeds, at most two digits of it: ``12``, ``1,300``."""
    if value < 100:
        return str(value)
    scale = 10 ** (len(str(value)) - 2)
    return f"{round(value / scale) * scale:,}"


def size(value: int | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return NONE
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.{1 if value < 99.5 * unit else 0}f} {name}"
    return f"{value} B"


def duration(seconds: float) -> str:
    """Seconds as ``45 s``, ``7 min 05 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
