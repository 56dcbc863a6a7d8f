"""Training images/s of a detector: sgekit's engine against the plain loop of torchvision's style.

    python benchmarks/detection_training.py --out results.json
    python benchmarks/detection_training.py --data cells --detector faster_rcnn --min-size 320

The same detector is trained an epoch in turn by `run_detection` (Lightning, our reader, checks and
averages) and by a loop as torchvision's detection reference has it: `CocoDetection` wrapped for
transforms v2, flip, the sum of the losses, backward, step, and a look at whether the loss is a
number. Rounds alternate which goes first. The ratio of the two speeds is told with its spread.
"""

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from sgekit.data import SceneConfig, write_scenes
from sgekit.data.detection import DetectionData, open_detection
from sgekit.training.detection_recipes import DetectionRecipe, get_detection_recipe
from sgekit.training.detection_run import build_detector, run_detection
from sgekit.training.settings import RunSettings


def ours(settings: RunSettings, data: DetectionData) -> float:
    """Images/s of an epoch's training steps."""
    with tempfile.TemporaryDirectory() as out:
        return run_detection(replace(settings, out=Path(out)), data).train_images_per_s


def batches(root: Path, recipe: DetectionRecipe, masks: bool) -> Iterable[Any]:
    """As torchvision's reference reads COCO: pictures without objects are left out."""
    keys = ["boxes", "labels", "image_id"] + ["masks"] * masks
    steps = [
        v2.ToImage(),
        v2.RandomHorizontalFlip(recipe.hflip),
        v2.ToDtype(torch.float32, scale=True),
        v2.SanitizeBoundingBoxes(),
        v2.ToPureTensor(),
    ]
    plain = CocoDetection(
        root / "train", root / "annotations" / "instances_train.json", transforms=v2.Compose(steps)
    )
    wrapped = wrap_dataset_for_transforms_v2(plain, target_keys=keys)
    full = [i for i, image in enumerate(plain.ids) if plain.coco.getAnnIds(image)]
    return DataLoader(
        Subset(wrapped, full),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
    )


def reference(settings: RunSettings, classes: int, loader: Iterable[Any]) -> float:
    """Images/s of the plain loop over an epoch."""
    recipe = settings.detection
    model = build_detector(settings, classes).to(settings.device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 1000, total_iters=100)
    model.train()
    count, losses = 0, []
    began = time.perf_counter()
    for images, targets in loader:
        found = model(
            [image.to(settings.device) for image in images],
            [
                {k: v.to(settings.device) for k, v in target.items() if k != "image_id"}
                for target in targets
            ],
        )
        loss = sum(found.values())
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"the loss is {losses[-1]}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        count += len(images)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="COCO folder with train/ (64 scenes)")
    parser.add_argument("--detector", default="faster_rcnn")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--attention", default="sge")
    parser.add_argument("--min-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.data
        if root is None:
            root = write_scenes(SceneConfig(image_size=256, train=64, val=4), Path(folder) / "data")
        data = open_detection(root)
        recipe = get_detection_recipe(
            "quick-detect",
            {"epochs": 1, "batch_size": options.batch_size, "min_size": (options.min_size,)},
        )
        settings = RunSettings(
            model=options.model,
            attention=options.attention,
            recipe=recipe,
            out=Path(folder),
            workers=0,
            device=options.device,
            tensorboard=False,
            detector=options.detector,
        )
        loader = batches(root, recipe, "mask" in options.detector)
        speeds: dict[str, list[float]] = {"sgekit": [], "reference": []}
        for number in range(options.rounds + 1):
            order = ("sgekit", "reference") if number % 2 else ("reference", "sgekit")
            for name in order:
                if name == "sgekit":
                    found = ours(settings, data)
                else:
                    found = reference(settings, len(data.classes), loader)
                if number:  # the first round warms up
                    speeds[name].append(found)
                print(f"round {number}: {name} {found:.2f} images/s", flush=True)
    ratios = [a / b for a, b in zip(speeds["sgekit"], speeds["reference"], strict=True)]
    result = {
        "detector": options.detector,
        "model": options.model,
        "attention": options.attention,
        "min_size": options.min_size,
        "batch_size": options.batch_size,
        "images": len(data.train),
        "data": "given" if options.data else "scenes, 256 px",
        "images_per_s": {name: statistics.median(found) for name, found in speeds.items()},
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
