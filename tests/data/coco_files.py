"""Small COCO folders for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Note = dict[str, Any]


def annotation(number: int, image: int, box: list[float], category: int = 1, **more: Any) -> Note:
    """An annotation as COCO writes it, its area that of the box."""
    note: Note = {"id": number, "image_id": image, "category_id": category, "bbox": box}
    return note | {"area": box[2] * box[3], "iscrowd": 0} | more


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """A picture whose every pixel tells its place."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, x * 0], axis=2).astype(np.uint8))


def content(images: int = 4, **changes: Any) -> dict[str, Any]:
    """A COCO dict of pictures 64 × 48 with one box on all but the last; changes replace keys."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 64, "height": 48}
            for i in range(1, images + 1)
        ],
        "annotations": [annotation(i, i, [4 * i, 5, 10, 20], 1 + i % 2) for i in range(1, images)],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "platelet"}],
    } | changes


def write(root: Path, **splits: dict[str, Any]) -> Path:
    """Write each split's JSON below annotations/, and the files that it names where there are
    none."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, text in splits.items():
        (root / split).mkdir(exist_ok=True)
        for image in text["images"]:
            file = root / split / str(image["file_name"])
            if not file.exists():
                picture().save(file, "PNG")
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(text), encoding="utf-8")
    return root
