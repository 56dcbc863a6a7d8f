"""COCO's polygons and run lengths, stored as flat arrays and decoded for one image at a time."""

import importlib.util
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgekit.data.coco_json import counted, listed
from sgekit.errors import InputError

NONE, POLYGONS, RUNS, TEXT = range(4)


@dataclass(frozen=True, eq=False)
class Segmentations:
    """N segmentations without an object of Python for each.

    kinds (N,) says what each is. Its parts are first[n] to first[n + 1]: polygons, or the one run
    length code; part p is pool[starts[p]:stops[p]] of the pool that its kind has: points (x, y,
    x, y, …), runs, or text (compressed run lengths).
    """

    path: Path
    kinds: NDArray[np.uint8]
    first: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    points: NDArray[np.float64]
    runs: NDArray[np.int64]
    text: bytes

    def complete(self) -> bool:
        """Whether every annotation has a segmentation."""
        return bool((self.kinds != NONE).all())

    def coco(self, index: int, size: tuple[int, int]) -> list[list[float]] | dict[str, Any]:
        """The segmentation as it stands in a COCO file whose picture has this (height, width)."""
        spans, kind = self._spans(index), self.kinds[index]
        if kind == RUNS:
            return {"size": list(size), "counts": self.runs[spans[0]].tolist()}
        if kind == TEXT:
            return {"size": list(size), "counts": self.text[spans[0]].decode("ascii")}
        return [self.points[span].tolist() for span in spans]

    def _spans(self, index: int) -> list[slice]:
        parts = range(int(self.first[index]), int(self.first[index + 1]))
        return [slice(int(self.starts[p]), int(self.stops[p])) for p in parts]

    def _counts(self, index: int, size: tuple[int, int]) -> NDArray[np.int64]:
        spans, kind = self._spans(index), self.kinds[index]
        if kind == RUNS:
            return self.runs[spans[0]]
        if kind == POLYGONS:
            return polygon_runs([self.points[span] for span in spans], size)
        counts = text_runs(self.text[spans[0]])
        if counts.min() < 0 or counts.sum() != size[0] * size[1]:
            raise ValueError(f"the counts do not add up to {size[0]} × {size[1]}")
        return counts

    def masks(
        self, start: int, stop: int, size: tuple[int, int], ids: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """The masks of annotations start to stop, (stop - start, H, W) of 0 and 1.

        ids name the annotations in the InputError for run lengths that are no mask of this size.
        """
        masks = np.zeros((stop - start, *size), dtype=np.uint8)
        for index in range(start, stop):
            try:
                paint(masks[index - start], self._counts(index, size))
            except ValueError as problem:
                raise InputError(
                    f"{self.path}: the segmentation of annotation {ids[index]} cannot be decoded "
                    f"({problem}); mend or remove it"
                ) from None
        return masks


def store(
    segmentations: Sequence[Any],
    ids: NDArray[np.int64],
    sizes: NDArray[np.int64],
    path: Path,
) -> tuple[Segmentations, tuple[str, ...]]:
    """Pack JSON segmentations whose pictures have sizes (N, 2), and tell what was left out.

    InputError for what is neither polygons nor run lengths, for run lengths of another size than
    the picture's, and for polygons that lie far outside it.
    """
    points, runs, text = array("d"), array("q"), bytearray()
    first, starts, stops = array("q", [0]), array("q"), array("q")
    kinds = np.zeros(len(segmentations), dtype=np.uint8)
    strange: list[str] = []
    short: list[int] = []
    for place, segmentation in enumerate(segmentations):
        try:
            if isinstance(segmentation, dict) and segmentation:
                _check_size(segmentation, sizes[place])
                counts = segmentation.get("counts")
                pool: array[Any] | bytearray = runs
                if isinstance(counts, str):
                    pool, added = text, counts.encode("ascii")
                    kinds[place] = TEXT
                    starts.append(len(text))
                    text.extend(added)
                else:
                    kinds[place] = RUNS
                    starts.append(len(runs))
                    runs.fromlist(counts)  # type: ignore[arg-type]
                stops.append(len(pool))
            elif isinstance(segmentation, list) and segmentation:
                flat = not isinstance(segmentation[0], list)
                for polygon in [segmentation] if flat else segmentation:
                    if len(polygon) % 2:
                        raise ValueError("an odd number of coordinates")
                    if len(polygon) < 6:
                        short.append(place)
                        continue
                    kinds[place] = POLYGONS
                    starts.append(len(points))
                    points.fromlist(polygon)
                    stops.append(len(points))
            elif segmentation:
                raise TypeError("neither polygons nor run lengths")
        except (TypeError, ValueError, OverflowError) as problem:
            strange.append(f"{ids[place]} ({problem})")
        first.append(len(starts))
    packed = Segmentations(
        path=path,
        kinds=kinds,
        first=np.array(first, dtype=np.int64),
        starts=np.array(starts, dtype=np.int64),
        stops=np.array(stops, dtype=np.int64),
        points=np.array(points, dtype=np.float64),
        runs=np.array(runs, dtype=np.int64),
        text=bytes(text),
    )
    if not strange:
        strange = _misfits(packed, ids, sizes)
    if strange:
        raise InputError(
            f"{path}: the segmentation is no mask of its picture in annotation {listed(strange)}; "
            "mend or remove them"
        )
    if (kinds == POLYGONS).any() and importlib.util.find_spec("faster_coco_eval") is None:
        raise InputError(
            f"{path} has polygons, which need the package faster-coco-eval: "
            "pip install 'sgekit[detect]'"
        )
    if not short:
        return packed, ()
    some = listed(ids[list(dict.fromkeys(short))], 3)
    what = counted(len(short), "polygon")
    return packed, (f"{what} of fewer than three points left out (annotation {some})",)


def _check_size(segmentation: dict[str, Any], size: NDArray[np.int64]) -> None:
    told = segmentation.get("size")
    if told != size.tolist():
        raise ValueError(f"size {told}, the picture's is {size.tolist()}")
    if not isinstance(segmentation.get("counts"), str | list):
        raise TypeError("no counts")


def _misfits(packed: Segmentations, ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[str]:
    owner = np.repeat(np.arange(len(packed.kinds)), np.diff(packed.first))
    strange: list[str] = []
    chosen = packed.kinds[owner] == RUNS
    if chosen.any():
        of = owner[chosen]
        empty = packed.starts[chosen] == packed.stops[chosen]
        # reduceat gives an element for an empty span, so empty codes are told apart.
        padded = np.append(packed.runs, 0)
        total = np.add.reduceat(padded, packed.starts[chosen])
        least = np.minimum.reduceat(padded, packed.starts[chosen])
        wrong = empty | (total != sizes[of].prod(axis=1)) | (least < 0)
        strange += [f"{ids[i]} (the counts do not add up to the picture)" for i in of[wrong]]
    chosen = packed.kinds[owner] == POLYGONS
    if chosen.any():
        of = owner[chosen]
        reach = np.abs(packed.points)
        far = ~(np.maximum.reduceat(reach, packed.starts[chosen]) <= 2 * sizes[of].max(axis=1))
        strange += [f"{ids[i]} (points far outside the picture)" for i in of[far]]
    return list(dict.fromkeys(strange))


def polygon_runs(
    polygons: Sequence[NDArray[np.float64]], size: tuple[int, int]
) -> NDArray[np.int64]:
    """The run lengths of polygons (x, y, x, y, …) together, on a picture of (height, width)."""
    # Which pixels a polygon covers is settled by COCO's own rasteriser, which this package has.
    from faster_coco_eval.core import mask

    codes = mask.frPyObjects([polygon.tolist() for polygon in polygons], *size)
    return text_runs(mask.merge(codes)["counts"])


def text_runs(text: bytes) -> NDArray[np.int64]:
    """The run lengths in COCO's compressed form, alternately of 0s and 1s.

    A character holds five bits of a number, the lowest first, in its code less 48; bit 5 says that
    more follow, and bit 4 of the last is the sign. From the fourth number on, each is the
    difference from the last but one (maskApi.c of the COCO API, rleToString).
    Raises ValueError for what is no such code.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or last[-1:] != len(codes) - 1:
        raise ValueError("not a compressed run length code")
    begin = np.append(0, last[:-1] + 1)
    lengths = last - begin + 1
    if lengths.max() > 8:
        raise ValueError("a number beyond all pictures")
    shift = 5 * (np.arange(len(codes)) - np.repeat(begin, lengths))
    runs = np.add.reduceat((codes & 31) << shift, begin)
    runs -= ((codes[last] & 16) != 0) * (1 << 5 * lengths)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def paint(mask: NDArray[np.uint8], runs: NDArray[np.int64]) -> None:
    """Write run lengths (column by column, 0s first) into an empty (H, W) mask.

    Only the columns between the first and the last 1 are touched. The runs add up to H × W.
    """
    if len(runs) < 2:
        return
    height = mask.shape[0]
    runs = runs.copy()
    end = int(runs.sum()) - (int(runs[-1]) if len(runs) % 2 else 0)
    left, right = int(runs[0]) // height, -(-end // height)
    runs[0] -= left * height
    if len(runs) % 2:
        runs[-1] = right * height - end
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    mask[:, left:right] = np.repeat(values, runs).reshape(right - left, height).T
