"""What runs' files tell, and on which images contenders differ."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import ImageColor

from sgekit.comparison.found import LEVELS, Found, RunFound, read_found
from sgekit.comparison.gains import SHOWN, common_level, gains
from sgekit.detection.drawing import COLOURS
from sgekit.errors import InputError
from sgekit.training.detection_run import DETECTIONS
from tests.comparison.detections import MadeUp, made_up

SKILL = {"none": 0.6, "sge": 0.75}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    return made_up(tmp_path_factory.mktemp("boxes"), SKILL)


def found_in(made: MadeUp) -> Found:
    return read_found(made.results, made.plan, made.data, made.out)


def test_curves_have_the_areas_that_the_scores_tell(boxes: MadeUp) -> None:
    found = found_in(boxes)
    for contender in boxes.results["contenders"]:
        runs: list[Any] = list(contender["runs"])
        for run in runs:
            area = found.runs[contender["attention"]][run["seed"]].precision.mean(axis=1)
            box = run["scores"]["box"]
            assert area == pytest.approx([box["ap50"], box["ap75"]])
    assert sum(found.objects.values()) == 33
    assert list(found.objects) == ["kind 1", "kind 2", "kind 3"]
    assert found.kind == "box"


def test_masks_count_where_there_are_some(tmp_path: Path) -> None:
    made = made_up(tmp_path, SKILL, seeds=(0, 1), masks=True)
    found = found_in(made)
    assert found.kind == "mask"
    (shaded,) = gains(found, "none", 0.5, made.data)
    for runs in found.runs.values():
        for run in runs.values():
            file = run.folder / DETECTIONS
            entries = json.loads(file.read_text())
            bare = [{k: v for k, v in e.items() if k != "segmentation"} for e in entries]
            file.write_text(json.dumps(bare))
    (plain,) = gains(found, "none", 0.5, made.data)
    with_masks, without = (np.asarray(one.better[0].image).astype(int) for one in (shaded, plain))
    width = (with_masks.shape[1] - 2 * 6) // 3
    share = (np.abs(with_masks - without).max(2) > 20).mean(0)
    # The annotation is the same, and where the contender's masks are the picture is shaded.
    assert share[:width].max() == 0
    assert share[2 * (width + 6) :].max() > 0.1
    # One run without masks, and boxes are what all have.
    ended = cast(list[Any], made.results["contenders"][0]["runs"])
    ended[0]["scores"]["mask"] = None
    assert found_in(made).kind == "box"


def test_runs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    made = made_up(tmp_path, SKILL, seeds=(0,))
    folder = tmp_path / "runs" / "sge-seed0"
    (folder / DETECTIONS).write_text("[{")
    with pytest.raises(InputError, match=r"delete .*sge-seed0 to train this run again"):
        found_in(made)


def solved(values: dict[str, list[list[float]]]) -> Found:
    """Contenders by seed with the F1 of each image, the same at every level."""
    runs = {
        name: {
            seed: RunFound(Path(), np.zeros((2, 101)), np.tile(np.array(f1), (len(LEVELS), 1)))
            for seed, f1 in enumerate(seeds)
        }
        for name, seeds in values.items()
    }
    return Found(runs, np.arange(1), {}, "box")


def test_the_common_level_solves_most_and_is_near_the_middle() -> None:
    found = solved({"none": [[0.5, 0.2]], "sge": [[0.1, 0.3]]})
    assert common_level(found) == 0.5
    run = found.runs["sge"][0]
    run.solved[2] += 0.4
    assert common_level(found) == pytest.approx(0.15)
    # Worse for the other by more than that.
    found.runs["none"][0].solved[2] -= 0.5
    assert common_level(found) == 0.5
    assert common_level(replace(found, runs={"none": {}})) == 0.5


def test_images_that_change_most_come_first_with_a_typical_seed(boxes: MadeUp) -> None:
    found = found_in(boxes)
    (one,) = gains(found, "none", 0.5, boxes.data)
    at = list(LEVELS).index(0.5)
    f1 = {
        name: np.stack([runs[seed].solved[at] for seed in (0, 1, 2)])
        for name, runs in found.runs.items()
    }
    difference = f1["sge"] - f1["none"]
    mean = difference.mean(axis=0)
    assert one.attention == "sge"
    assert (one.gained, one.lost) == ((mean > 1e-9).sum(), (mean < -1e-9).sum())
    assert one.gained + one.lost + one.equal == 12
    order = np.argsort(-mean, kind="stable")
    assert [s.source for s in one.better] == [f"val/picture {i}.png" for i in order[:SHOWN]]
    assert [s.after - s.before for s in one.worse] == pytest.approx(np.sort(mean)[:SHOWN])
    first = one.better[0]
    distance = np.abs(difference - mean)[:, order[0]]
    assert distance[first.seed] == pytest.approx(distance.min())
    assert first.seeds == 3
    assert first.drawn == tuple(f1[name][first.seed, order[0]] for name in ("none", "sge"))


def test_of_two_seeds_the_larger_change_is_drawn(tmp_path: Path) -> None:
    made = made_up(tmp_path, SKILL, seeds=(0, 1))
    (one,) = gains(found_in(made), "none", 0.5, made.data)
    for strip in (*one.better, *one.worse):
        mean, shown = strip.after - strip.before, strip.drawn[1] - strip.drawn[0]
        assert abs(shown) >= abs(mean) - 1e-9
        assert shown * mean > 0


def test_a_strip_shows_annotation_baseline_and_contender(tmp_path: Path) -> None:
    made = made_up(tmp_path, SKILL, seeds=(0,))
    for name in SKILL:
        (tmp_path / "runs" / f"{name}-seed0" / DETECTIONS).write_text("[]")
    note = made.data.val.ground_truth()["annotations"][0]
    hit = {key: note[key] for key in ("image_id", "category_id", "bbox")}
    entries = [hit | {"score": 0.9}, hit | {"score": 0.2}]
    (tmp_path / "runs" / "sge-seed0" / DETECTIONS).write_text(json.dumps(entries))
    (one,) = gains(found_in(made), "none", 0.5, made.data)
    assert (one.gained, one.lost, one.equal) == (1, 0, 11)
    assert one.worse == ()
    (strip,) = one.better
    # One hit of three objects, and the weak second detection is not counted.
    assert strip.before == 0
    assert strip.after == pytest.approx(2 / (1 + 3))
    assert strip.words[1:] == ("nothing", f"kind {note['category_id']}")
    width = (strip.image.width - 2 * 6) // 3
    colour = torch.tensor(ImageColor.getrgb(COLOURS[note["category_id"] - 1]))
    pixels = torch.from_numpy(np.array(strip.image)).int()
    near = ((pixels - colour).abs().amax(2) < 40).float()
    shares = [float(near[:, n * (width + 6) : n * (width + 6) + width].mean()) for n in range(3)]
    assert shares[1] < min(shares[0], shares[2])


def test_no_image_changes(boxes: MadeUp) -> None:
    found = found_in(boxes)
    same = replace(found, runs={"none": found.runs["none"], "sge": found.runs["none"]})
    (one,) = gains(same, "none", 0.5, boxes.data)
    assert (one.gained, one.lost, one.equal) == (0, 0, 12)
    assert one.better == one.worse == ()
    assert gains(replace(found, runs={"none": found.runs["none"]}), "none", 0.5, boxes.data) == []
