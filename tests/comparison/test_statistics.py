import math

import numpy as np
import pytest
from scipy import stats

from sgekit.comparison.statistics import (
    holm,
    paired_difference,
    sd_interval,
    seeds_needed,
)
from sgekit.errors import InputError


def test_paired_difference_is_the_paired_t_test() -> None:
    a, b = [0.74, 0.76, 0.71, 0.75], [0.73, 0.72, 0.70, 0.74]
    found = paired_difference(a, b, confidence=0.9)
    expected = stats.ttest_rel(a, b)
    limits = expected.confidence_interval(0.9)
    assert found.n == 4
    assert found.mean == pytest.approx(0.0175)
    assert found.sd == pytest.approx(np.std(np.subtract(a, b), ddof=1))
    assert [found.low, found.high] == pytest.approx([limits.low, limits.high])
    assert found.p == pytest.approx(expected.pvalue)
    assert not found.constant


def test_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.302653.
    found = paired_difference([1, 2, 3], [0, 0, 0])
    half = 4.302653 / math.sqrt(3)
    assert found.low == pytest.approx(2 - half)
    assert found.high == pytest.approx(2 + half)


def test_one_pair_has_a_mean_and_nothing_else() -> None:
    found = paired_difference([0.8], [0.7])
    assert found.mean == pytest.approx(0.1)
    assert (found.sd, found.low, found.high, found.p) == (None, None, None, None)
    assert not found.constant


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_equal_differences_give_no_interval(shift: float) -> None:
    # 0.3 + 0.1 - 0.3 and 0.7 + 0.1 - 0.7 differ in the last bit.
    found = paired_difference([0.3 + shift, 0.7 + shift], [0.3, 0.7])
    assert found.constant
    assert (found.sd, found.low, found.p) == (0.0, None, None)


@pytest.mark.parametrize(
    ("a", "b", "confidence", "message"),
    [
        ([], [], 0.95, "at least one: got 0 and 0"),
        ([1.0, 2.0], [1.0], 0.95, "got 2 and 1"),
        ([math.nan], [1.0], 0.95, "not finite"),
        ([1.0], [1.0], 95, "confidence 95"),
    ],
)
def test_bad_pairs(a: list[float], b: list[float], confidence: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        paired_difference(a, b, confidence)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 gives 0.03, 0.06, 0.04, raised to 0.06.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(InputError, match=r"1\.5"):
        holm([0.5, 1.5])


@pytest.mark.parametrize(
    ("effect", "seeds"),
    # Textbook sizes for the two-sided paired t test at 5 % and power 0.8.
    [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)],
)
def test_seeds_needed_matches_the_tables(effect: float, seeds: int) -> None:
    assert seeds_needed(1 / effect, -1.0) == seeds


def test_seeds_needed_is_the_smallest_that_reach_the_power() -> None:
    rng = np.random.default_rng(0)
    n = seeds_needed(0.006, 0.005)

    def power(size: int) -> float:
        draws = rng.normal(0.005, 0.006, (40_000, size))
        return float((stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean())

    assert power(n) > 0.79
    assert power(n - 1) < 0.80


def test_seeds_needed_at_the_ends() -> None:
    assert seeds_needed(0, 0.005) == 2
    assert seeds_needed(1e-9, 0.005) == 2
    # Far out the normal approximation takes over: (1.959964 + 0.841621)^2 * 1000^2.
    assert seeds_needed(1000, 1) == pytest.approx(7_848_880, rel=1e-5)
    # No jump where it does.
    assert seeds_needed(1, 0.02801) == pytest.approx(seeds_needed(1, 0.02802), abs=10)
    assert seeds_needed(1, 0.5, alpha=0.05 / 3) > seeds_needed(1, 0.5)


@pytest.mark.parametrize("arguments", [(-1, 1), (math.nan, 1), (1, 0), (1, 1, 1.2), (1, 1, 0.01)])
def test_seeds_needed_refuses(arguments: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        seeds_needed(*arguments)


def test_sd_interval_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0, 2, (20_000, 4)).std(axis=1, ddof=1)
    factors = sd_interval(1.0, 4, confidence=0.8)
    covered = (draws * factors[0] < 2) & (draws * factors[1] > 2)
    assert covered.mean() == pytest.approx(0.8, abs=0.015)
    with pytest.raises(InputError, match="n >= 2"):
        sd_interval(1.0, 1)
