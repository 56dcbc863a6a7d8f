"""Every detector learns twenty scenes by heart: losses, targets and decoding fit each other."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sgekit.data import SceneConfig
from sgekit.data.detection import DetectionSplit, Target
from sgekit.data.scene_detection import open_scene_detection
from sgekit.detection import DETECTORS
from sgekit.training.detection_recipes import get_detection_recipe
from sgekit.training.detection_run import run_detection
from sgekit.training.settings import RunSettings

LEARN = {"epochs": 8, "batch_size": 4, "warmup_steps": 20, "hflip": 0.0, "weight_decay": 0.0}


@dataclass(frozen=True)
class Repeated:
    """A split several times over, so that an epoch is worth its evaluation."""

    split: DetectionSplit
    times: int

    def __len__(self) -> int:
        return self.times * len(self.split)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        return self.split[index % len(self.split)]

    def size(self, index: int) -> tuple[int, int]:
        return self.split.size(index % len(self.split))

    def source(self, index: int) -> str:
        return self.split.source(index % len(self.split))

    def image_id(self, index: int) -> int:
        return self.split.image_id(index % len(self.split))

    def ground_truth(self) -> dict[str, Any]:
        return self.split.ground_truth()


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", DETECTORS)
def test_twenty_scenes_are_learnt_by_heart(name: str, tmp_path: Path) -> None:
    data = open_scene_detection(SceneConfig(image_size=64, train=20, val=20))
    data = replace(data, train=Repeated(data.train, 15), val=data.train)
    recipe = get_detection_recipe("quick-detect", LEARN)
    settings = RunSettings(
        model="resnet10_small",
        attention="sge",
        recipe=recipe,
        out=tmp_path,
        workers=0,
        device="cpu",
        tensorboard=False,
        detector=name,
    )
    scores = run_detection(settings, data).scores
    assert scores["box"]["ap50"] >= 0.95
    if DETECTORS[name].masks:
        assert scores["mask"]["ap50"] >= 0.90
