"""Which pictures a detector's report shows, with gates from a run's checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageColor

from sgekit.comparison.examples import COUNT, counted, gate_examples
from sgekit.comparison.plan import Plan
from sgekit.data.detection import DetectionData
from sgekit.detection.drawing import COLOURS
from sgekit.errors import InputError
from sgekit.training.checkpoint import KEY
from sgekit.training.detection_recipes import get_detection_recipe
from sgekit.training.detection_run import build_detector, detector_identity
from sgekit.training.settings import RunSettings
from tests.comparison.detections import SIZES, Rectangles, rectangles


@pytest.fixture(scope="module")
def data() -> DetectionData:
    return rectangles()


@pytest.fixture
def plan() -> Plan:
    recipe = get_detection_recipe("quick-detect", {"min_size": (64,), "max_size": 128})
    return Plan("resnet10_small", ("none", "sge"), (0, 1), recipe, detector="retinanet", groups=4)


def end(settings: RunSettings, data: DetectionData) -> None:
    """The run's files, with weights as it began: fresh gates are constant."""
    model = build_detector(settings, len(data.classes))
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    settings.out.mkdir(parents=True)
    (settings.out / "run.json").write_text("{}")
    who = detector_identity(settings, data.classes)
    torch.save({KEY: who.plain(), "state_dict": weights}, settings.out / "last.ckpt")


def test_images_with_objects_and_their_boxes(
    data: DetectionData, plan: Plan, tmp_path: Path
) -> None:
    runs = {(run.attention, run.seed): run for run in plan.runs(tmp_path)}
    end(runs["sge", 1], data)
    found = gate_examples(plan, data, tmp_path, "cpu")
    assert len(found) == COUNT
    # Eleven of the twelve have objects: the first has none.
    numbers = [int(e.title.split(".png")[0].removeprefix("val/picture ")) for e in found]
    assert numbers == sorted(set(numbers))
    assert 0 not in numbers
    for number, example in zip(numbers, found, strict=True):
        width, height = SIZES[number % len(SIZES)]
        target = data.val[number][1]
        assert example.title.endswith(f": {counted(target.labels.tolist(), data.classes)}")
        assert example.layer.startswith("backbone.body.")
        scale = example.picture.width / width
        assert max(example.picture.size) == 400
        colours = np.asarray(example.picture).astype(int)
        # The object that is drawn last is covered by none.
        left, top, _, bottom = target.boxes[-1].tolist()
        row = colours[int((top + bottom) / 2 * scale), int(left * scale) :][:6]
        line = ImageColor.getrgb(COLOURS[int(target.labels[-1]) - 1])
        assert (np.abs(row - np.array(line)).sum(1) == 0).any()
        for maps in example.maps:
            # A fresh gate is sigmoid(1) everywhere, and the maps have the picture's shape.
            assert np.allclose(maps.gate, 0.731, atol=1e-3)
            high, wide = maps.gate.shape
            assert wide / high == pytest.approx(width / height, rel=0.1)


def test_all_images_where_none_has_objects(plan: Plan, tmp_path: Path) -> None:
    empty = Rectangles(("kind 1", "kind 2"), count=1)
    data = replace(rectangles(2), val=empty)
    end(next(run for run in plan.runs(tmp_path) if run.attention == "sge"), data)
    (example,) = gate_examples(plan, data, tmp_path, "cpu")
    assert example.title == "val/picture 0.png: nothing"


def test_no_sge_and_a_checkpoint_that_is_gone(
    data: DetectionData, plan: Plan, tmp_path: Path
) -> None:
    for run in plan.runs(tmp_path):
        if run.attention == "none":
            run.out.mkdir(parents=True)
            (run.out / "run.json").write_text("{}")
    assert gate_examples(plan, data, tmp_path, "cpu") == []
    gone = next(run.out for run in plan.runs(tmp_path) if run.attention == "sge")
    gone.mkdir()
    (gone / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"last\.ckpt is gone; delete .*sge-seed0"):
        gate_examples(plan, data, tmp_path, "cpu")


def test_objects_in_words() -> None:
    assert counted([3, 1, 3], ("cup", "fork", "plate")) == "cup, 2 × plate"
    assert counted([], ("cup",)) == "nothing"
