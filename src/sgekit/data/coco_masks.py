"""COCO's polygons and run lengths, kept as text and decoded for one image at a time."""

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sgekit.data.coco_coder import coder
from sgekit.data.coco_json import counted, listed
from sgekit.errors import InputError

Code: TypeAlias = list[list[float]] | dict[str, Any]

# Looking at a segmentation takes some 20 µs. Of more than this many, those that are short or run
# lengths are looked at when the data are opened, and as many others; the rest when it is read.
_ALL_CHECKED = 50_000


@dataclass(frozen=True, eq=False)
class Segmentations:
    """N segmentations: the JSON of each is text[spans[n, 0] : spans[n, 1]], empty for none."""

    path: Path
    text: bytes
    spans: NDArray[np.int64]

    def lacking(self) -> int:
        """How many annotations have no segmentation."""
        return int((self.spans[:, 0] == self.spans[:, 1]).sum())

    def coco(self, index: int, size: tuple[int, int], number: int) -> Code:
        """The segmentation as it stands in a COCO file whose picture has this (height, width).

        Polygons of fewer than three points are left out. InputError, with the annotation's
        number, for what is no mask of it.
        """
        start, stop = self.spans[index]
        try:
            return usable(json.loads(self.text[start:stop]), size)[0]
        except ValueError as problem:
            raise self._no_mask(number, problem) from None

    def masks(
        self, start: int, stop: int, size: tuple[int, int], ids: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """The masks of annotations start to stop, (stop - start, H, W) of 0 and 1.

        ids name the annotations in the InputError for what is no mask of this size.
        """
        masks = np.zeros((stop - start, *size), dtype=np.uint8)
        for index in range(start, stop):
            code = self.coco(index, size, int(ids[index]))
            try:
                paint(masks[index - start], _runs(code, size))
            except ValueError as problem:
                raise self._no_mask(int(ids[index]), problem) from None
        return masks

    def _no_mask(self, number: int, problem: ValueError) -> InputError:
        return InputError(
            f"{self.path}: the segmentation of annotation {number} is no mask of its picture "
            f"({problem}); mend or remove it"
        )


def usable(code: Any, size: tuple[int, int]) -> tuple[Code, int]:
    """A parsed segmentation fit to be decoded, and how many polygons were too short for it.

    ValueError for what is neither polygons nor run lengths, for run lengths of another size than
    the picture's, and for polygons that lie far outside it.
    """
    if code in ([], {}):
        return [], 0
    if isinstance(code, dict):
        if code.get("size") != list(size):
            raise ValueError(f"size {code.get('size')}, the picture's is {list(size)}")
        counts = code.get("counts")
        if isinstance(counts, list):
            if not all(type(n) is int and n >= 0 for n in counts) or not _fill(counts, size):
                raise ValueError("the counts do not add up to the picture")
        elif not isinstance(counts, str):
            raise ValueError("no counts")
        return {"size": list(size), "counts": counts}, 0
    if not isinstance(code, list):
        raise ValueError("neither polygons nor run lengths")
    reach = 2 * max(size)
    polygons = code if isinstance(code[0], list) else [code]
    kept = []
    for polygon in polygons:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            raise ValueError("neither polygons nor run lengths")
        if len(polygon) % 2:
            raise ValueError("an odd number of coordinates")
        if polygon and not _within(polygon, reach):
            raise ValueError("points far outside the picture")
        if len(polygon) >= 6:
            kept.append(polygon)
    return kept, sum(bool(polygon) for polygon in polygons) - len(kept)


def store(
    text: bytes,
    spans: NDArray[np.int64],
    ids: NDArray[np.int64],
    sizes: NDArray[np.int64],
    path: Path,
) -> tuple[Segmentations, tuple[str, ...]]:
    """The segmentations of annotations whose pictures have sizes (N, 2), and what was left out.

    InputError as for `usable`.
    """
    spans = spans.copy()
    strange: list[str] = []
    short: list[int] = []
    too_short, polygons = 0, False
    chosen = _to_check(text, spans)
    for place in chosen:
        start, stop = spans[place]
        try:
            height, width = sizes[place].tolist()
            code, left_out = usable(json.loads(text[start:stop]), (height, width))
        except ValueError as problem:
            strange.append(f"{ids[place]} ({problem})")
            continue
        polygons |= isinstance(code, list) and bool(code)
        if left_out:
            short.append(int(ids[place]))
            too_short += left_out
        if not code:
            spans[place] = 0
    if strange:
        raise InputError(
            f"{path}: the segmentation is no mask of its picture in annotation {listed(strange)}; "
            "mend or remove them"
        )
    if polygons and importlib.util.find_spec("faster_coco_eval") is None:
        raise InputError(
            f"{path} has polygons, which need the package faster-coco-eval: "
            "pip install 'sgekit[detect]'"
        )
    segmentations = Segmentations(path, text, spans)
    if not short:
        return segmentations, ()
    what = counted(too_short, "polygon")
    return segmentations, (
        f"{what} of fewer than three points left out (annotation {listed(short, 3)})",
    )


def _to_check(text: bytes, spans: NDArray[np.int64]) -> list[int]:
    there = np.flatnonzero(spans[:, 1] > spans[:, 0])
    if len(there) <= _ALL_CHECKED:
        return there.tolist()
    codes = np.frombuffer(text, dtype=np.uint8)[spans[there, 0]] == ord("{")
    # Four numbers, which are no polygon, have no more characters than this.
    codes |= np.diff(spans[there], axis=1)[:, 0] < 128
    special = [
        place
        for place, code in zip(there[codes], spans[there[codes]], strict=True)
        if text[code[0]] == ord("{") or text.count(b",", *code) < 5
    ]
    sample = np.linspace(0, len(there) - 1, _ALL_CHECKED).astype(np.intp)
    return sorted({int(place) for place in (*there[sample], *special)})


def _within(values: list[float], reach: int) -> bool:
    # The sum tells of NaN, which the extremes may pass over.
    return -reach <= min(values) and max(values) <= reach and not math.isnan(sum(values))


def _fill(counts: Any, size: tuple[int, int]) -> bool:
    return bool(len(counts) and sum(counts) == size[0] * size[1])


def _runs(code: Code, size: tuple[int, int]) -> NDArray[np.int64]:
    if isinstance(code, list):
        return polygon_runs(code, size)
    if isinstance(code["counts"], list):
        return np.array(code["counts"], dtype=np.int64)
    runs = text_runs(code["counts"].encode())
    if runs.min() < 0 or not _fill(runs, size):
        raise ValueError("the counts do not add up to the picture")
    return runs


def polygon_runs(polygons: list[list[float]], size: tuple[int, int]) -> NDArray[np.int64]:
    """The run lengths of polygons (x, y, x, y, …) together, on a picture of (height, width)."""
    if not polygons:
        raise ValueError("no polygon of three points")
    # Which pixels a polygon covers is settled by COCO's own rasteriser, which this package has.
    mask = coder()
    return text_runs(mask.merge(mask.frPyObjects(polygons, *size))["counts"])


def text_runs(text: bytes) -> NDArray[np.int64]:
    """The run lengths in COCO's compressed form, alternately of 0s and 1s.

    A character holds five bits of a number, the lowest first, in its code less 48; bit 5 says that
    more follow, and bit 4 of the last is the sign. From the fourth number on, each is the
    difference from the last but one (maskApi.c of the COCO API, rleToString).
    Raises ValueError for what is no such code.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    ends = len(last) > 0 and last[-1] == len(codes) - 1
    if not ends or codes.min() < 0 or codes.max() > 63:
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
