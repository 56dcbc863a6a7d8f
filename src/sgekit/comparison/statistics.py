"""What paired runs allow to conclude: intervals, tests, and how many seeds would be needed.

Two networks trained with the same seed share initial weights and batches, so their accuracies are
compared seed by seed. The differences are taken as independent draws from a normal distribution;
with a handful of seeds that cannot be checked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sgekit.errors import InputError

# Equal differences reach here as fractions with rounding noise of about 1e-16; one image more or
# less in a validation set is never below this.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PairedDifference:
    """Mean of n paired differences with its confidence interval and two-sided p value.

    ``sd`` is the unbiased one of the differences (None for n = 1). ``low``, ``high`` and ``p`` are
    None for n = 1 and where all differences are equal: t is undefined there, and an interval of
    width 0 would claim a certainty that equal results by chance do not give.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    p: float | None

    @property
    def constant(self) -> bool:
        """Whether there are at least two differences and all are equal."""
        return self.n > 1 and self.p is None


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> PairedDifference:
    """Paired t interval and test of a − b, element by element.

    The interval is not adjusted for several comparisons. Raises `InputError` where the sequences
    are empty, differ in length or hold a number that is not finite, or where ``confidence`` is not
    between 0 and 1.
    """
    if len(a) != len(b) or len(a) == 0:
        raise InputError(f"pairs need equally many values, at least one: got {len(a)} and {len(b)}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is not between 0 and 1 (0.95 is usual)")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise InputError("a paired value is not finite: leave out the runs without an accuracy")
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return PairedDifference(n, mean, None, None, None, None)
    sd = float(differences.std(ddof=1))
    if sd <= _ROUNDING:
        return PairedDifference(n, mean, 0.0, None, None, None)
    error = sd / math.sqrt(n)
    half = float(stats.t.isf((1 - confidence) / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return PairedDifference(n, mean, sd, mean - half, mean + half, p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values (Scand. J. Statist. 6, 1979), in the given order.

    Raises `InputError` where a value is not between 0 and 1.
    """
    for value in p:
        if not 0 <= value <= 1:
            raise InputError(f"p value {value} is not between 0 and 1")
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(sd: float, difference: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Smallest n with which a paired t test sees ``difference`` with probability ``power``.

    ``sd`` is the standard deviation of the paired differences, in the unit of ``difference``; the
    power comes from the noncentral t distribution. At least 2, also for ``sd`` 0. An sd that was
    estimated from few seeds is itself uncertain: pass the ends of `sd_interval` for the range.

    Raises `InputError` for a negative sd, a difference of 0, and a power or alpha outside (0, 1).
    """
    if not (math.isfinite(sd) and sd >= 0) or not math.isfinite(difference) or difference == 0:
        raise InputError(f"sd {sd} must be 0 or more and difference {difference} must not be 0")
    if not 0 < alpha < power < 1:
        raise InputError(f"alpha {alpha} and power {power} must satisfy 0 < alpha < power < 1")
    if sd == 0:
        return 2
    effect = abs(difference) / sd
    # The t test needs more seeds than the normal approximation, so the search starts just below it.
    normal = (float(stats.norm.isf(alpha / 2)) + float(stats.norm.ppf(power))) / effect
    n = max(2, math.floor(normal**2))
    if n > 10_000:  # here the two agree to a few parts in ten thousand
        return math.ceil(normal**2)
    while _power(n, effect, alpha) < power:
        n += 1
    return n


def sd_interval(sd: float, n: int, confidence: float = 0.8) -> tuple[float, float]:
    """Chi-square interval of a standard deviation estimated from n normal values, n >= 2.

    Three seeds leave it between 0.66 and 3.1 times the estimate at 80 %. Raises `InputError` for
    n below 2 and a confidence outside (0, 1).
    """
    if n < 2 or not 0 < confidence < 1:
        raise InputError(f"a spread needs n >= 2 and confidence in (0, 1): got {n}, {confidence}")
    tail = (1 - confidence) / 2
    factors = (math.sqrt((n - 1) / float(stats.chi2.isf(t, n - 1))) for t in (tail, 1 - tail))
    low, high = factors
    return sd * low, sd * high


def _power(n: int, effect: float, alpha: float) -> float:
    critical = float(stats.t.isf(alpha / 2, n - 1))
    shift = effect * math.sqrt(n)
    above = float(stats.nct.sf(critical, n - 1, shift))
    return above + float(stats.nct.cdf(-critical, n - 1, shift))
