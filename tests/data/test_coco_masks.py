"""Polygons, run lengths and compressed run lengths against COCO's own decoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from sgekit.data import coco_masks
from sgekit.data.coco_masks import paint, text_runs
from sgekit.data.detection import DetectionData, open_detection
from sgekit.data.scenes_export import run_lengths
from sgekit.errors import InputError
from tests.data.coco_files import annotation, content, write

SIZE = (48, 64)
TRIANGLE: list[list[float]] = [[10.5, 4, 30, 40.25, 5, 33]]
TWO: list[list[float]] = [[1, 1, 20, 1, 20, 12, 1, 12], [30, 20, 60, 25, 40, 45]]


def blob(seed: int = 0) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    rng = np.random.default_rng(seed)
    mask[10:30, 20:50] = rng.random((20, 30)) > 0.4
    return mask


def plain(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(SIZE), "counts": run_lengths(mask > 0)}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    return {
        "size": list(SIZE),
        "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode(),
    }


def with_masks(root: Path, *segmentations: Any) -> DetectionData:
    notes = [
        annotation(i, 1, [2, 3, 40, 30], segmentation=s) for i, s in enumerate(segmentations, 1)
    ]
    val = content(3, annotations=[annotation(1, 1, [2, 3, 9, 9], segmentation=TRIANGLE)])
    return open_detection(write(root, train=content(annotations=notes), val=val))


def by_coco(polygons: list[list[float]]) -> np.ndarray:
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE))))


def test_a_mix_of_all_forms(tmp_path: Path) -> None:
    forms = [TRIANGLE, plain(blob(1)), TWO, compressed(blob(2)), TWO[0]]
    data = with_masks(tmp_path, *forms)
    assert (data.masks, data.notes) == (True, ())
    masks = data.train[0][1].masks
    assert masks is not None
    assert masks.dtype == np.uint8
    assert masks.shape == (5, *SIZE)
    expected = [by_coco(TRIANGLE), blob(1), by_coco(TWO), blob(2), by_coco(TWO[:1])]
    for mask, true in zip(masks, expected, strict=True):
        assert np.array_equal(mask, true)
    empty = data.train[1][1].masks
    assert empty is not None
    assert empty.shape == (0, *SIZE)
    truth = [note["segmentation"] for note in data.train.ground_truth()["annotations"]]
    assert truth == [*forms[:4], TWO[:1]]


@pytest.mark.parametrize("seed", range(20))
def test_compressed_run_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 90, 2))
    mask = (rng.random((height, width)) < rng.random() ** 3).astype(np.uint8)
    runs = text_runs(coco_mask.encode(np.asfortranarray(mask))["counts"])
    assert runs.tolist() == run_lengths(mask > 0)
    painted = np.zeros_like(mask)
    paint(painted, runs)
    assert np.array_equal(painted, mask)


@pytest.mark.parametrize("counts", [[12], [0, 12], [3, 6, 3], [3, 0, 9], [0, 0, 5, 7], [4, 4, 4]])
def test_painting_whole_columns_and_nothing(counts: list[int]) -> None:
    mask = np.zeros((3, 4), dtype=np.uint8)
    paint(mask, np.array(counts))
    true = np.repeat(np.arange(len(counts)) % 2, counts).reshape((3, 4), order="F")
    assert np.array_equal(mask, true)


@pytest.mark.parametrize("lacking", [None, [], {}, [[1, 2, 3, 4]]], ids=str)
def test_masks_that_some_objects_lack_are_not_used(tmp_path: Path, lacking: Any) -> None:
    data = with_masks(tmp_path, TRIANGLE, lacking)
    assert not data.masks
    assert data.notes[-1] == "masks not used: 1 object of 3 have none"
    assert data.train[0][1].masks is None
    assert "segmentation" not in data.train.ground_truth()["annotations"][0]


def test_polygons_of_two_points_are_left_out_and_told(tmp_path: Path) -> None:
    data = with_masks(tmp_path, [*TRIANGLE, [1, 1, 5, 5]])
    assert data.masks
    assert data.notes == (
        "instances_train.json: 1 polygon of fewer than three points left out (annotation 1)",
    )
    masks = data.train[0][1].masks
    assert masks is not None
    assert np.array_equal(masks[0], by_coco(TRIANGLE))


BAD = {
    "another size": ({"size": [64, 48], "counts": [3072]}, r"size \[64, 48\], the picture's"),
    "too few": ({"size": [48, 64], "counts": [5, 5]}, "do not add up"),
    "nothing": ({"size": [48, 64], "counts": []}, "do not add up"),
    "negative": ({"size": [48, 64], "counts": [3080, -8]}, "do not add up"),
    "no counts": ({"size": [48, 64]}, "no counts"),
    "fractions": ({"size": [48, 64], "counts": [1.5, 3070.5]}, "do not add up"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "an odd number of coordinates"),
    "words": ([["a", "b", "c", "d", "e", "f"]], "neither polygons nor run lengths"),
    "far away": ([[1, 1, 1e6, 1, 1e6, 9]], "points far outside"),
    "not a number": ([[1, 1, float("nan"), 1, 8, 9]], "points far outside"),
    "text": ("0 0 1 1", "neither polygons nor run lengths"),
}


@pytest.mark.parametrize(("segmentation", "message"), BAD.values(), ids=BAD)
def test_what_is_no_mask(tmp_path: Path, segmentation: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"instances_train\.json.*annotation 1.*{message}"):
        with_masks(tmp_path, segmentation)


@pytest.mark.parametrize("counts", ["", "P", "abc", "\x00", "0000", "ooooooooooooo0"])
def test_compressed_codes_that_are_broken(tmp_path: Path, counts: str) -> None:
    data = with_masks(tmp_path, {"size": list(SIZE), "counts": counts})
    with pytest.raises(
        InputError, match=r"segmentation of annotation 1 is no mask of its picture"
    ) as told:
        data.train[0]
    assert "truth value" not in str(told.value)  # NumPy's words, of an empty array


def test_of_many_segmentations_some_are_checked_when_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_masks, "_ALL_CHECKED", 2)
    short = [[1, 1, 5, 5]]
    far = [[1, 1, 1e6, 1, 1e6, 9]]
    data = with_masks(tmp_path, TRIANGLE, far, TRIANGLE)
    with pytest.raises(InputError, match=r"annotation 2 is no mask .*far outside"):
        data.train[0]
    with pytest.raises(InputError, match=r"annotation 2 is no mask .*far outside"):
        data.train.ground_truth()
    # Whatever may be no mask at all, and run lengths, are always looked at.
    assert not with_masks(tmp_path, TRIANGLE, short, TRIANGLE).masks
    with pytest.raises(InputError, match="do not add up"):
        with_masks(tmp_path, TRIANGLE, {"size": list(SIZE), "counts": [7]}, TRIANGLE)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("key", ["more", "@"])
def test_json_of_any_form(tmp_path: Path, indent: int | None, encoding: str, key: str) -> None:
    data = with_masks(tmp_path, TRIANGLE, plain(blob(1)), compressed(blob(2)))
    path = tmp_path / "annotations/instances_train.json"
    text = json.loads(path.read_text())
    # Text that looks like a segmentation, and another encoding.
    text["annotations"][0][key] = "own"
    text["info"] = {"description": 'a "segmentation": [[1, 2]] in words', "segmentation": [[1]]}
    path.write_text(json.dumps(text, indent=indent), encoding=encoding)
    other = open_detection(tmp_path)
    masks, same = data.train[0][1].masks, other.train[0][1].masks
    assert masks is not None
    assert same is not None
    assert np.array_equal(masks, same)
