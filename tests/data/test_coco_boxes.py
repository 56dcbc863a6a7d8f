"""Boxes that are mended or left out, and told; files that have another form of boxes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgekit.data.detection import DetectionData, open_detection
from sgekit.errors import InputError
from tests.data.coco_files import annotation, content, write


def with_boxes(root: Path, *boxes: list[float], **more: Any) -> DetectionData:
    """Training data whose first picture, 64 × 48, has these boxes."""
    notes = [annotation(i, 1, box, **more) for i, box in enumerate(boxes, 1)]
    return open_detection(write(root, train=content(annotations=notes), val=content(3)))


def told(data: DetectionData) -> list[str]:
    return [note.removeprefix("instances_train.json: ") for note in data.notes]


GOOD: list[list[float]] = [[2, 3, 10, 20], [5, 5, 8, 4]]


def test_boxes_of_zero_size_are_left_out(tmp_path: Path) -> None:
    data = with_boxes(tmp_path, [3, 3, 0, 9], *GOOD, [3, 3, 9, 0], [9, 9, -4, 3], [1, 1, 0, 0])
    assert told(data) == ["4 boxes of no width or height left out (annotation 1, 4, 5 and 1 more)"]
    _, target = data.train[0]
    assert target.boxes.tolist() == [[2, 3, 12, 23], [5, 5, 13, 9]]
    truth = data.train.ground_truth()["annotations"]
    assert [note["id"] for note in truth] == [2, 3]


def test_boxes_outside_their_picture_are_left_out(tmp_path: Path) -> None:
    outside: list[list[float]] = [[64, 3, 5, 5], [3, 48, 5, 5], [-9, 3, 9, 5], [100, 100, 5, 5]]
    data = with_boxes(tmp_path, *outside, *GOOD)
    assert told(data) == ["4 boxes outside their picture left out (annotation 1, 2, 3 and 1 more)"]
    assert data.train[0][1].boxes.tolist() == [[2, 3, 12, 23], [5, 5, 13, 9]]


def test_boxes_partly_outside_are_cut(tmp_path: Path) -> None:
    data = with_boxes(tmp_path, [-3, 40, 10, 20], *GOOD, *GOOD, *GOOD)
    assert told(data) == ["1 box partly outside their picture cut at its edge (annotation 1)"]
    assert data.train[0][1].boxes[0].tolist() == [0, 40, 7, 48]
    assert data.train.ground_truth()["annotations"][0]["bbox"] == [0, 40, 7, 8]


def test_a_box_that_leaves_by_less_than_a_pixel_stays_as_annotated(tmp_path: Path) -> None:
    data = with_boxes(tmp_path, [-0.4, 40, 10, 8.7], *GOOD)
    assert told(data) == []
    assert data.train[0][1].boxes[0].tolist() == pytest.approx([0, 40, 9.6, 48])
    assert data.train.ground_truth()["annotations"][0]["bbox"] == [-0.4, 40, 10, 8.7]


@pytest.mark.parametrize("area", [None, 0, -5.0])
def test_an_area_that_is_missing_is_the_box_s(tmp_path: Path, area: float | None) -> None:
    data = with_boxes(tmp_path, *GOOD, area=area)
    assert told(data) == [
        "2 boxes without an area, which is taken as width × height (annotation 1, 2)"
    ]
    assert data.train[0][1].area.tolist() == [200, 32]


def test_crowds_are_kept(tmp_path: Path) -> None:
    data = with_boxes(tmp_path, *GOOD, iscrowd=1)
    assert data.train[0][1].crowd.tolist() == [True, True]
    assert [note["iscrowd"] for note in data.train.ground_truth()["annotations"]] == [1, 1]


def random_boxes(count: int = 60) -> np.ndarray:
    """Corners of boxes anywhere in a picture of 64 × 48."""
    rng = np.random.default_rng(0)
    size = rng.uniform(4, 20, (count, 2))
    start = rng.uniform(0, 1, (count, 2)) * (np.array([64, 48]) - size)
    return np.concatenate([start, start + size], axis=1).round(2)


def test_corners_instead_of_sizes_are_recognised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"seems to be x0, y0, x1, y1.*100% fit; write \[x0, y0"):
        with_boxes(tmp_path, *random_boxes().tolist(), area=None)


def test_corners_are_recognised_by_most_of_the_boxes(tmp_path: Path) -> None:
    boxes = random_boxes(100)
    boxes[0] = [60, 40, 3, 2]
    with pytest.raises(InputError, match="seems to be x0, y0, x1, y1"):
        with_boxes(tmp_path, *boxes.tolist(), area=None)


def test_sizes_are_not_taken_for_corners(tmp_path: Path) -> None:
    boxes = random_boxes()
    boxes[:, 2:] -= boxes[:, :2]
    data = with_boxes(tmp_path, *boxes.tolist())
    assert data.notes == ()
    assert len(data.train[0][1].boxes) == 60


def test_large_boxes_over_the_edge_are_not_taken_for_corners(tmp_path: Path) -> None:
    # As corners they would fit, but the areas say that they are sizes.
    data = with_boxes(tmp_path, [10, 5, 60, 40], [12, 4, 56, 40])
    assert told(data) == ["2 boxes partly outside their picture cut at its edge (annotation 1, 2)"]


def test_shares_of_the_picture_are_recognised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shares of the picture; COCO's are pixels"):
        with_boxes(tmp_path, [0.1, 0.2, 0.5, 0.5], [0.3, 0.2, 0.1, 1.0])
