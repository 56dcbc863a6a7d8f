"""How long COCO's scores take: pycocotools, faster-coco-eval and sgekit on the same detections.

    python benchmarks/coco_evaluation.py --out docs/results/coco-evaluation.json

Made-up data of COCO val2017's size: 5,000 images, 80 classes of very different frequency, about
36,000 boxes of which 1 % are crowds, and 100 detections an image. Each evaluator begins with the
ground truth and the result list in memory and ends with its twelve numbers; the runs take turns.
Then the paired bootstrap between two detectors is timed, and on the size of a small data set.
"""

import argparse
import contextlib
import copy
import gc
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sgekit.detection.bootstrap import paired_bootstrap
from sgekit.detection.evaluation import CocoEvaluation
from sgekit.training.environment import environment

TWELVE = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
WIDTH, HEIGHT = 640, 480
Found = list[dict[str, Any]]


def made_up(
    images: int, classes: int, per_image: int, seed: int = 0
) -> tuple[dict[str, Any], Found]:
    """A ground truth and a detector's results: a few near each object, the others anywhere."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, classes + 1)
    frequency /= frequency.sum()
    annotations: Found = []
    results: Found = []
    for image_id in range(1, images + 1):
        present = rng.choice(classes, size=3, p=frequency)
        count = int(rng.poisson(7.3))
        boxes, labels = some_boxes(rng, count), rng.choice(present, size=count)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3] * 0.7,
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
        near = min(per_image, count * 5)
        which = rng.integers(count, size=near) if count else np.zeros(0, dtype=np.int64)
        close = boxes[which] + rng.normal(0, 0.12, (near, 4)) * boxes[which][:, [2, 3, 2, 3]]
        close[:, 2:] = np.maximum(close[:, 2:], 2)
        found = np.concatenate([close, some_boxes(rng, per_image - near)])
        labelled = np.concatenate(
            [labels[which], rng.choice(classes, per_image - near, p=frequency)]
        )
        scores = np.concatenate([rng.beta(2, 5, near), rng.beta(1, 8, per_image - near)])
        results += [
            {"image_id": image_id, "category_id": label + 1, "bbox": box, "score": score}
            for box, label, score in zip(
                found.tolist(), labelled.tolist(), scores.tolist(), strict=True
            )
        ]
    truth = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, classes + 1)],
    }
    return truth, results


def some_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    sides = np.exp(rng.normal(4, 1, (count, 1))) * rng.uniform(0.5, 2, (count, 2))
    sides = np.clip(sides, 3, (WIDTH - 40, HEIGHT - 40))
    return np.concatenate([rng.uniform(0, (WIDTH, HEIGHT) - sides), sides], axis=1)


def with_pycocotools(truth: dict[str, Any], results: Found) -> list[float]:
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    return run(COCOeval(coco, coco.loadRes(results), "bbox")).stats.tolist()


def with_faster_coco_eval(truth: dict[str, Any], results: Found) -> list[float]:
    coco = faster_coco_eval.COCO(truth)
    done = run(faster_coco_eval.COCOeval_faster(coco, coco.loadRes(results), "bbox"))
    return [float(value) for value in done.all_stats[:12]]


def run(evaluator: Any) -> Any:
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def with_sgekit(truth: dict[str, Any], results: Found) -> list[float]:
    scores = loaded(truth, results).compute().box
    return [getattr(scores, name) for name in TWELVE]


def loaded(truth: dict[str, Any], results: Found) -> CocoEvaluation:
    evaluation = CocoEvaluation(truth, masks=False)
    evaluation.load(results)
    return evaluation


EVALUATORS: dict[str, Callable[[dict[str, Any], Found], list[float]]] = {
    "pycocotools": with_pycocotools,
    "faster-coco-eval": with_faster_coco_eval,
    "sgekit": with_sgekit,
}


def bootstrap_seconds(truth: dict[str, Any], results: Found, resamples: int) -> float:
    """Of matched detections; the second detector has other scores."""
    rng = np.random.default_rng(1)
    other = [{**one, "score": one["score"] * rng.uniform(0.5, 1.5)} for one in results]
    one, two = (loaded(truth, found).matches("box") for found in (results, other))
    start = time.perf_counter()
    paired_bootstrap([one], [two], resamples=resamples)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="of one image")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each evaluator")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap; 0: none")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()

    truth, results = made_up(options.images, options.classes, options.detections)
    seconds: dict[str, list[float]] = {name: [] for name in EVALUATORS}
    numbers: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, evaluator in EVALUATORS.items():
            # Evaluators write into what they are given.
            given = copy.deepcopy(truth), copy.deepcopy(results)
            gc.collect()
            with contextlib.redirect_stdout(io.StringIO()):
                start = time.perf_counter()
                numbers[name] = evaluator(*given)
                seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)

    # Round by round, so that both sides of a ratio saw the same machine.
    ratios = {
        name: [a / b for a, b in zip(seconds["pycocotools"], times, strict=True)]
        for name, times in seconds.items()
    }
    result: dict[str, Any] = {
        "schema": "sgekit.coco-evaluation/1",
        "command": f"python benchmarks/coco_evaluation.py --images {options.images} "
        f"--classes {options.classes} --detections {options.detections} "
        f"--rounds {options.rounds} --resamples {options.resamples}",
        "environment": environment("cpu"),
        "images": options.images,
        "classes": options.classes,
        "objects": len(truth["annotations"]),
        "detections": len(results),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "times_faster_than_pycocotools": {name: spread(values) for name, values in ratios.items()},
        "scores": {
            name: dict(zip(TWELVE, values, strict=True)) for name, values in numbers.items()
        },
        "largest_difference_to_pycocotools": {
            name: float(np.abs(np.subtract(values, numbers["pycocotools"])).max())
            for name, values in numbers.items()
        },
    }
    if options.resamples:
        sizes = {"small": (500, 3), "large": (options.images, options.classes)}
        result["bootstrap"] = [
            {
                "images": images,
                "classes": classes,
                "resamples": options.resamples,
                "seconds": bootstrap_seconds(
                    *made_up(images, classes, options.detections), options.resamples
                ),
            }
            for images, classes in sizes.values()
        ]
        for row in result["bootstrap"]:
            print(f"bootstrap, {row['images']} images: {row['seconds']:.1f} s", flush=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["times_faster_than_pycocotools"]))


def spread(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "low": min(values), "high": max(values)}


if __name__ == "__main__":
    main()
