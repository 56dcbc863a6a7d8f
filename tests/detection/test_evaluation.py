import contextlib
import copy
import importlib
import io
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from sgekit.detection import matching
from sgekit.detection.evaluation import CocoEvaluation, Kind, Scores
from sgekit.errors import InputError
from tests.detection.random_objects import SIDE, World, random_world

# Without annotations of their own.
pycoco: Any = importlib.import_module("pycocotools.coco")
pycocoeval: Any = importlib.import_module("pycocotools.cocoeval")
faster_coco_eval: Any = importlib.import_module("faster_coco_eval")

TWELVE = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def evaluated(world: World, masks: bool = False) -> CocoEvaluation:
    evaluation = CocoEvaluation(world.truth, masks)
    evaluation.update(list(world.found), list(world.found.values()))
    return evaluation


def twelve(scores: Scores) -> list[float]:
    return [getattr(scores, name) for name in TWELVE]


def pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]], kind: Kind) -> Any:
    """Its evaluation; masks without boxes, for with them it takes the boxes' areas."""
    found = copy.deepcopy(detections)
    if kind == "mask":
        for one in found:
            del one["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = pycoco.COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        done = pycocoeval.COCOeval(coco, coco.loadRes(found), "bbox" if kind == "box" else "segm")
        done.evaluate()
        done.accumulate()
        done.summarize()
    return done


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(6))
def test_every_digit_is_that_of_pycocotools(seed: int, kind: Kind) -> None:
    world = random_world(seed, masks=kind == "mask")
    evaluation = evaluated(world, masks=kind == "mask")
    scores = evaluation.compute()
    own = scores.box if kind == "box" else scores.mask
    assert own is not None
    theirs = pycocotools(world.truth, evaluation.detections(), kind)
    assert 0.05 < own.ap < 0.9
    assert np.array_equal(np.nan_to_num(twelve(own), nan=-1), theirs.stats)
    precision = np.moveaxis(theirs.eval["precision"][..., 2], (3, 0, 2, 1), (0, 1, 2, 3))
    assert np.array_equal(np.nan_to_num(own.curves.precision, nan=-1), precision)
    recall = np.moveaxis(theirs.eval["recall"], 2, 0)
    assert np.array_equal(np.nan_to_num(own.curves.recall, nan=-1), recall)


def test_random_worlds_have_what_they_are_for() -> None:
    world = random_world(0)
    matches = evaluated(world).matches("box")
    labels = [len(prediction["labels"]) for prediction in world.found.values()]
    assert 0 in labels
    assert max(labels) > matching.MOST
    assert any(annotation["iscrowd"] for annotation in world.truth["annotations"])
    assert len(set(matches.score.tolist())) < len(matches.score)
    assert matches.object_counts[1:].any(axis=1).all()


def test_agrees_with_the_evaluator_of_faster_coco_eval() -> None:
    world = random_world(20, images=30)
    evaluation = evaluated(world)
    coco = faster_coco_eval.COCO(copy.deepcopy(world.truth))
    theirs = faster_coco_eval.COCOeval_faster(coco, coco.loadRes(evaluation.detections()), "bbox")
    for step in (theirs.evaluate, theirs.accumulate, theirs.summarize):
        step()
    found = np.nan_to_num(twelve(evaluation.compute().box), nan=-1)
    assert found == pytest.approx(theirs.all_stats[:12], abs=1e-12)


def test_parts_that_fit_into_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = random_world(1, images=20)
    whole = evaluated(world).matches("box")
    monkeypatch.setattr(matching, "_CHUNK", 200)
    parts = evaluated(world).matches("box")
    assert np.array_equal(whole.hit, parts.hit)
    assert np.array_equal(whole.counts, parts.counts)


def one_class(found: list[tuple[list[float], float]]) -> CocoEvaluation:
    """One image with objects at 0, 0 and 50, 0, both 20 wide and high."""
    truth = {
        "images": [{"id": 7, "height": 100, "width": 100}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 1, "bbox": [x, 0, 20, 20], "area": 400}
            for i, x in enumerate((0, 50))
        ],
        "categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "never there"}],
    }
    evaluation = CocoEvaluation(truth, masks=False)
    boxes, scores = [box for box, _ in found], [score for _, score in found]
    labels = torch.ones(len(found), dtype=torch.int64)
    evaluation.update(
        [7],
        [
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "labels": labels,
                "scores": torch.tensor(scores),
            }
        ],
    )
    return evaluation


def test_scores_by_hand() -> None:
    # A hit, a false alarm, the second hit: precision 1 up to recall 0.5 (51 of the 101 points),
    # then 2/3. An id of 0, as here the first object's, is an object like any other.
    scores = one_class(
        [([0, 0, 20, 20], 0.9), ([80, 80, 99, 99], 0.8), ([50, 0, 70, 20], 0.7)]
    ).compute()
    assert scores.mask is None
    assert scores.box.ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert [scores.box.ap_small, scores.box.ap75] == pytest.approx([scores.box.ap] * 2)
    assert (scores.box.ar1, scores.box.ar10) == (0.5, 1.0)
    assert scores.box.per_class["thing"] == pytest.approx(scores.box.ap)
    assert np.isnan([scores.box.ap_large, scores.box.per_class["never there"]]).all()
    written = json.loads(json.dumps(scores.box.as_dict()))
    assert written["ap_large"] is written["per_class"]["never there"] is None
    assert written["ap50"] == scores.box.ap50
    assert set(written) == {*TWELVE, "per_class"}


