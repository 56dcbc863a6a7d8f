"""Detectors learn, resume and evaluate; on a few small scenes and the smallest network."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from sgekit.data import SceneConfig
from sgekit.data.detection import DetectionData, Target, open_detection
from sgekit.errors import InputError
from sgekit.training.checkpoint import read_checkpoint
from sgekit.training.detection_loaders import AspectBatches, DetectionSamples, augmentation
from sgekit.training.detection_recipes import (
    DETECTION_RECIPES,
    DetectionRecipe,
    get_detection_recipe,
)
from sgekit.training.detection_run import (
    DETECTIONS,
    build_detector,
    evaluate_detector,
    load_detector,
    run_detection,
)
from sgekit.training.detection_task import rate
from sgekit.training.settings import RunSettings


@pytest.fixture(scope="module")
def scenes() -> DetectionData:
    return open_detection(None, scenes=SceneConfig(image_size=64, train=12, val=6))


@pytest.fixture
def tiny() -> DetectionRecipe:
    changes = {"epochs": 2, "batch_size": 4, "min_size": (64,), "warmup_steps": 2}
    return get_detection_recipe("quick-detect", changes)


def settings(recipe: DetectionRecipe, out: Path, **changes: object) -> RunSettings:
    base = RunSettings(
        model="resnet10_small",
        attention="sge",
        recipe=recipe,
        out=out,
        workers=0,
        tensorboard=False,
        detector="retinanet",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_a_run_leaves_what_it_says_and_resumes_to_the_same_weights(
    scenes: DetectionData, tiny: DetectionRecipe, tmp_path: Path
) -> None:
    whole = run_detection(settings(tiny, tmp_path / "whole"), scenes)
    assert whole.epochs == 2
    assert len(whole.curve) == 2
    assert set(whole.scores) == {"box", "mask"}
    assert 0 <= whole.ap <= 1
    found = json.loads((tmp_path / "whole" / DETECTIONS).read_text())
    assert {d["image_id"] for d in found} <= {scenes.val.image_id(i) for i in range(6)}

    # One epoch of the same run, as an interruption leaves it, then the rest.
    part = tmp_path / "part"
    stopped = settings(tiny, part)
    checkpoints: list[dict[str, object]] = []

    class StopError(Exception):
        pass

    from sgekit.training import detection_task

    original = detection_task.DetectionTask.on_train_epoch_start

    def stop(self: detection_task.DetectionTask) -> None:
        if self.current_epoch == 1 and not checkpoints:
            checkpoints.append({})
            raise StopError
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection_task.DetectionTask, "on_train_epoch_start", stop)
        with pytest.raises(StopError):
            run_detection(stopped, scenes)
    with pytest.raises(InputError, match="already holds a run"):
        run_detection(stopped, scenes)
    resumed = run_detection(replace(stopped, resume=True), scenes)
    assert resumed.curve[0]["train_loss"] == whole.curve[0]["train_loss"]
    ends = [read_checkpoint(tmp_path / n / "last.ckpt")["state_dict"] for n in ("whole", "part")]
    assert all(torch.equal(ends[1][name], value) for name, value in ends[0].items())

    # Evaluated again from its checkpoint it scores the same.
    detector, who = load_detector(tmp_path / "whole" / "last.ckpt")
    assert who.detector == "retinanet"
    again = evaluate_detector(detector, who, scenes, "cpu", batch_size=4).compute()
    assert again.box.ap == pytest.approx(whole.ap, abs=1e-9)
    with pytest.raises(InputError, match=r"does not know|differ"):
        evaluate_detector(detector, who, replace(scenes, classes=scenes.classes[:3]), "cpu")


def test_masks_need_masks(scenes: DetectionData, tiny: DetectionRecipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose faster_rcnn"):
        run_detection(settings(tiny, tmp_path, detector="mask_rcnn"), replace(scenes, masks=False))


class Sizes:
    """Pictures of given sizes, which nobody looks at."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[object, Target]:
        raise AssertionError

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def source(self, index: int) -> str:
        return str(index)

    def image_id(self, index: int) -> int:
        return index

    def ground_truth(self) -> dict[str, object]:
        return {}


