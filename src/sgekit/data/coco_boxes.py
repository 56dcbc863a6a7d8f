"""Boxes of a COCO file against their pictures: recognised, mended or left out, and told."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgekit.data.coco_json import CocoColumns, counted, listed
from sgekit.errors import InputError

ROUNDING = 1.0
"""Pixels by which a box may leave its picture without a word: rounding, or counting from 1."""


@dataclass(frozen=True, eq=False)
class Mended:
    """kept (n,) indexes the annotations that stay; boxes (n, 4) x, y, width, height and area (n,)
    are theirs; notes say what was done."""

    kept: NDArray[np.intp]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    notes: tuple[str, ...]


def corners(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
    """x, y, width, height (n, 4) to x0, y0, x1, y1 inside pictures of sizes (n, 2) or (2,)."""
    height, width = sizes[..., 0], sizes[..., 1]
    edges = np.empty(boxes.shape, dtype=np.float32)
    for column, top in ((0, width), (1, height)):
        edges[:, column] = np.clip(boxes[:, column], 0, top)
        edges[:, column + 2] = np.clip(boxes[:, column] + boxes[:, column + 2], 0, top)
    return edges


def mend_boxes(columns: CocoColumns, sizes: NDArray[np.int64]) -> Mended:
    """Leave out boxes without area and boxes outside their picture, cut those partly outside.

    sizes (M, 2) are the pictures' heights and widths. An area that is missing or not above 0
    becomes the box's own. A box that leaves its picture by less than ROUNDING stays as annotated.
    InputError where the whole file has corners instead of sizes, or shares instead of pixels.
    """
    boxes, notes = columns.boxes.copy(), []
    mine = sizes[columns.where]
    refuse_other_forms(columns, mine)

    def tell(chosen: Any, what: str) -> None:
        if chosen.any():
            number = counted(int(chosen.sum()), "box", "boxes")
            notes.append(f"{number} {what} (annotation {listed(columns.ids[chosen], 3)})")

    empty = (boxes[:, 2:] <= 0).any(axis=1)
    tell(empty, "of no width or height left out")
    inside = corners(boxes, mine)
    outside = ~empty & (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    tell(outside, "outside their picture left out")
    excess = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - mine[:, ::-1]).max(
        axis=1, initial=0
    )
    cut = ~empty & ~outside & (excess >= ROUNDING)
    tell(cut, "partly outside their picture cut at its edge")
    boxes[cut, :2] = inside[cut, :2]
    boxes[cut, 2:] = inside[cut, 2:] - inside[cut, :2]

    kept = np.flatnonzero(~empty & ~outside)
    area = columns.area.copy()
    unknown = ~(area > 0) & ~empty & ~outside
    tell(unknown, "without an area, which is taken as width × height")
    area[unknown] = boxes[unknown, 2] * boxes[unknown, 3]
    return Mended(kept, boxes[kept], area[kept], tuple(notes))


def refuse_other_forms(columns: CocoColumns, sizes: NDArray[np.int64]) -> None:
    """InputError where the boxes as a whole are x0, y0, x1, y1, or shares of the picture.

    Corners are told by a quarter or more of the boxes leaving their pictures as x, y, width,
    height while nearly all fit as corners; not where the annotated areas are width × height.
    """
    boxes = columns.boxes
    if not len(boxes):
        return
    if boxes.min() >= 0 and boxes.max() <= 1 and sizes.min() > 16:
        raise InputError(
            f"{columns.path}: every bbox lies between 0 and 1: they seem to be shares of the "
            "picture; COCO's are pixels: multiply them by its width and height"
        )
    limit = sizes[:, ::-1] + ROUNDING
    leaves = (boxes[:, :2] + boxes[:, 2:] > limit).any(axis=1)
    fits = (
        (boxes[:, :2] >= -ROUNDING) & (boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limit)
    ).all(axis=1)
    if leaves.mean() < 0.25 or fits.mean() < 0.98:
        return
    known = columns.area > 0
    own = boxes[:, 2] * boxes[:, 3]
    if known.any() and np.isclose(columns.area[known], own[known], rtol=0.01).mean() > 0.5:
        return
    raise InputError(
        f"{columns.path}: bbox seems to be x0, y0, x1, y1: as COCO's x, y, width, height "
        f"{leaves.mean():.0%} of the boxes would leave their pictures, as corners {fits.mean():.0%}"
        " fit; write [x0, y0, x1 - x0, y1 - y0]"
    )
