from typing import Any

import pytest

from sgekit.comparison.conclusion import Verdict, conclude, verdict
from sgekit.comparison.results import Cost, Difference, SeedsNeeded, Spread


def difference(
    mean: float,
    low: float | None = None,
    high: float | None = None,
    p: float | None = None,
    **changed: Any,
) -> Difference:
    needed: SeedsNeeded = {"difference": 0.005, "seeds": None, "low": None, "high": None}
    made: Difference = {
        "n": 3,
        "mean": mean,
        "sd": 0.004,
        "low": low,
        "high": high,
        "p": p,
        "p_holm": p,
        "seeds_needed": needed,
    }
    made.update(changed)  # type: ignore[typeddict-item]
    return made


def needed(seeds: int, low: int, high: int) -> SeedsNeeded:
    return {"difference": 0.005, "seeds": seeds, "low": low, "high": high}


def test_better() -> None:
    found = difference(0.008, 0.003, 0.013, 0.01, n=5)
    assert verdict(found) is Verdict.BETTER
    assert conclude("sge", "none", found) == (
        "sge is better than plain by 0.8 ± 0.5 points (95 % interval +0.3 to +1.3, 5 seeds)."
    )


def test_worse() -> None:
    found = difference(-0.008, -0.013, -0.003, 0.01)
    assert verdict(found) is Verdict.WORSE
    assert conclude("sge", "se", found) == (
        "sge is worse than se by 0.8 ± 0.5 points (95 % interval −1.3 to −0.3, 3 seeds)."
    )


def test_no_difference_tells_how_many_seeds() -> None:
    found = difference(0.003, -0.009, 0.015, 0.4, seeds_needed=needed(12, 6, 110))
    assert verdict(found) is Verdict.UNCLEAR
    assert conclude("sge", "none", found) == (
        "No difference between sge and plain can be seen with 3 seeds (difference +0.3 points, "
        "95 % interval −0.9 to +1.5); about 12 seeds would be needed to see 0.5 points "
        "(between 6 and 110: 3 seeds say little about the spread)."
    )


def test_enough_seeds_and_still_no_difference() -> None:
    found = difference(0.001, -0.001, 0.003, 0.3, n=10, seeds_needed=needed(5, 4, 8))
    text = conclude("sge", "none", found)
    assert "No difference between sge and plain can be seen with 10 seeds" in text
    assert text.endswith("; a difference of 0.5 points would probably have been seen.")


def test_holm_decides_and_the_sentence_says_so() -> None:
    found = difference(0.008, 0.001, 0.015, 0.04, p_holm=0.08)
    assert verdict(found) is Verdict.UNCLEAR
    text = conclude("sge", "none", found)
    assert text.startswith("That sge is better than plain is not shown: the interval excludes zero")
    assert "+0.1 to +1.5, 3 seeds), but with several contenders p is 0.08" in text
    found = difference(-0.008, -0.015, -0.001, 0.04, p_holm=0.08)
    assert conclude("sge", "none", found).startswith("That sge is worse than plain is not shown")


def test_one_seed_concludes_nothing() -> None:
    found = difference(0.05, n=1, sd=None)
    assert verdict(found) is Verdict.ONE_SEED
    text = conclude("sge", "none", found)
    assert text.startswith("One seed tells no interval: sge came out at +5.0 points")
    assert "better" not in text


def test_equal_differences_conclude_nothing() -> None:
    found = difference(0.02, sd=0.0)
    assert verdict(found) is Verdict.UNCLEAR
    text = conclude("sge", "none", found)
    assert "it was +2.0 points in each of the 3 seeds" in text
    assert "interval" in text
    assert "better" not in text


def test_no_pair() -> None:
    assert verdict(None) is Verdict.MISSING
    assert conclude("sge", "none", None) == (
        "Nothing can be said yet: no seed has finished for both sge and plain."
    )


def test_a_limit_near_zero_is_not_rounded_to_zero() -> None:
    text = conclude("sge", "none", difference(0.008, 0.0003, 0.0157, 0.045))
    assert "better than plain by 0.80 ± 0.77 points (95 % interval +0.03 to +1.57" in text


def spread(median: float, low: float, high: float) -> Spread:
    return {"median": median, "low": low, "high": high}


def test_cost_is_told_only_where_the_spread_allows() -> None:
    measured: Cost = {
        "train": {"images_per_s": spread(9, 8, 10), "ratio": spread(1.12, 1.1, 1.15)},
        "inference": {"images_per_s": spread(9, 8, 10), "ratio": spread(1.01, 0.97, 1.05)},
        "peak_memory_bytes": None,
    }
    text = conclude("sge", "none", None, measured)
    assert text.endswith(
        " Training takes 1.12× the time of plain (1.10 to 1.15); "
        "no difference in inference time to plain can be told (1.01×, 0.97 to 1.05)."
    )
    measured["inference"] = None
    assert conclude("sge", "none", None, measured).endswith("plain (1.10 to 1.15).")
    measured["train"] = None
    assert conclude("sge", "none", None, measured) == conclude("sge", "none", None)


@pytest.mark.parametrize(("p", "expected"), [(0.049, Verdict.BETTER), (0.05, Verdict.UNCLEAR)])
def test_the_level(p: float, expected: Verdict) -> None:
    assert verdict(difference(0.01, 0.001, 0.019, p)) is expected
