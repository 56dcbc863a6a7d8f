"""Which detection found which object: COCO's rules, for all images, classes and sizes at once.

The rules are those of pycocotools. Detections of one image and class choose in the order of their
scores, the best 100 alone. Each takes the object with the largest overlap of at least the
threshold that is still free; an object that does not count (a crowd, or one outside the range of
sizes) is taken only where no other can be, and a crowd may be taken more than once. A detection
that took what does not count, or took nothing and is outside the range itself, does not count.

Letters in shapes: A ranges of size (4), T thresholds (10), K classes, I images, D detections,
G objects, P pairs of an image and a class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sgekit.data.coco_coder import coder

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Shapes: TypeAlias = Floats | Sequence[dict[str, Any]]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
SIZES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Ranges of area in pixels, both ends included."""

MOST = 100
"""How many detections of one image and class are looked at."""

_RANGES: Floats = np.array(list(SIZES.values()))
# Elements of the largest temporary arrays; a few of them live at once.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Regions:
    """Boxes (N, 4) as x, y, w, h in pixels, or N run-length encoded masks, with where they are.

    ``image`` is an index into the images, ``label`` one into the classes, both from 0. ``area`` in
    pixels decides on the size.
    """

    image: Ints
    label: Ints
    area: Floats
    shape: Shapes


@dataclass(frozen=True)
class Matches:
    """All that scores need to know; images can be weighed afterwards without matching again.

    Detections stand by class, class k at ``starts[k]:starts[k + 1]``, there by falling score;
    equal scores in the order of the images and, in one image, of the detections.
    """

    image_ids: Ints
    """(I,), rising."""
    classes: tuple[str, ...]
    starts: Ints
    """(K + 1,)"""
    image: Ints
    """(D,), an index into ``image_ids``."""
    score: Floats
    """(D,)"""
    rank: Ints
    """(D,): how many of its image and class stand before it."""
    hit: Flags
    """(A, T, D): it took an object that counts."""
    counts: Flags
    """(A, T, D): it is a hit or a false alarm."""
    within: Flags
    """(A, D): its own area is within the range."""
    object_image: Ints
    """(G,)"""
    object_label: Ints
    """(G,), from 0."""
    object_counts: Flags
    """(A, G)"""


def match(
    image_ids: Ints,
    classes: tuple[str, ...],
    objects: Regions,
    crowd: Flags,
    found: Regions,
    score: Floats,
) -> Matches:
    """Match detections to objects, given in any order; ``crowd`` is (G,), ``score`` (D,)."""
    images = len(image_ids)
    order = np.lexsort((-score, found.image, found.label))
    key = (found.label * images + found.image)[order]
    rank = np.arange(len(key)) - np.searchsorted(key, key)
    order, key, rank = (values[rank < MOST] for values in (order, key, rank))
    by_score = np.lexsort((-score[order], found.label[order]))
    place = np.empty_like(by_score)
    place[by_score] = np.arange(len(by_score))

    within = _within(found.area[order])
    hit = np.zeros((len(_RANGES), len(THRESHOLDS), len(order)), dtype=bool)
    counts = np.repeat(within[:, None, by_score], len(THRESHOLDS), axis=1)
    object_counts = _within(objects.area) & ~crowd

    objects_by_key = np.lexsort((objects.image, objects.label))
    object_key = (objects.label * images + objects.image)[objects_by_key]
    crowd = crowd[objects_by_key]
    pairs = _Pairs.of(key, object_key)
    detected, annotated = _take(found.shape, order), _take(objects.shape, objects_by_key)
    for part in pairs.parts():
        overlap = part.overlaps(detected, annotated, crowd)
        for rows, took, took_counting in _choose(
            part, overlap, crowd, object_counts[:, objects_by_key]
        ):
            at = place[rows]
            hit[:, :, at] = took_counting
            counts[:, :, at] = np.where(took, took_counting, within[:, None, rows])
    label = found.label[order][by_score]
    return Matches(
        image_ids=image_ids,
        classes=classes,
        starts=np.searchsorted(label, np.arange(len(classes) + 1)),
        image=found.image[order][by_score],
        score=score[order][by_score],
        rank=rank[by_score],
        hit=hit,
        counts=counts,
        within=within[:, by_score],
        object_image=objects.image,
        object_label=objects.label,
        object_counts=object_counts,
    )


@dataclass(frozen=True)
class _Pairs:
    """Images and classes with detections and objects: where both begin and how many they are."""

    row: Ints
    rows: Ints
    first: Ints
    objects: Ints

    @staticmethod
    def of(key: Ints, object_key: Ints) -> "_Pairs":
        common = np.intersect1d(key, object_key)
        row, first = np.searchsorted(key, common), np.searchsorted(object_key, common)
        return _Pairs(
            row,
            np.searchsorted(key, common, side="right") - row,
            first,
            np.searchsorted(object_key, common, side="right") - first,
        )

    def parts(self) -> Iterator["_Pairs"]:
        """Few enough at a time that their overlaps fit into memory."""
        ends = np.cumsum(self.rows * self.objects)
        start = 0
        while start < len(ends):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
            yield self.only(np.arange(start, stop))
            start = stop

    def only(self, index: Ints) -> "_Pairs":
        return _Pairs(self.row[index], self.rows[index], self.first[index], self.objects[index])

    def overlaps(self, detected: Shapes, annotated: Shapes, crowd: Flags) -> Floats:
        """Overlaps of every pair, one (rows, objects) matrix after the other, flat."""
        if isinstance(detected, np.ndarray) and isinstance(annotated, np.ndarray):
            pair, inside = _flat(self.rows * self.objects)
            row, column = np.divmod(inside, self.objects[pair])
            row, column = row + self.row[pair], column + self.first[pair]
            return _box_overlaps(detected[row], annotated[column], crowd[column])
        mask = coder()
        found = []
        for row, rows, first, count in zip(
            *(a.tolist() for a in (self.row, self.rows, self.first, self.objects)), strict=True
        ):
            some = slice(first, first + count)
            found.append(
                np.ravel(
                    mask.iou(
                        list(detected[row : row + rows]),
                        list(annotated[some]),
                        crowd[some].tolist(),
                    )
                )
            )
        return np.concatenate(found)


