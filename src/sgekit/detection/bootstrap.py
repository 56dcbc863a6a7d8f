"""How far a difference in average precision depends on which images were in the validation set.

Images are drawn with replacement, as many as there are, and both detectors are scored on the same
draw (the paired percentile bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap,
1993). Nothing is matched again: an image drawn w times counts w times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sgekit.detection.curves import RECALLS
from sgekit.detection.matching import SIZES, THRESHOLDS, Flags, Floats, Ints, Matches
from sgekit.errors import InputError

METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
Counts: TypeAlias = NDArray[np.int32]

# Elements of the largest temporary arrays.
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A difference between two detectors on all images and where it lies on redrawn ones.

    ``low`` and ``high`` are None where fewer than half of the ``resamples`` have a value, for
    example because they hold no large object; ``used`` says how many have one. ``difference`` is
    None where the data have no such object.
    """

    difference: float | None
    low: float | None
    high: float | None
    resamples: int
    used: int


def paired_bootstrap(
    a: Sequence[Matches],
    b: Sequence[Matches],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Interval]:
    """The interval of a − b in average precision, for each of `METRICS`.

    ``a`` and ``b`` hold one entry a training seed, in the same order; the difference is the mean
    over seeds, all scored on the same draws. The trained networks are taken as given: the interval
    tells nothing about other seeds. ``progress`` is called with the classes done and their number.

    Raises `InputError` where the entries are not pairs of one ground truth, for fewer than 2
    resamples, and for a confidence outside (0, 1).
    """
    _check(a, b, resamples, confidence)
    images = len(a[0].image_ids)
    rng = np.random.default_rng(seed)
    # The first draw is the data as they are.
    weights = np.ones((1 + resamples, images), dtype=np.int32)
    for row in weights[1:]:
        row[:] = np.bincount(rng.integers(images, size=images), minlength=images)
    total, done = (len(a) + len(b)) * len(a[0].classes), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    difference = np.zeros((len(METRICS), 1 + resamples))
    for one, other in zip(a, b, strict=True):
        difference += metrics(one, weights, advance) - metrics(other, weights, advance)
    difference /= len(a)
    return {
        name: _interval(values, confidence)
        for name, values in zip(METRICS, difference, strict=True)
    }


