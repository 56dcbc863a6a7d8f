"""From the runs to what they add up to: means, paired differences, verdicts, sentences."""

import copy

import numpy as np

from sgekit.comparison.conclusion import conclude
from sgekit.comparison.formats import display_name
from sgekit.comparison.results import (
    Contender,
    Difference,
    Results,
    SeedsNeeded,
    accuracies,
    baseline_of,
)
from sgekit.comparison.statistics import (
    holm,
    paired_difference,
    sd_interval,
    seeds_needed,
)

# The difference, as a fraction, for which the seeds needed are told.
TARGET = 0.005


def summarise(results: Results) -> Results:
    """A copy of ``results`` with mean, sd, difference and conclusion filled in from the runs.

    Runs may be missing: a difference pairs the seeds that both contenders finished, and is None
    where there are none. Runs without a finite accuracy are left out and counted in the conclusion.
    Raises `InputError` where there are no contenders.
    """
    results = copy.deepcopy(results)
    baseline = results["baseline"] = baseline_of(results)
    contenders = results["contenders"]
    reference = accuracies(next(c for c in contenders if c["attention"] == baseline))
    others = [c for c in contenders if c["attention"] != baseline]
    for contender in contenders:
        values = list(accuracies(contender).values())
        contender["mean"] = float(np.mean(values)) if values else None
        contender["sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        contender["difference"] = None
    for contender in others:
        contender["difference"] = _difference(accuracies(contender), reference, len(others))
    _adjust([c["difference"] for c in others])
    for contender in contenders:
        contender["conclusion"] = _sentence(contender, baseline)
    results["conclusion"] = _overall(results, others)
    return results


def _difference(
    values: dict[int, float], reference: dict[int, float], comparisons: int
) -> Difference | None:
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    found = paired_difference([values[s] for s in seeds], [reference[s] for s in seeds])
    return {
        "n": found.n,
        "mean": found.mean,
        "sd": found.sd,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "p_holm": None,
        "seeds_needed": _needed(found.sd, found.n, comparisons),
    }


def _needed(sd: float | None, n: int, comparisons: int) -> SeedsNeeded:
    if not sd:
        return {"difference": TARGET, "seeds": None, "low": None, "high": None}
    # Holm's first and strictest step, so that the promise holds whichever contender comes first.
    alpha = 0.05 / comparisons
    low, seeds, high = (
        seeds_needed(value, TARGET, alpha=alpha)
        for value in (sd_interval(sd, n)[0], sd, sd_interval(sd, n)[1])
    )
    return {"difference": TARGET, "seeds": seeds, "low": low, "high": high}


def _adjust(differences: list[Difference | None]) -> None:
    """For all contenders that were asked for: one without a p yet, or ever, counts as 1."""
    found = [None if difference is None else difference["p"] for difference in differences]
    adjusted = holm([1.0 if p is None else p for p in found])
    for difference, own, p in zip(differences, found, adjusted, strict=True):
        if difference is not None and own is not None:
            difference["p_holm"] = p


def _sentence(contender: Contender, baseline: str) -> str:
    name = contender["attention"]
    lost = len(contender["runs"]) - len(accuracies(contender))
    verb = "is" if lost == 1 else "are"
    note = f" {lost} of its runs ended without an accuracy and {verb} left out."
    if name == baseline:
        text = f"{display_name(name)} is what the others are compared with."
    else:
        text = conclude(name, baseline, contender.get("difference"), contender.get("cost"))
    return text + note if lost else text


def _overall(results: Results, others: list[Contender]) -> str:
    done = sum(len(contender["runs"]) for contender in results["contenders"])
    planned = len(results["contenders"]) * len(results["settings"]["seeds"])
    if others:
        text = "\n".join(contender["conclusion"] for contender in others)
    else:
        text = "There is one contender only: nothing is compared."
    if results["complete"]:
        return text
    return f"Not finished: {done} of {planned} runs are done.\n{text}"