def _choose(
    pairs: _Pairs, overlap: Floats, crowd: Flags, object_counts: Flags
) -> Iterator[tuple[Ints, Flags, Flags]]:
    """Rows that could take an object, whether they did, and one that counts: both (A, T, rows)."""
    pair, inside = _flat(pairs.rows)
    start = (np.cumsum(pairs.rows * pairs.objects) - pairs.rows * pairs.objects)[pair]
    start = start + inside * pairs.objects[pair]
    largest = np.maximum.reduceat(overlap, start)
    able = np.flatnonzero(largest >= THRESHOLDS[0])
    pair, start, row = pair[able], start[able], (pairs.row[pair] + inside)[able]
    trials = np.bincount(pair, minlength=len(pairs.rows))
    first_trial = np.cumsum(trials) - trials

    # Pairs with alike many objects at a time, so that little of an array is padding.
    octave = np.ceil(np.log2(pairs.objects)).astype(np.int64)
    for size in np.unique(octave[trials > 0]).tolist():
        width = 2**size
        some = np.flatnonzero((octave == size) & (trials > 0))
        some = some[np.argsort(-trials[some], kind="stable")]
        step = max(1, _CHUNK // (len(_RANGES) * len(THRESHOLDS) * width))
        for begin in range(0, len(some), step):
            chosen = some[begin : begin + step]
            column = np.arange(width)
            real = column < pairs.objects[chosen, None]
            which = np.where(real, pairs.first[chosen, None] + column, 0)
            free = np.repeat(real[:, None], len(_RANGES), axis=1)[:, :, None]
            free = np.repeat(free, len(THRESHOLDS), axis=2)
            again = crowd[which]
            counting = np.moveaxis(object_counts[:, which], 0, 1)
            for trial in range(int(trials[chosen[0]])):
                active = int(np.searchsorted(-trials[chosen], -trial, side="left"))
                at = first_trial[chosen[:active]] + trial
                value = np.where(
                    real[:active],
                    overlap[np.where(real[:active], start[at, None] + column, 0)],
                    -1.0,
                )
                best, took = _best(value, free[:active], counting[:active])
                took_counting = took & np.take_along_axis(counting[:active], best, axis=2)
                i, a, t = np.nonzero(took)
                taken = best[i, a, t]
                free[i, a, t, taken] = again[i, taken]
                yield row[at], *(np.moveaxis(flags, 0, 2) for flags in (took, took_counting))


def _best(value: Floats, free: Flags, counting: Flags) -> tuple[Ints, Flags]:
    """The object that each of m detections takes, and whether it takes any: both (m, A, T).

    ``value`` is (m, G), ``free`` (m, A, T, G), ``counting`` (m, A, G). Of equal overlaps the last.
    """
    width = value.shape[1]
    rank = np.empty(value.shape, dtype=np.int32)
    order = np.argsort(value, axis=1, kind="stable")
    np.put_along_axis(rank, order, np.arange(width, dtype=np.int32)[None], axis=1)
    # One that counts is better than any that does not, whatever the overlap.
    rank = rank[:, None] + np.int32(width) * counting
    large = value[:, None] >= THRESHOLDS[:, None]
    key = np.where(free & large[:, None], rank[:, :, None], np.int32(-1))
    best = key.argmax(axis=3)
    return best, np.take_along_axis(key, best[..., None], axis=3)[..., 0] >= 0


def _box_overlaps(detected: Floats, annotated: Floats, crowd: Flags) -> Floats:
    """Intersection over union of boxes, one by one; over the detection's area for crowds."""
    low = np.maximum(detected[:, :2], annotated[:, :2])
    high = np.minimum(
        detected[:, :2] + detected[:, 2:],
        annotated[:, :2] + annotated[:, 2:],
    )
    sides = np.maximum(high - low, 0.0)
    both = sides[:, 0] * sides[:, 1]
    area = detected[:, 2] * detected[:, 3]
    whole = np.where(crowd, area, area + annotated[:, 2] * annotated[:, 3] - both)
    return np.asarray(np.divide(both, whole, out=np.zeros_like(both), where=both > 0))


def _within(area: Floats) -> Flags:
    """(A, N)"""
    low, high = _RANGES[:, :1], _RANGES[:, 1:]
    return (area >= low) & (area <= high)


def _flat(counts: Ints) -> tuple[Ints, Ints]:
    """For counts n of things: which of the things, n times each, and 0 to n − 1 for each."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


def _take(shape: Shapes, index: Ints) -> Shapes:
    if isinstance(shape, np.ndarray):
        return np.asarray(shape[index])
    return [shape[i] for i in index.tolist()]
