"""Whether a detector learns a few images of a data set by heart, boxes and masks.

    python benchmarks/detection_overfit.py --data bccd --detector faster_rcnn --min-size 160
    python benchmarks/detection_overfit.py --data dsb2018 --detector mask_rcnn --min-size 224 \\
        --most-objects 40

It trains on the first images of the training split with annotations, over and over, without
augmentation, and evaluates on the same images. A loss, target or decoding that does not fit the
others keeps AP50 well below 1. `--out` keeps the scores of every epoch as JSON.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from sgekit.data.detection import DetectionSplit, Target, open_detection
from sgekit.training.detection_recipes import get_detection_recipe
from sgekit.training.detection_run import run_detection
from sgekit.training.environment import environment
from sgekit.training.settings import RunSettings


@dataclass(frozen=True)
class Few:
    """The images with these indices, several times over."""

    split: DetectionSplit
    indices: tuple[int, ...]
    times: int = 1

    def __len__(self) -> int:
        return self.times * len(self.indices)

    def _at(self, index: int) -> int:
        return self.indices[index % len(self.indices)]

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        return self.split[self._at(index)]

    def size(self, index: int) -> tuple[int, int]:
        return self.split.size(self._at(index))

    def source(self, index: int) -> str:
        return self.split.source(self._at(index))

    def image_id(self, index: int) -> int:
        return self.split.image_id(self._at(index))

    def ground_truth(self) -> dict[str, Any]:
        whole = self.split.ground_truth()
        kept = {self.split.image_id(index) for index in self.indices}
        return {
            **whole,
            "images": [image for image in whole["images"] if image["id"] in kept],
            "annotations": [a for a in whole["annotations"] if a["image_id"] in kept],
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a COCO folder")
    parser.add_argument("--detector", default="faster_rcnn")
    parser.add_argument("--model", default="resnet10_small")
    parser.add_argument("--attention", default="sge")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument(
        "--most-objects",
        type=int,
        default=100,
        help="in an image; COCO's AP knows 100 detections of one, so more can't all be found",
    )
    parser.add_argument("--times", type=int, default=15, help="each image in an epoch")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--min-size", type=int, default=160)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    data = open_detection(options.data)
    indices = []
    for index in range(len(data.train)):
        if 0 < len(data.train[index][1].boxes) <= options.most_objects:
            indices.append(index)
        if len(indices) == options.images:
            break
    few = Few(data.train, tuple(indices))
    data = replace(data, train=replace(few, times=options.times), val=few)
    recipe = get_detection_recipe(
        "quick-detect",
        {
            "epochs": options.epochs,
            "batch_size": 4,
            "warmup_steps": 20,
            "hflip": 0.0,
            "weight_decay": 0.0,
            "min_size": (options.min_size,),
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        result = run_detection(
            RunSettings(
                model=options.model,
                attention=options.attention,
                recipe=recipe,
                out=Path(folder),
                workers=0,
                device=options.device,
                tensorboard=False,
                detector=options.detector,
            ),
            data,
        )
    for kind, scores in result.scores.items():
        if scores is not None:  # masks, where the detector has none
            ap = (scores[name] for name in ("ap", "ap50", "ap75"))
            print(f"{kind}: AP, AP50, AP75: " + ", ".join(f"{score:.3f}" for score in ap))
    if options.out:
        kept = {
            "arguments": {name: str(value) for name, value in vars(options).items()},
            "scores": result.scores,
            "curve": result.curve,
            "environment": environment(options.device),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