def metrics(matches: Matches, weights: Counts, advance: Callable[[], None] | None = None) -> Floats:
    """`METRICS` (M, B) for B draws; ``weights`` (B, I) says how often each has each image.

    Copies of an image stand beside each other in the order of scores, detection by detection.
    """
    draws = len(weights)
    precision = np.full((len(SIZES), len(THRESHOLDS), len(matches.classes), draws), np.nan)
    for k in range(len(matches.classes)):
        of_class = _Class.of(matches, k)
        step = max(1, _CHUNK // max(1, len(of_class.image)))
        for start in range(0, draws, step):
            part = slice(start, start + step)
            precision[:, :, k, part] = of_class.precision(weights[part])
        if advance is not None:
            advance()
    every = precision.reshape(len(SIZES), -1, draws)
    return np.stack(
        [
            _mean(every[0]),
            _mean(precision[0, 0]),
            _mean(precision[0, 5]),
            *(_mean(of_size) for of_size in every[1:]),
        ]
    )


@dataclass(frozen=True)
class _Class:
    """One class of `Matches`; D are its detections, G its objects."""

    image: Ints
    hit: Flags
    counts: Flags
    within: Flags
    object_image: Ints
    object_counts: Flags

    @staticmethod
    def of(matches: Matches, k: int) -> "_Class":
        part = slice(int(matches.starts[k]), int(matches.starts[k + 1]))
        own = matches.object_label == k
        return _Class(
            matches.image[part],
            matches.hit[:, :, part],
            matches.counts[:, :, part],
            matches.within[:, part],
            matches.object_image[own],
            matches.object_counts[:, own],
        )

    def precision(self, weights: Counts) -> Floats:
        """Average precision (A, T, B) of draws (B, I), NaN where no object is there to count."""
        found = np.full((len(SIZES), len(THRESHOLDS), len(weights)), np.nan)
        drawn = np.take(weights, self.image, axis=1)
        # As floats for BLAS: exact far beyond any number of objects.
        objects = np.take(weights, self.object_image, axis=1) @ self.object_counts.T.astype(float)
        for a in np.flatnonzero(self.object_counts.any(axis=1)).tolist():
            present = objects[:, a] > 0
            needed = _hits_needed(objects[:, a])
            # Nearly all that counts is within the range at every threshold, so that is summed once
            # and each threshold adds what it lets in and takes off what it leaves out.
            inside = self.within[a]
            before = np.zeros((len(weights), int(inside.sum()) + 1), dtype=np.int32)
            np.cumsum(np.compress(inside, drawn, axis=1), axis=1, out=before[:, 1:])
            position = np.cumsum(inside)
            for t in range(len(THRESHOLDS)):
                hit, moved = self.hit[a, t], self.counts[a, t] != inside
                if not hit.any():
                    found[a, t] = 0.0
                    continue
                at_hit = np.flatnonzero(hit)
                detected = np.take(before, position[at_hit], axis=1)
                if moved.any():
                    at = np.flatnonzero(moved)
                    shift = np.take(drawn, at, axis=1) * np.where(inside[at], -1, 1)
                    shift = np.cumsum(shift, axis=1, dtype=np.int32)
                    shift = np.concatenate([np.zeros_like(shift[:, :1]), shift], axis=1)
                    detected += np.take(shift, np.searchsorted(at, at_hit, side="right"), axis=1)
                found[a, t] = _average(np.take(drawn, at_hit, axis=1), detected, needed)
            found[a, :, ~present] = np.nan
        return found


def _hits_needed(objects: Floats) -> NDArray[np.int32]:
    """The fewest hits (B, R) whose share of the objects (B,) is at least each point of recall."""
    some = np.maximum(objects, 1.0)[:, None]
    guess = np.ceil(RECALLS * some)
    # The product rounds, and what COCO compares is the quotient.
    guess -= (guess - 1) / some >= RECALLS
    guess += guess / some < RECALLS
    return np.maximum(guess, 0).astype(np.int32)


def _average(hits: Counts, detected: Counts, needed: Counts) -> Floats:
    """Average precision (B,) from the weights (B, N) of the hits of one class, size and threshold.

    ``detected`` (B, N) is the weight of all that counts up to each hit. Precision is looked at
    where a hit is, and there once for all copies of its image: between hits it falls and from copy
    to copy of a hit it rises, so the largest at a recall or a higher one is the same.
    """
    draws, count = hits.shape
    np.cumsum(hits, axis=1, out=hits)
    at = torch.searchsorted(torch.from_numpy(hits), torch.from_numpy(needed)).numpy()
    # A column of zeros stands for recall that is not reached. Each draw begins with the recall 0,
    # so that the largest values between points do not reach over from one draw to the next.
    share = np.zeros((draws, count + 1))
    np.divide(hits, np.maximum(detected, 1), out=share[:, :count])
    at += np.arange(draws)[:, None] * (count + 1)
    between = np.maximum.reduceat(share.ravel(), at.ravel()).reshape(at.shape)
    return np.asarray(np.maximum.accumulate(between[:, ::-1], axis=1).mean(axis=1))


def _mean(values: Floats) -> Floats:
    """Mean (B,) of (N, B) without NaN; NaN where there is nothing else."""
    count = (~np.isnan(values)).sum(axis=0)
    return np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)


def _interval(values: Floats, confidence: float) -> Interval:
    first, draws = float(values[0]), values[1:]
    real = draws[~np.isnan(draws)]
    if np.isnan(first) or 2 * len(real) < len(draws):
        low = high = None
    else:
        low, high = np.quantile(real, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(None if np.isnan(first) else first, low, high, len(draws), len(real))


def _check(a: Sequence[Matches], b: Sequence[Matches], resamples: int, confidence: float) -> None:
    if len(a) != len(b) or len(a) == 0:
        raise InputError(f"pairs need equally many evaluations, at least one: {len(a)}, {len(b)}")
    if resamples < 2:
        raise InputError(f"{resamples} resamples give no interval; 1000 are usual")
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is not between 0 and 1 (0.95 is usual)")
    first = a[0]
    if len(first.image_ids) == 0:
        raise InputError("there is no image to draw")
    for other in (*a[1:], *b):
        same = (
            first.classes == other.classes
            and np.array_equal(first.image_ids, other.image_ids)
            and np.array_equal(first.object_image, other.object_image)
            and np.array_equal(first.object_label, other.object_label)
            and np.array_equal(first.object_counts, other.object_counts)
        )
        if not same:
            raise InputError(
                "the evaluations are of different ground truths "
                f"({len(first.image_ids)} and {len(other.image_ids)} images): score both on the "
                "same images"
            )
