"""The built-in scenes as detection data, drawn here and read back from what is written."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from sgekit.data import SceneConfig, draw_scene, write_scenes
from sgekit.data.detection import is_detection, open_detection
from sgekit.errors import InputError

CONFIG = SceneConfig(image_size=48, train=6, val=4, classes=("cat", "owl", "hare"))


def test_scenes_have_boxes_and_masks() -> None:
    data = open_detection(None, scenes=CONFIG)
    assert (data.kind, data.classes, data.masks) == ("scenes", CONFIG.classes, True)
    assert (len(data.train), len(data.val), data.val.size(3)) == (6, 4, (48, 48))
    image, target = data.val[2]
    scene = draw_scene(CONFIG, "val", 2)
    assert np.array_equal(np.asarray(image), scene.image)
    assert target.boxes.tolist() == [list(scene.box)]
    assert target.labels.tolist() == [3]
    assert target.masks is not None
    assert np.array_equal(target.masks[0], scene.mask)
    assert (target.image_id, data.val.image_id(2)) == (3, 3)
    assert data.val.source(2) == "scenes (seed 0), val 2"
    with pytest.raises(IndexError):
        data.val[4]


def test_written_scenes_are_the_same_data(tmp_path: Path) -> None:
    root = write_scenes(CONFIG, tmp_path / "scenes")
    assert is_detection(root)
    written, drawn = open_detection(root), open_detection(None, scenes=CONFIG)
    assert (written.classes, written.masks, written.notes) == (drawn.classes, True, ())
    for split in ("train", "val"):
        ours, theirs = getattr(drawn, split), getattr(written, split)
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            (image, target), (other_image, other) = ours[index], theirs[index]
            assert np.array_equal(np.asarray(image), np.asarray(other_image))
            for field in ("boxes", "labels", "area", "crowd", "masks"):
                ours_, theirs_ = getattr(target, field), getattr(other, field)
                assert (ours_.dtype, ours_.shape) == (theirs_.dtype, theirs_.shape)
                assert np.array_equal(ours_, theirs_)
            assert target.image_id == other.image_id
        truth = theirs.ground_truth()
        assert ours.ground_truth()["annotations"] == truth["annotations"]
        assert ours.ground_truth()["categories"] == truth["categories"]


def test_splits_travel_to_other_processes(tmp_path: Path) -> None:
    root = write_scenes(CONFIG, tmp_path / "scenes")
    for data in (open_detection(None, scenes=CONFIG), open_detection(root)):
        copy = pickle.loads(pickle.dumps(data.train))
        masks, true = copy[1][1].masks, data.train[1][1].masks
        assert true is not None
        assert np.array_equal(masks, true)


def test_the_ground_truth_is_the_caller_s(tmp_path: Path) -> None:
    split = open_detection(None, scenes=CONFIG).val
    split.ground_truth()["annotations"][0]["bbox"] = None
    assert split.ground_truth()["annotations"][0]["bbox"] is not None


def test_settings_of_the_scenes_are_checked() -> None:
    with pytest.raises(InputError, match="16 pixels"):
        open_detection(None, scenes=SceneConfig(image_size=8))
