import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgekit.data import SceneConfig, draw_scene, write_scenes
from sgekit.data.creatures import PARTS
from sgekit.data.regions import of_scenes, open_regions
from sgekit.errors import InputError

CONFIG = SceneConfig(image_size=32, train=4, val=6, classes=("fox", "duck"))


def pets(root: Path, *, mask_size: tuple[int, int] = (12, 8)) -> Path:
    """Two images of 12 x 8: foreground in the left half with a border, a head in one."""
    for name in ("images", "trimaps"):
        (root / name).mkdir(parents=True)
    trimap = np.full((8, 12), 2, dtype=np.uint8)
    trimap[:, :5], trimap[:, 5] = 1, 3
    for name in ("b", "a"):
        Image.new("RGB", (12, 8), "red").save(root / "images" / f"{name}.jpg")
        Image.fromarray(trimap).resize(mask_size).save(root / "trimaps" / f"{name}.png")
    content = {
        "images": [
            {"id": 1, "file_name": "b.jpg", "label": 1},
            {"id": 2, "file_name": "a.jpg", "label": 0},
        ],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1.5, 2, 3, 2.4]}],
        "categories": [{"id": 7, "name": "head"}],
        "classes": ["cat", "dog"],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def test_scenes_have_their_creature_and_its_parts() -> None:
    data = of_scenes(CONFIG)
    assert data.regions == ("creature", *PARTS)
    assert data.parts == PARTS
    marked, scene = data.split[3], draw_scene(CONFIG, "val", 3)
    assert np.array_equal(np.asarray(marked.image), scene.image)
    assert marked.label == scene.label == 1
    assert set(marked.masks) == {"creature", *scene.parts}
    assert np.array_equal(marked.masks["eyes"], scene.parts["eyes"])


def test_written_scenes_are_the_drawn_ones(tmp_path: Path) -> None:
    data = open_regions(write_scenes(CONFIG, tmp_path / "scenes"))
    drawn = of_scenes(CONFIG)
    assert data is not None
    assert (data.regions, data.whole, data.classes) == (drawn.regions, "creature", CONFIG.classes)
    assert len(data.split) == CONFIG.val
    for index in range(CONFIG.val):
        one, other = data.split[index], drawn.split[index]
        assert one.label == other.label
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert set(one.masks) == set(other.masks)
        for name, mask in one.masks.items():
            assert np.array_equal(mask, other.masks[name])
    train = open_regions(tmp_path / "scenes", eval_split="train")
    assert train is not None
    assert len(train.split) == CONFIG.train
    with pytest.raises(InputError, match="no split test"):
        open_regions(tmp_path / "scenes", eval_split="test")


def test_trimaps_and_boxes_of_heads(tmp_path: Path) -> None:
    data = open_regions(pets(tmp_path / "pets"))
    assert data is not None
    assert (data.regions, data.whole, data.parts) == (
        ("foreground", "head"),
        "foreground",
        ("head",),
    )
    assert data.classes == ("cat", "dog")
    first, second = data.split[0], data.split[1]  # by name
    assert (first.label, second.label) == (0, 1)
    assert set(first.masks) == {"foreground"}
    assert first.masks["foreground"].sum() == 8 * 6  # the border counts
    head = second.masks["head"]
    assert (head.sum(), bool(head[2, 1]), bool(head[3, 3])) == (6, True, True)


def test_coco_objects_are_regions_by_class_and_together(tmp_path: Path) -> None:
    write_scenes(CONFIG, tmp_path / "scenes")
    (tmp_path / "scenes" / "part_masks" / "parts.json").unlink()
    data = open_regions(tmp_path / "scenes")
    assert data is not None
    assert (data.regions, data.whole) == (("objects", "fox", "duck"), "objects")
    marked, scene = data.split[1], draw_scene(CONFIG, "val", 1)
    assert set(marked.masks) == {"objects", "duck"}
    assert np.array_equal(marked.masks["duck"], scene.mask)
    assert np.array_equal(marked.masks["objects"], scene.mask)


def test_plain_folders_say_nothing_of_regions(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert open_regions(tmp_path) is None
    assert open_regions(tmp_path / "a.png") is None


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    data = open_regions(pets(tmp_path / "pets", mask_size=(6, 4)))
    assert data is not None
    with pytest.raises(InputError, match=r"mask .*a.png is 6 x 4 and its image a.jpg 12 x 8"):
        data.split[0]


def test_missing_files_are_listed(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    (root / "trimaps" / "a.png").unlink()
    with pytest.raises(InputError, match=r"lacks .*trimaps/a.png"):
        open_regions(root)


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [{"id": 1}]}'])
def test_garbled_annotations_are_refused(tmp_path: Path, text: str) -> None:
    root = pets(tmp_path / "pets")
    (root / "annotations.json").write_text(text)
    with pytest.raises(InputError, match=r"annotations\.json"):
        open_regions(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": [{"id": 1, "file_name": "a.jpg", "label": 2}]}, "label 2; labels are numbers"),
        ({"images": [{"id": 1, "file_name": "a.jpg", "label": "cat"}]}, "label 'cat'"),
        ({"images": [{"id": 1, "file_name": "a.jpg", "label": -1}]}, "label -1"),
        (
            {"annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 0, float("nan"), 1]}]},
            "not finite",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 0, float("inf"), 1]}]},
            "not finite",
        ),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    root = pets(tmp_path / "pets")
    content = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=words):
        open_regions(root)


def test_without_classes_there_are_no_labels(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    content = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").write_text(json.dumps(content | {"classes": None}))
    data = open_regions(root)
    assert data is not None
    assert data.split[0].label is None


def test_boxes_beyond_the_picture_are_cut(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    content = json.loads((root / "annotations.json").read_text())
    content["annotations"] = [
        {"image_id": 1, "category_id": 7, "bbox": [-2, -3, 5, 5]},
        {"image_id": 2, "category_id": 7, "bbox": [2, 30, 5, 5]},
    ]
    (root / "annotations.json").write_text(json.dumps(content))
    data = open_regions(root)
    assert data is not None
    assert data.split[1].masks["head"].sum() == 3 * 2
    assert "head" not in data.split[0].masks


def test_a_part_may_be_called_foreground(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    content = json.loads((root / "annotations.json").read_text())
    content["categories"] = [{"id": 7, "name": "foreground"}]
    (root / "annotations.json").write_text(json.dumps(content))
    data = open_regions(root)
    assert data is not None
    assert data.regions == ("foreground of the trimap", "foreground")
