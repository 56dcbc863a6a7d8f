"""The built-in scenes as detection data: one creature a picture, with its box and mask."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from sgekit.data.detection import DetectionData, Target
from sgekit.data.scenes import SPLITS, Scene, SceneConfig, draw_scene
from sgekit.data.scenes_export import run_lengths


@dataclass(frozen=True)
class SceneDetectionSplit:
    """One split; every picture is drawn anew when asked for, in about 3 ms at 64 pixels."""

    config: SceneConfig
    split: str

    def __len__(self) -> int:
        return self.config.count(self.split)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        scene = self.scene(index)
        target = Target(
            boxes=np.array([scene.box], dtype=np.float32),
            labels=np.array([scene.label + 1], dtype=np.int64),
            area=np.array([scene.mask.sum()], dtype=np.float32),
            crowd=np.zeros(1, dtype=np.bool_),
            masks=scene.mask[None].astype(np.uint8),
            image_id=self.image_id(index),
        )
        return Image.fromarray(scene.image), target

    def scene(self, index: int) -> Scene:
        """The scene with all that is known about it."""
        return draw_scene(self.config, self.split, range(len(self))[index])

    def size(self, index: int) -> tuple[int, int]:
        """(height, width), the same for all."""
        return self.config.image_size, self.config.image_size

    def source(self, index: int) -> str:
        """A name such as "scenes (seed 0), train 17"."""
        return f"scenes (seed {self.config.seed}), {self.split} {range(len(self))[index]}"

    def image_id(self, index: int) -> int:
        """The place in the split, from 1, as `write_scenes` numbers them."""
        return range(len(self))[index] + 1

    def ground_truth(self) -> dict[str, Any]:
        """A COCO dict with uncompressed run lengths; the first call draws every scene."""
        side = self.config.image_size
        return {
            "info": {},
            "licenses": [],
            "images": [
                {"id": number, "file_name": f"{number - 1:06d}.png", "width": side, "height": side}
                for number in range(1, len(self) + 1)
            ],
            "annotations": [dict(note) for note in self._annotations],
            "categories": [
                {"id": number, "name": name} for number, name in enumerate(self.config.classes, 1)
            ],
        }

    @cached_property
    def _annotations(self) -> list[dict[str, Any]]:
        notes = []
        for number in range(1, len(self) + 1):
            scene = self.scene(number - 1)
            x0, y0, x1, y1 = scene.box
            notes.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": scene.label + 1,
                    "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                    "area": float(scene.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {
                        "size": list(scene.mask.shape),
                        "counts": run_lengths(scene.mask),
                    },
                }
            )
        return notes


def open_scene_detection(config: SceneConfig | None = None) -> DetectionData:
    """The built-in scenes with boxes and masks; nothing is drawn until it is asked for."""
    config = config or SceneConfig()
    train, val = (SceneDetectionSplit(config, split) for split in SPLITS)
    return DetectionData("scenes", "scenes", config.classes, train, val, "val", masks=True)
