"""Every detector learns twenty scenes by heart: losses, targets and decoding fit each other."""

from dataclasses import replace
from pathlib import Path

import pytest

from sgekit.data import SceneConfig
from sgekit.data.scene_detection import open_scene_detection
from sgekit.detection import DETECTORS
from sgekit.training.detection_recipes import get_detection_recipe
from sgekit.training.detection_run import run_detection
from sgekit.training.settings import RunSettings

LEARN = {"epochs": 30, "batch_size": 4, "warmup_steps": 10, "hflip": 0.0, "weight_decay": 0.0}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", DETECTORS)
def test_twenty_scenes_are_learnt_by_heart(name: str, tmp_path: Path) -> None:
    data = open_scene_detection(SceneConfig(image_size=64, train=20, val=20))
    data = replace(data, val=data.train)
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
