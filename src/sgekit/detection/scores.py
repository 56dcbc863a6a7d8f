"""COCO's twelve numbers, and those of every class, from matched detections."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from sgekit.detection.curves import Curves, curves
from sgekit.detection.matching import SIZES, Floats, Matches

_ALL, _SMALL, _MEDIUM, _LARGE = range(len(SIZES))


@dataclass(frozen=True)
class Scores:
    """COCO's twelve numbers as fractions, NaN where there is no such object, and AP by class.

    ``ap`` is the mean over overlaps of 0.5 to 0.95, ``ap50`` and ``ap75`` are those at one of them;
    small, medium and large are areas up to 32², up to 96² and above, in pixels. ``ar1``, ``ar10``
    and ``ar100`` allow as many detections in an image and class.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float]
    curves: Curves = field(compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the curves, for JSON: None for NaN."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.type is float}
        return {
            **{name: _or_none(value) for name, value in named.items()},
            "per_class": {name: _or_none(value) for name, value in self.per_class.items()},
        }


@dataclass(frozen=True)
class DetectionScores:
    """``mask`` is None where masks are not evaluated."""

    box: Scores
    mask: Scores | None


def score(matches: Matches) -> Scores:
    """COCO's scores of matched detections."""
    drawn = curves(matches)
    precision, recall = drawn.precision, drawn.recall
    # The order in which pycocotools adds, so that the last digit is the same.
    ordered = np.swapaxes(precision, 2, 3)
    return Scores(
        ap=_mean(ordered[_ALL]),
        ap50=_mean(ordered[_ALL, 0]),
        ap75=_mean(ordered[_ALL, 5]),
        ap_small=_mean(ordered[_SMALL]),
        ap_medium=_mean(ordered[_MEDIUM]),
        ap_large=_mean(ordered[_LARGE]),
        ar1=_mean(recall[_ALL, :, :, 0]),
        ar10=_mean(recall[_ALL, :, :, 1]),
        ar100=_mean(recall[_ALL, :, :, 2]),
        ar_small=_mean(recall[_SMALL, :, :, 2]),
        ar_medium=_mean(recall[_MEDIUM, :, :, 2]),
        ar_large=_mean(recall[_LARGE, :, :, 2]),
        per_class={name: _mean(precision[_ALL, :, k]) for k, name in enumerate(matches.classes)},
        curves=drawn,
    )


def _mean(values: Floats) -> float:
    real = values[~np.isnan(values)]
    return float(real.mean()) if real.size else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
