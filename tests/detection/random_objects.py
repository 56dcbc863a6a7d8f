"""Random ground truth and detections with everything that COCO's rules have a case for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 200
CLASSES = 4


@dataclass(frozen=True)
class World:
    """A COCO dictionary and, by image id, what a detector might find."""

    truth: dict[str, Any]
    found: dict[int, dict[str, Tensor]]


def random_world(
    seed: int, *, images: int = 12, masks: bool = False, ties: bool = True, many: bool = True
) -> World:
    """Crowds, polygons and run lengths, no objects in the second image, nothing found in the
    third, no object of the last class; ``ties``: scores of two digits; ``many``: one image with
    more detections of a class than are looked at."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    found: dict[int, dict[str, Tensor]] = {}
    ids = [int(i) for i in rng.permutation(1000)[:images]]
    for place, image_id in enumerate(ids):
        boxes, labels = [], []
        for _ in range(0 if place == 1 else int(rng.integers(1, 8))):
            box, label = _box(rng), int(rng.integers(1, CLASSES))
            boxes.append(box)
            labels.append(label)
            annotations.append(_annotation(rng, len(annotations) + 1, image_id, label, box))
        if many and place == 0:
            boxes, labels = boxes * 40, labels * 40
        extra = int(rng.integers(0, 8))
        boxes += [_box(rng) for _ in range(extra)]
        labels += [int(label) for label in rng.integers(1, CLASSES + 1, extra)]
        if place == 2:
            boxes, labels = [], []
        found[image_id] = _found(rng, boxes, labels, masks, ties)
    truth = {
        # Not in the order of their ids.
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in ids],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)],
    }
    return World(truth, found)


def _box(rng: np.random.Generator) -> NDArray[np.float64]:
    """x, y, w, h: small, medium and large ones alike."""
    sides = np.exp(rng.uniform(np.log(8), np.log(180), 2))
    corner = rng.uniform(0, SIDE - sides)
    return np.round(np.concatenate([corner, sides]))


def _annotation(
    rng: np.random.Generator, number: int, image_id: int, label: int, box: NDArray[np.float64]
) -> dict[str, Any]:
    x, y, w, h = box.tolist()
    crowd = bool(rng.random() < 0.15)
    shape: Any = [[x, y, x + w, y, x + w, y + h, x, y + h * 0.8]]
    if crowd:
        flags = np.zeros((SIDE, SIDE), dtype=np.uint8)
        flags[int(y) : int(y + h), int(x) : int(x + w)] = 1
        shape = {"size": [SIDE, SIDE], "counts": run_lengths(flags)}
    return {
        "id": number,
        "image_id": image_id,
        "category_id": label,
        "bbox": [x, y, w, h],
        "area": float(w * h * rng.uniform(0.6, 1)),
        "iscrowd": int(crowd),
        "segmentation": shape,
    }


def run_lengths(flags: NDArray[np.uint8]) -> list[int]:
    """Column by column, how many are 0, then 1, then 0 ..."""
    column = flags.ravel(order="F")
    ends = np.flatnonzero(np.diff(column)) + 1
    starts = np.concatenate([[0], ends, [len(column)]])
    lengths = np.diff(starts).tolist()
    return [0, *lengths] if column[0] else lengths


def _found(
    rng: np.random.Generator,
    boxes: list[NDArray[np.float64]],
    labels: list[int],
    masks: bool,
    ties: bool,
) -> dict[str, Tensor]:
    count = len(boxes)
    moved = np.array(boxes).reshape(-1, 4)
    # Some are left as they are: an overlap of exactly 1.
    moved += (
        rng.normal(0, 0.12, moved.shape) * moved[:, [2, 3, 2, 3]] * rng.integers(0, 2, (count, 1))
    )
    moved[:, 2:] = np.maximum(moved[:, 2:], 4)
    corners = np.concatenate([moved[:, :2], moved[:, :2] + moved[:, 2:]], axis=1).clip(0, SIDE)
    scores = rng.random(count)
    prediction = {
        "boxes": torch.from_numpy(corners.astype(np.float32)),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.from_numpy((np.round(scores, 2) if ties else scores).astype(np.float32)),
    }
    if masks:
        drawn = np.zeros((count, 1, SIDE, SIDE), dtype=np.float32)
        for mask, (x0, y0, x1, y1) in zip(drawn, corners.round().astype(int), strict=True):
            mask[0, y0:y1, x0:x1] = rng.uniform(0.45, 1, (y1 - y0, 1))
        prediction["masks"] = torch.from_numpy(drawn)
    return prediction