def test_the_overlap_decides_from_which_threshold_on() -> None:
    # 15 of 20 columns: an overlap of exactly 0.75, which is enough at 0.75.
    scores = one_class([([0, 0, 15, 20], 0.9)]).compute().box
    assert [scores.ap50, scores.ap75] == pytest.approx([51 / 101] * 2)
    assert scores.ar100 == pytest.approx(0.5 * 6 / 10)


def test_nothing_found_is_zero() -> None:
    scores = one_class([]).compute().box
    assert (scores.ap, scores.ar100, scores.per_class["thing"]) == (0.0, 0.0, 0.0)


def test_no_image_at_all_is_no_score() -> None:
    evaluation = CocoEvaluation({"images": [], "annotations": [], "categories": []}, False)
    assert np.isnan(twelve(evaluation.compute().box)).all()


@pytest.mark.parametrize("masks", [False, True])
def test_processes_merge_and_a_repeated_image_counts_once(masks: bool) -> None:
    world = random_world(3, masks=masks)
    ids = list(world.found)
    parts = [CocoEvaluation(world.truth, masks) for _ in range(2)]
    # The second process has the first image as well, as padding.
    for part, chosen in zip(parts, (ids[::2], [*ids[1::2], ids[0]]), strict=True):
        part.update(chosen, [world.found[i] for i in chosen])
    parts[0].merge(pickle.loads(pickle.dumps(parts[1].state())))
    merged, whole = parts[0].compute(), evaluated(world, masks).compute()
    assert merged.box == whole.box
    assert merged.mask == whole.mask
    assert masks == (whole.mask is not None)


@pytest.mark.parametrize("masks", [False, True])
def test_detections_written_and_read_score_the_same(masks: bool) -> None:
    world = random_world(4, masks=masks)
    evaluation = evaluated(world, masks)
    read = CocoEvaluation(world.truth, masks)
    read.load(json.loads(json.dumps(evaluation.detections())))
    assert read.compute() == evaluation.compute()
    assert read.detections() == evaluation.detections()
    # With the ids of a file whose classes are not counted from 1.
    classes = range(len(evaluation.classes))
    other = evaluation.detections([10 * k + 7 for k in classes])
    own = sorted({entry["id"] for entry in world.truth["categories"]})
    for mine, theirs in zip(evaluation.detections(), other, strict=True):
        assert theirs["category_id"] == 10 * own.index(mine["category_id"]) + 7
        assert mine["bbox"] == theirs["bbox"]


def test_images_without_prediction_are_not_passed_over() -> None:
    world = random_world(5)
    some = list(world.found)[:4]
    evaluation = CocoEvaluation(world.truth, False)
    evaluation.update(some, [world.found[i] for i in some])
    with pytest.raises(InputError, match="8 of 12 images have had no prediction"):
        evaluation.compute()
    alone = {
        **world.truth,
        "images": [image for image in world.truth["images"] if image["id"] in some],
        "annotations": [a for a in world.truth["annotations"] if a["image_id"] in some],
    }
    expected = evaluated(World(alone, {i: world.found[i] for i in some})).compute()
    np.testing.assert_array_equal(
        twelve(evaluation.compute(partial=True).box), twelve(expected.box)
    )


def changed(**new: Any) -> dict[str, torch.Tensor]:
    known = {
        "boxes": torch.tensor([[1.0, 2.0, 30.0, 40.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.5]),
        "masks": torch.ones(1, 1, SIDE, SIDE),
    }
    return {name: value for name, value in {**known, **new}.items() if value is not None}


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (changed(labels=torch.tensor([5])), "has label 5; the ground truth has 4 classes, 1 to 4"),
        (changed(labels=torch.tensor([0])), "has label 0"),
        (changed(scores=torch.tensor([float("nan")])), "not finite"),
        (changed(boxes=torch.tensor([[1.0, 2.0, float("inf"), 40.0]])), "not finite"),
        (changed(boxes=torch.tensor([[31.0, 2.0, 30.0, 40.0]])), "ends before it begins"),
        (changed(masks=None), "no masks"),
        (changed(masks=torch.ones(1, 1, 28, 28)), r"a mask of \(28, 28\) pixels"),
    ],
)
def test_bad_predictions(prediction: dict[str, torch.Tensor], message: str) -> None:
    world = random_world(0, masks=True)
    evaluation = CocoEvaluation(world.truth, masks=True)
    image = next(iter(world.found))
    with pytest.raises(InputError, match=message):
        evaluation.update([image], [prediction])
    evaluation.update([image], [changed()])
    assert len(evaluation.detections()) == 1


def test_bad_calls() -> None:
    world = random_world(0)
    evaluation = CocoEvaluation(world.truth, masks=False)
    with pytest.raises(InputError, match="image 5000 is not in the ground truth"):
        evaluation.update([5000], [changed()])
    with pytest.raises(InputError, match="2 images with 1 predictions"):
        evaluation.update([1, 2], [changed()])
    with pytest.raises(InputError, match="holds no masks"):
        evaluation.matches("mask")
    with pytest.raises(InputError, match="a detection has no bbox, score"):
        evaluation.load([{"image_id": 1, "category_id": 1}])


@pytest.mark.parametrize(("key", "value"), [("image_id", 5000), ("category_id", 9)])
def test_ground_truth_that_does_not_fit_itself(key: str, value: int) -> None:
    truth = copy.deepcopy(random_world(0).truth)
    truth["annotations"][0][key] = value
    with pytest.raises(InputError, match=f"annotation 1 has {key} {value}"):
        CocoEvaluation(truth, masks=False)


def test_objects_without_a_mask_are_named() -> None:
    world = random_world(0, masks=True)
    del world.truth["annotations"][0]["segmentation"]
    with pytest.raises(InputError, match="annotation 1 has no segmentation"):
        evaluated(world, masks=True).compute()