def test_batches_hold_pictures_of_one_shape() -> None:
    sizes = [(30, 40) if i % 3 else (40, 30) for i in range(40)]
    batches = AspectBatches(Sizes(sizes), 4, 0, 0, 1, 1)  # type: ignore[arg-type]
    epochs = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        drawn = [[index for _, index in batch] for batch in batches]
        assert len(drawn) == len(batches) == 10
        flat = [index for batch in drawn for index in batch]
        assert len(flat) == len(set(flat)) == 40
        # 14 tall and 26 wide: three tall batches, six wide ones, and one of the rest.
        mixed = sum(len({sizes[i] for i in batch}) > 1 for batch in drawn)
        assert mixed <= 1
        epochs.append(drawn)
    assert epochs[0] != epochs[1]
    halves = [AspectBatches(Sizes(sizes), 4, 0, rank, 2, 1) for rank in (0, 1)]  # type: ignore[arg-type]
    for one, left, right in zip(epochs[0], *halves, strict=True):
        assert [index for _, index in left + right] == one


def test_targets_follow_their_picture(scenes: DetectionData, tiny: DetectionRecipe) -> None:
    flipped = replace(tiny, hflip=1.0)
    image, target = DetectionSamples(scenes.train, flipped, True, 0)[(0, 3)]
    picture, known = scenes.train[3]
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    assert torch.equal(image, pixels.flip(2))
    assert known.masks is not None
    assert torch.equal(target["masks"], torch.from_numpy(known.masks).flip(2))
    x0, y0, x1, y1 = known.boxes[0]
    assert target["boxes"][0].tolist() == [64 - x1, y0, 64 - x0, y1]
    assert target["labels"].tolist() == known.labels.tolist()


def test_without_flips_pictures_stay_as_they_are(
    scenes: DetectionData, tiny: DetectionRecipe
) -> None:
    samples = DetectionSamples(scenes.train, replace(tiny, hflip=0.0), True, 0)
    picture, known = scenes.train[1]
    plain = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    for epoch in range(5):
        image, target = samples[(epoch, 1)]
        torch.testing.assert_close(image, plain)
        assert target["boxes"].tolist() == known.boxes.tolist()


def test_jitter_cuts_objects_with_the_picture(scenes: DetectionData, tiny: DetectionRecipe) -> None:
    recipe = replace(tiny, jitter=(0.3, 2.0), max_size=96)
    samples = DetectionSamples(scenes.train, recipe, True, 0)
    for epoch in range(5):
        image, target = samples[(epoch, 1)]
        assert image.shape == (3, 96, 96)
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        assert (target["boxes"] >= 0).all()
        assert (target["boxes"] <= 96).all()
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            edges = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert [int(edge) for edge in edges] == box.tolist()
            assert mask.max() == 1
    # Where the picture becomes smaller than what it is padded to, the object does too.
    smaller = DetectionSamples(scenes.train, replace(recipe, jitter=(0.3, 0.3)), True, 0)
    known = scenes.train[1][1].masks
    assert known is not None
    for epoch in range(5):
        image, target = smaller[(epoch, 1)]
        assert target["masks"].sum() == pytest.approx(known.sum() * (0.3 * 96 / 64) ** 2, rel=0.15)
        corner = image[:, -1, -1]
        assert torch.equal(corner, torch.full((3,), 114 / 255))
    assert len(augmentation(tiny).transforms) < len(augmentation(recipe).transforms)


def test_tiny_boxes_stay_where_nothing_is_cut(scenes: DetectionData, tiny: DetectionRecipe) -> None:
    samples = DetectionSamples(scenes.train, tiny, False, 0)
    picture, target = scenes.train[0]
    small = replace(target, boxes=np.array([[30, 30, 30.6, 30.6]], dtype=np.float32))
    known = samples._known(small, picture)
    assert samples.augment is not None
    _, kept = samples.augment(tv_tensors.Image(torch.zeros(3, 64, 64)), known)
    assert len(kept["boxes"]) == 1


