import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from sgekit.detection import bootstrap
from sgekit.detection.bootstrap import METRICS, Interval, metrics, paired_bootstrap
from sgekit.detection.evaluation import CocoEvaluation
from sgekit.detection.matching import Matches
from sgekit.errors import InputError
from tests.detection.random_objects import World, random_world


def matches(world: World) -> Matches:
    evaluation = CocoEvaluation(world.truth, masks=False)
    evaluation.update(list(world.found), list(world.found.values()))
    return evaluation.matches("box")


def scores(world: World) -> list[float]:
    evaluation = CocoEvaluation(world.truth, masks=False)
    evaluation.update(list(world.found), list(world.found.values()))
    box = evaluation.compute().box
    return [getattr(box, name) for name in METRICS]


def worse(world: World, noise: float, seed: int = 0) -> World:
    """The same detections with scores that tell less; their order among equals unchanged."""
    rng = np.random.default_rng(seed)
    found = copy.deepcopy(world.found)
    for prediction in found.values():
        shift = rng.normal(0, noise, len(prediction["scores"])).astype(np.float32)
        prediction["scores"] = (prediction["scores"] + prediction["scores"].new_tensor(shift)).abs()
    return World(world.truth, found)


def repeated(world: World, times: NDArray[np.int32]) -> World:
    """Every image as often as drawn, each copy an image of its own; in the order of the ids."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    found: dict[int, dict[str, Tensor]] = {}
    ids = sorted(world.found)
    for image_id, count in zip(ids, times.tolist(), strict=True):
        for _ in range(count):
            new = len(images) + 1
            images.append({"id": new, "height": 200, "width": 200})
            found[new] = world.found[image_id]
            for annotation in world.truth["annotations"]:
                if annotation["image_id"] == image_id:
                    number = len(annotations) + 1
                    annotations.append({**annotation, "id": number, "image_id": new})
    truth = {**world.truth, "images": images, "annotations": annotations}
    return World(truth, found)


@pytest.mark.parametrize("seed", range(4))
def test_all_images_once_are_the_scores(seed: int) -> None:
    world = random_world(seed, images=16)
    once = np.ones((1, 16), dtype=np.int32)
    np.testing.assert_allclose(metrics(matches(world), once)[:, 0], scores(world), atol=1e-14)


@pytest.mark.parametrize("chunk", [1, 1_000_000])
def test_draws_are_scored_as_if_matched_again(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_CHUNK", chunk)
    # Without ties: copies of an image with two equal scores have no order of their own.
    world = random_world(7, ties=False, many=False)
    rng = np.random.default_rng(1)
    draws = rng.multinomial(12, np.full(12, 1 / 12), size=6).astype(np.int32)
    found = metrics(matches(world), draws)
    for times, column in zip(draws, found.T, strict=True):
        np.testing.assert_allclose(column, scores(repeated(world, times)), atol=1e-14)
    assert len({tuple(column) for column in found.T}) == 6


def test_the_fewest_hits_for_each_recall_are_those_of_a_search() -> None:
    points = np.linspace(0, 1, 101)
    objects = np.arange(1, 400)
    needed = bootstrap._hits_needed(objects.astype(np.float64))
    for count, row in zip(objects.tolist(), needed, strict=True):
        recalls = np.arange(count + 1) / count
        assert np.array_equal(row, np.searchsorted(recalls, points))


def test_the_interval_of_a_difference() -> None:
    world = random_world(8, images=40)
    one, other = matches(world), matches(worse(world, 0.4))
    found = paired_bootstrap([one], [other], resamples=300)
    again = paired_bootstrap([other], [one], resamples=300)
    expected = np.subtract(scores(world), scores(worse(world, 0.4)))
    for name, difference in zip(METRICS, expected, strict=True):
        interval = found[name]
        assert interval.difference == pytest.approx(difference, abs=1e-14)
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < interval.high
        # The same draws for both: turned around, the interval is mirrored.
        assert again[name].high == pytest.approx(-interval.low)
    assert paired_bootstrap([one], [other], resamples=300) == found
    assert paired_bootstrap([one], [other], resamples=300, seed=1) != found
    wide, narrow = (
        paired_bootstrap([one], [other], resamples=300, confidence=c)["ap"] for c in (0.99, 0.5)
    )
    assert wide.low is not None
    assert narrow.low is not None
    assert wide.low < narrow.low


def test_a_detector_and_itself_do_not_differ() -> None:
    one = matches(random_world(9))
    interval = paired_bootstrap([one], [one], resamples=50)["ap"]
    assert (interval.difference, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_seeds_are_averaged_on_the_same_draws() -> None:
    world = random_world(10)
    one, others = matches(world), [matches(worse(world, 0.3, seed)) for seed in range(2)]
    alone = [paired_bootstrap([one], [other], resamples=2)["ap"] for other in others]
    both = paired_bootstrap([one, one], others, resamples=2)["ap"]
    differences = [interval.difference for interval in alone]
    assert None not in differences
    assert both.difference == pytest.approx(np.mean(np.array(differences, dtype=float)))


def test_sizes_that_few_draws_have() -> None:
    world = random_world(11, images=8)
    for annotation in world.truth["annotations"]:
        annotation["area"] = 100.0
    first = next(a for a in world.truth["annotations"] if not a["iscrowd"])
    first["area"] = 10_000.0
    one = matches(world)
    found = paired_bootstrap([one], [one], resamples=200)
    # In one image of 8: no draw of it in (7/8)^8 = 34 %.
    assert 110 < found["ap_large"].used < 155
    assert found["ap_large"].low == 0.0
    assert found["ap_medium"] == Interval(None, None, None, 200, 0)


def test_progress_reaches_its_end() -> None:
    seen: list[tuple[int, int]] = []
    one = matches(random_world(9))
    paired_bootstrap([one], [one], resamples=2, progress=lambda *step: seen.append(step))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_bad_input() -> None:
    one, other = matches(random_world(0)), matches(random_world(1))
    with pytest.raises(InputError, match="different ground truths"):
        paired_bootstrap([one], [other])
    with pytest.raises(InputError, match="at least one: 0, 0"):
        paired_bootstrap([], [])
    with pytest.raises(InputError, match="equally many"):
        paired_bootstrap([one], [one, one])
    with pytest.raises(InputError, match="1 resamples"):
        paired_bootstrap([one], [one], resamples=1)
    with pytest.raises(InputError, match="confidence 95"):
        paired_bootstrap([one], [one], confidence=95)
    empty = matches(World({"images": [], "annotations": [], "categories": []}, {}))
    with pytest.raises(InputError, match="no image"):
        paired_bootstrap([empty], [empty])
