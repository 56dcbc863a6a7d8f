"""What the numbers allow to say, in one plain sentence a contender, and never more."""

from enum import StrEnum

from sgekit.comparison.formats import (
    decimals_for,
    display_name,
    half_width,
    interval,
    points,
    rough,
)
from sgekit.comparison.results import Cost, Difference, SeedsNeeded, Speed

ALPHA = 0.05


class Verdict(StrEnum):
    """What a paired difference shows at the 5 % level, adjusted for several contenders."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "no difference seen"
    ONE_SEED = "one seed only"
    MISSING = "no pair of runs yet"


def verdict(difference: Difference | None) -> Verdict:
    """The verdict on contender minus baseline; the Holm-adjusted p value decides where given."""
    if difference is None or difference["n"] == 0:
        return Verdict.MISSING
    if difference["n"] == 1:
        return Verdict.ONE_SEED
    p = difference["p"] if difference["p_holm"] is None else difference["p_holm"]
    if p is None or p >= ALPHA:
        return Verdict.UNCLEAR
    return Verdict.BETTER if difference["mean"] > 0 else Verdict.WORSE


def conclude(
    attention: str,
    baseline: str,
    difference: Difference | None,
    cost: Cost | None = None,
) -> str:
    """One sentence about ``attention`` against ``baseline``, and one about its measured cost."""
    name, base = display_name(attention), display_name(baseline)
    sentence = _accuracy(name, base, difference)
    clause = cost_clause(base, cost)
    return f"{sentence} {clause}" if clause else sentence


def cost_clause(base: str, cost: Cost | None) -> str:
    """``Training takes 1.12× the time of plain (1.10 to 1.15)``, and the same for inference.

    Where the spread includes 1.00 no difference in time is claimed.
    """
    if cost is None:
        return ""
    parts = [
        _time(what, speed, base)
        for what, speed in (
            ("training", cost["train"]),
            ("inference", cost["inference"]),
        )
        if speed is not None
    ]
    if not parts:
        return ""
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _time(what: str, speed: Speed, base: str) -> str:
    low, high = round(speed["ratio"]["low"], 2), round(speed["ratio"]["high"], 2)
    spread = f"{speed['ratio']['median']:.2f}×, {low:.2f} to {high:.2f}"
    if low <= 1 <= high:
        return f"no difference in {what} time to {base} can be told ({spread})"
    return (
        f"{what} takes {speed['ratio']['median']:.2f}× the time of {base} ({low:.2f} to {high:.2f})"
    )


def _accuracy(name: str, base: str, difference: Difference | None) -> str:
    found = verdict(difference)
    if difference is None or found is Verdict.MISSING:
        return f"Nothing can be said yet: no seed has finished for both {name} and {base}."
    decimals, n = decimals_for(difference), difference["n"]
    mean = f"{points(difference['mean'], decimals)} points"
    if found is Verdict.ONE_SEED:
        return (
            f"One seed tells no interval: {name} came out at {mean} against {base}, "
            "which may be chance; run at least 3 seeds."
        )
    limits = interval(difference)
    if limits is None:
        return (
            f"No difference between {name} and {base} can be shown: it was {mean} in each of the "
            f"{n} seeds, and equal results tell no interval; run more seeds or a larger evaluation."
        )
    if found is Verdict.UNCLEAR:
        return _unclear(name, base, difference, f"{mean}, 95 % interval {limits}")
    half = 100 * half_width(difference)
    size = f"{100 * abs(difference['mean']):.{decimals}f} ± {half:.{decimals}f} points"
    return f"{name} is {found} than {base} by {size} (95 % interval {limits}, {n} seeds)."


def _unclear(name: str, base: str, difference: Difference, numbers: str) -> str:
    n = difference["n"]
    p, adjusted = difference["p"], difference["p_holm"]
    if p is not None and adjusted is not None and p < ALPHA <= adjusted:
        than = Verdict.BETTER if difference["mean"] > 0 else Verdict.WORSE
        text = (
            f"That {name} is {than} than {base} is not shown: the interval excludes zero ("
            f"difference {numbers}, {n} seeds), but with several contenders p is {adjusted:.2f}"
        )
    else:
        text = (
            f"No difference between {name} and {base} can be seen with {n} seeds "
            f"(difference {numbers})"
        )
    return f"{text}{_more_seeds(n, difference['seeds_needed'])}."


def _more_seeds(n: int, needed: SeedsNeeded) -> str:
    seeds = needed["seeds"]
    if seeds is None:
        return ""
    goal = f"{100 * needed['difference']:.1f} points"
    if seeds <= n:
        return f"; a difference of {goal} would probably have been seen"
    text = f"; about {rough(seeds)} seeds would be needed to see {goal}"
    low, high = needed["low"], needed["high"]
    if low is not None and high is not None:
        text += f" (between {rough(low)} and {rough(high)}: {n} seeds say little about the spread)"
    return text
