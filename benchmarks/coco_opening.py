"""How long opening COCO-sized annotations takes, and how much memory.

    python benchmarks/coco_opening.py --images 100000 --objects 860000

writes a synthetic JSON of about the size of COCO's train2017 into a temporary folder (links to
one picture stand for the files), opens it with `open_detection`, and prints one line of JSON.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sgekit.data.detection import open_detection


def write(root: Path, split: str, images: int, objects: int) -> int:
    """Write one split and return the size of its JSON in bytes."""
    rng = np.random.default_rng(0)
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    entries = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480, "license": 1}
        for i in range(1, images + 1)
    ]
    for entry in entries:
        (root / split / str(entry["file_name"])).symlink_to(root / "picture.jpg")
    places, sides = rng.uniform(0, 200, (objects, 2)), rng.uniform(20, 200, (objects, 2))
    of_image, of_class = rng.integers(1, images + 1, objects), rng.integers(1, 81, objects)
    points = rng.integers(5, 60, objects)
    path = root / "annotations" / f"instances_{split}.json"
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 81)]
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"images": {json.dumps(entries)}, "annotations": [')
        for i in range(objects):
            angle = np.linspace(0, 6.28, points[i])[:, None]
            circle = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
            polygon = (places[i] + sides[i] * (1 + circle) / 2).round(2).ravel().tolist()
            note = {
                "segmentation": [polygon],
                "area": float((sides[i].prod() * 0.78).round(4)),
                "iscrowd": 0,
                "image_id": int(of_image[i]),
                "bbox": [*places[i].round(2).tolist(), *sides[i].round(2).tolist()],
                "category_id": int(of_class[i]),
                "id": i + 1,
            }
            file.write((", " if i else "") + json.dumps(note))
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--objects", type=int, default=860_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        Image.new("RGB", (640, 480)).save(root / "picture.jpg")
        size = write(root, "train2017", options.images, options.objects)
        write(root, "val2017", max(1, options.images // 20), max(1, options.objects // 20))
        start, busy = time.perf_counter(), time.process_time()
        data = open_detection(root)
        result = {
            "images": len(data.train),
            "objects": options.objects,
            "json_mb": round(size / 1e6),
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - busy, 2),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
