"""Precision and recall from matches, as COCO interpolates them.

Letters in shapes as in `matching`: A sizes, T thresholds, K classes; R points of recall (101).
"""

from dataclasses import dataclass

import numpy as np

from sgekit.detection.matching import MOST, SIZES, THRESHOLDS, Floats, Matches

RECALLS: Floats = np.linspace(0.0, 1.0, 101)
LIMITS = (1, 10, MOST)
"""Detections of an image and a class that recall is told for."""

# pycocotools adds it to the number of detections.
EPS = float(np.spacing(1.0))


@dataclass(frozen=True)
class Curves:
    """NaN where no object counts.

    ``precision`` (A, T, K, R) is the largest at this recall or a higher one, with at most 100
    detections; ``recall`` (A, T, K, len(LIMITS)) is the largest reached.
    """

    precision: Floats
    recall: Floats


def curves(matches: Matches) -> Curves:
    """The curves of all classes, sizes and thresholds, with all images alike."""
    shape = len(SIZES), len(THRESHOLDS), len(matches.classes)
    precision = np.full((*shape, len(RECALLS)), np.nan)
    recall = np.full((*shape, len(LIMITS)), np.nan)
    objects = np.stack(
        [
            np.bincount(matches.object_label[counted], minlength=shape[2])
            for counted in matches.object_counts
        ]
    )
    for k, (start, stop) in enumerate(zip(matches.starts[:-1], matches.starts[1:], strict=True)):
        for a in np.flatnonzero(objects[:, k]):
            hit, counts = (flags[a, :, start:stop] for flags in (matches.hit, matches.counts))
            for m, limit in enumerate(LIMITS):
                taken = hit[:, matches.rank[start:stop] < limit].sum(axis=1)
                recall[a, :, k, m] = taken / objects[a, k]
            hits = hit.cumsum(axis=1)
            share = hits / (counts.cumsum(axis=1) + EPS)
            best = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
            reached = hits / objects[a, k]
            for t in range(len(THRESHOLDS)):
                at = np.searchsorted(reached[t], RECALLS)
                precision[a, t, k] = np.append(best[t], 0.0)[at]
    return Curves(precision, recall)
