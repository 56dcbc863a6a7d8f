import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgekit.data import SceneConfig, draw_scene, open_data, write_scenes
from sgekit.data.scenes_export import run_lengths
from sgekit.errors import InputError

CONFIG = SceneConfig(image_size=32, train=14, val=12, classes=("cat", "owl", "hare"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(CONFIG, tmp_path_factory.mktemp("scenes") / "out")


def decoded(segmentation: dict[str, list[int]]) -> np.ndarray:
    height, width = segmentation["size"]
    values = np.arange(len(segmentation["counts"])) % 2 == 1
    return np.repeat(values, segmentation["counts"]).reshape((height, width), order="F")


def test_the_folder_opens_again(written: Path) -> None:
    data = open_data(written)
    assert (data.kind, data.val_name) == ("folder", "val")
    assert (len(data.train), len(data.val), data.classes) == (14, 12, ("cat", "hare", "owl"))
    image, label = data.train[0]
    assert data.train.source(0).endswith("cat/000000.png")
    assert label == 0
    assert np.array_equal(np.asarray(image), draw_scene(CONFIG, "train", 0).image)


def test_annotations_are_the_scenes(written: Path) -> None:
    coco = json.loads((written / "annotations/instances_val.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert list(names.values()) == list(CONFIG.classes)
    assert len(coco["images"]) == len(coco["annotations"]) == 12
    for image, note in zip(coco["images"], coco["annotations"], strict=True):
        scene = draw_scene(CONFIG, "val", image["id"] - 1)
        assert note["image_id"] == image["id"]
        assert names[note["category_id"]] == CONFIG.classes[scene.label]
        assert image["file_name"].startswith(names[note["category_id"]])
        assert Image.open(written / "val" / image["file_name"]).size == (32, 32)
        assert np.array_equal(decoded(note["segmentation"]), scene.mask)
        x, y, width, height = note["bbox"]
        assert (x, y, x + width, y + height) == scene.box
        assert note["area"] == scene.mask.sum()


def test_part_masks_are_the_scenes(written: Path) -> None:
    numbers = json.loads((written / "part_masks/parts.json").read_text())
    mask = np.asarray(Image.open(written / "part_masks/train/000003.png"))
    for name, part in draw_scene(CONFIG, "train", 3).parts.items():
        assert np.array_equal(mask == numbers[name], part)


@pytest.mark.parametrize("mask", [[[0, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 1]]], ids=str)
def test_run_lengths_decode_to_the_mask(mask: list[list[int]]) -> None:
    counts = run_lengths(np.array(mask, dtype=bool))
    assert np.array_equal(decoded({"size": [2, 2], "counts": counts}), np.array(mask, dtype=bool))


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    config = SceneConfig(image_size=16, train=2, val=1)
    write_scenes(config, tmp_path / "out", progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not an empty folder"):
        write_scenes(CONFIG, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="cannot write"):
        write_scenes(CONFIG, tmp_path / "mine.txt" / "below")