def test_synchronised_norms_are_refused_without_a_gpu(
    scenes: DetectionData,
    tiny: DetectionRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sgekit.training.detection_run.world_and_rank", lambda: (2, 0))
    with pytest.raises(InputError, match="norm sync needs GPUs"):
        run_detection(settings(replace(tiny, norm="sync"), tmp_path), scenes)


def test_rate_warms_up_and_falls() -> None:
    recipe = DETECTION_RECIPES["coco-2x"]
    steps = 24 * 100
    assert rate(recipe, 0, steps) == pytest.approx(1 / 3, abs=0.01)
    assert rate(recipe, 499, steps) == pytest.approx(1)
    assert rate(recipe, 1599, steps) == pytest.approx(1)
    assert rate(recipe, 1600, steps) == pytest.approx(0.1)
    assert rate(recipe, 2200, steps) == pytest.approx(0.01)
    cosine = replace(recipe, schedule="cosine", warmup_steps=0)
    assert rate(cosine, 0, steps) == 1
    assert rate(cosine, 1200, steps) == pytest.approx(0.5)
    assert rate(cosine, 2400, steps) == pytest.approx(0, abs=1e-9)


def test_the_recipe_says_how_the_last_norms_start(tmp_path: Path) -> None:
    for changes, start in (({}, 1.0), ({"zero_init_last": "true"}, 0.0)):
        recipe = get_detection_recipe("quick-detect", changes)
        body: Any = build_detector(settings(recipe, tmp_path), 3).backbone.body  # type: ignore[union-attr]
        assert body.layer1[0].bn2.weight.unique().tolist() == [start]


def test_recipes_of_the_paper() -> None:
    paper = DETECTION_RECIPES["coco-2x"]
    assert (paper.batch_size, paper.lr, paper.epochs, paper.milestones) == (16, 0.02, 24, (16, 22))
    assert (paper.weight_decay, paper.momentum, paper.clip_grad_norm) == (1e-4, 0.9, 35)
    assert (paper.warmup_steps, paper.min_size, paper.max_size) == (500, (800,), 1333)
    assert (paper.norm, paper.frozen_stages, paper.optimizer) == ("frozen", 2, "momentum")
    assert get_detection_recipe("coco-2x", {"batch_size": 2}).peak_lr == pytest.approx(0.0025)
    assert get_detection_recipe("coco-2x", {"epochs": 12}).milestones == (8, 11)
    assert get_detection_recipe("coco-1x", {"min_size": "300,400"}).max_size == 667


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": -1}, "lr must not be negative"),
        ({"lr": math.nan}, "lr must be a finite number"),
        ({"min_size": (900,), "max_size": 800}, "min_size must be sizes from 1 to max_size"),
        ({"jitter": (2.0, 1.0)}, "jitter must be two numbers"),
        ({"norm": "layer"}, "norm 'layer' is none of frozen, batch, sync, group"),
        ({"frozen_stages": 6}, "frozen_stages must be 0 to 5"),
        ({"batch_size": 5, "accumulate": 2}, "does not divide into 2"),
        ({"epoch": 5}, "no field 'epoch'; near: epochs"),
        ({"milestones": "5,x"}, "milestones takes tuple"),
    ],
)
def test_bad_recipes_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        get_detection_recipe("coco-1x", changes)
    with pytest.raises(InputError, match=r"unknown recipe 'coco-9x'.*coco-1x"):
        get_detection_recipe("coco-9x")


def test_an_ended_run_is_told_again(
    scenes: DetectionData, tiny: DetectionRecipe, tmp_path: Path
) -> None:
    recipe = tiny.with_overrides({"epochs": 1})
    first = run_detection(settings(recipe, tmp_path), scenes)
    found = (tmp_path / DETECTIONS).read_text()
    again = run_detection(settings(recipe, tmp_path, resume=True), scenes)
    assert again.scores["box"]["ap"] == first.scores["box"]["ap"]
    assert again.epochs == 1
    assert (tmp_path / DETECTIONS).read_text() == found


def test_evaluation_images_without_objects_are_refused(
    scenes: DetectionData, tiny: DetectionRecipe, tmp_path: Path
) -> None:
    class Empty(type(scenes.val)):  # type: ignore[misc]
        def ground_truth(self) -> dict[str, object]:
            return {**super().ground_truth(), "annotations": []}

    data = replace(scenes, val=Empty(scenes.val.config, "val"))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="have no object: nothing could be measured"):
        run_detection(settings(tiny, tmp_path), data)
