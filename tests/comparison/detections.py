"""A made-up comparison of detectors: pictures with rectangles, and runs that found some of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sgekit.comparison.detection import score_differences
from sgekit.comparison.plan import Plan
from sgekit.comparison.results import Results
from sgekit.comparison.summary import summarise
from sgekit.data.detection import DetectionData, Target
from sgekit.detection.evaluation import CocoEvaluation
from sgekit.training.detection_recipes import get_detection_recipe
from sgekit.training.detection_run import DETECTIONS
from tests.comparison.conftest import build

SIZES = ((120, 90), (90, 120), (200, 100))
COLOURS = ("crimson", "navy", "gold", "teal")
SIDES = (20, 45, 80)
"""Of small, medium and larger objects."""


@dataclass
class Rectangles:
    """Three objects a picture, of every size; the first picture has none."""

    classes: tuple[str, ...]
    count: int = 12
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for index in range(1, self.count):
            rng = np.random.default_rng(index)
            width, height = SIZES[index % len(SIZES)]
            for side in SIDES:
                x, y = rng.integers(0, [width - side, height - side]).tolist()
                corners = [x, y, x + side, y, x + side, y + side, x, y + side]
                self.annotations.append(
                    {
                        "id": len(self.annotations) + 1,
                        "image_id": self.image_id(index),
                        "category_id": int(rng.integers(1, len(self.classes) + 1)),
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                        "segmentation": [corners],
                    }
                )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        image = Image.new("RGB", SIZES[index % len(SIZES)], "beige")
        pen = ImageDraw.Draw(image)
        notes = [a for a in self.annotations if a["image_id"] == self.image_id(index)]
        boxes = np.array([a["bbox"] for a in notes], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([a["category_id"] for a in notes], np.int64)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            pen.rectangle(box, fill=COLOURS[label % len(COLOURS)])
        return image, Target(
            boxes=boxes,
            labels=labels,
            area=np.array([a["area"] for a in notes], np.float32),
            crowd=np.zeros(len(notes), np.bool_),
            masks=None,
            image_id=self.image_id(index),
        )

    def size(self, index: int) -> tuple[int, int]:
        width, height = SIZES[index % len(SIZES)]
        return height, width

    def source(self, index: int) -> str:
        return f"/home/somebody/val/picture {index}.png"

    def image_id(self, index: int) -> int:
        return 100 + index

    def ground_truth(self) -> dict[str, Any]:
        sizes = [self.size(index) for index in range(len(self))]
        return {
            "images": [
                {"id": self.image_id(i), "height": h, "width": w} for i, (h, w) in enumerate(sizes)
            ],
            "annotations": [dict(note) for note in self.annotations],
            "categories": [{"id": k, "name": n} for k, n in enumerate(self.classes, 1)],
        }


@dataclass(frozen=True)
class MadeUp:
    """What a comparison leaves: results, and runs' folders in ``out``."""

    results: Results
    plan: Plan
    data: DetectionData
    out: Path


def rectangles(classes: int = 3) -> DetectionData:
    """The data of all that follows."""
    names = tuple(f"kind {k}" for k in range(1, classes + 1))
    split = Rectangles(names)
    return DetectionData("rectangles", "coco", names, split, split, "val", masks=True)


def made_up(
    out: Path,
    skill: dict[str, float],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    classes: int = 3,
    masks: bool = False,
) -> MadeUp:
    """Contenders that find each object with the probability ``skill``, at every seed others."""
    data = rectangles(classes)
    plan = Plan(
        model="resnet10_small",
        attention=tuple(skill),
        seeds=tuple(seeds),
        recipe=get_detection_recipe("quick-detect", {}),
        detector="mask_rcnn" if masks else "faster_rcnn",
    )
    results = build({name: [None] * len(seeds) for name in plan.attention}, seeds=seeds)
    results["settings"] |= {"metric": "ap", "detector": str(plan.detector)}
    for contender in results["contenders"]:
        contender["runs"] = []
    by_name = {contender["attention"]: contender for contender in results["contenders"]}
    for run in plan.runs(out):
        rng = np.random.default_rng([run.seed, plan.attention.index(run.attention)])
        found = list(_found(rng, data, skill[run.attention], masks))
        run.out.mkdir(parents=True)
        (run.out / DETECTIONS).write_text(json.dumps(found))
        (run.out / "run.json").write_text("{}")
        by_name[run.attention]["runs"].append(_run(run.seed, found, data, masks))
    results = summarise(results)
    results["detection"] = score_differences(results, plan, data, out, resamples=50)
    return MadeUp(results, plan, data, out)


def _found(
    rng: np.random.Generator, data: DetectionData, skill: float, masks: bool
) -> list[dict[str, Any]]:
    entries = []
    for note in data.val.ground_truth()["annotations"]:
        x, y, width, height = note["bbox"]
        if rng.random() < skill:
            moved = np.array([x, y, width, height]) + rng.normal(0, 1.5, 4)
            entries.append(_entry(note["image_id"], note["category_id"], moved, rng, 0.5))
        if rng.random() < 0.2:
            label = int(rng.integers(1, len(data.classes) + 1))
            away = np.array([x / 2, y / 2, 18.0, 18.0])
            entries.append(_entry(note["image_id"], label, away, rng, 0.1))
    for entry in entries if masks else ():
        entry["segmentation"] = _lengths(entry, data)
    return entries


def _entry(
    image_id: int, label: int, box: NDArray[np.float64], rng: np.random.Generator, low: float
) -> dict[str, Any]:
    box[:2] = np.maximum(box[:2], 0)
    score = float(rng.uniform(low, low + 0.5))
    return {"image_id": image_id, "category_id": label, "bbox": box.tolist(), "score": score}


def _lengths(entry: dict[str, Any], data: DetectionData) -> dict[str, Any]:
    import faster_coco_eval.core.mask as coder

    height, width = data.val.size(entry["image_id"] - 100)
    x0, y0, wide, high = (round(side) for side in entry["bbox"])
    flags = np.zeros((height, width), np.uint8, order="F")
    flags[y0 : y0 + high, x0 : x0 + wide] = 1
    coded = coder.encode(flags)
    return {"size": list(coded["size"]), "counts": coded["counts"].decode("ascii")}


def _run(seed: int, found: list[dict[str, Any]], data: DetectionData, masks: bool) -> Any:
    evaluation = CocoEvaluation(data.val.ground_truth(), masks)
    evaluation.load(found)
    scores = evaluation.compute()
    return {
        "seed": seed,
        "ap": scores.box.ap,
        "best_ap": scores.box.ap,
        "best_epoch": 2,
        "epochs": 2,
        "seconds": 60.0,
        "train_images_per_s": 12.0,
        "scores": {
            "box": scores.box.as_dict(),
            "mask": scores.mask.as_dict() if scores.mask is not None else None,
        },
        "curve": [
            {"epoch": epoch, "train_loss": 1 / epoch, "val_ap": scores.box.ap * epoch / 2}
            for epoch in (1, 2)
        ],
    }
