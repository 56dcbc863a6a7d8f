import hashlib
import itertools
import pickle

import numpy as np
import pytest

from sgekit.data import SceneConfig, draw_scene, open_data
from sgekit.data.creatures import ANATOMY, PARTS
from sgekit.data.scene_split import draw_pictures
from sgekit.errors import InputError

TINY = SceneConfig(train=26, val=13)


def test_a_scene_is_a_function_of_its_seed_split_and_index() -> None:
    later = SceneConfig(train=26, val=13)
    [draw_scene(later, "train", i) for i in (9, 3)]
    first, again = draw_scene(TINY, "train", 5), draw_scene(later, "train", 5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.part_index, again.part_index)
    for other in (
        draw_scene(TINY, "val", 5),
        draw_scene(TINY, "train", 17),
        draw_scene(SceneConfig(train=26, val=13, seed=1), "train", 5),
    ):
        assert other.label == first.label
        assert not np.array_equal(first.image, other.image)


def test_more_scenes_leave_the_first_ones_as_they_are() -> None:
    more = SceneConfig(train=400, val=13)
    assert np.array_equal(draw_scene(TINY, "train", 2).image, draw_scene(more, "train", 2).image)


def test_masks_box_and_parts_belong_together() -> None:
    for index in range(24):
        scene = draw_scene(TINY, "train", index)
        anatomy = ANATOMY[TINY.classes[scene.label]]
        x0, y0, x1, y1 = scene.box
        outside = scene.mask.copy()
        outside[y0:y1, x0:x1] = False
        assert not outside.any()
        assert scene.mask[y0:y1, x0].any()
        assert scene.mask[y0, x0:x1].any()
        assert sum(int(mask.sum()) for mask in scene.parts.values()) == scene.mask.sum()
        assert {"body", "head", "eyes", "nose"} <= scene.parts.keys()
        assert ("ears" in scene.parts) == (anatomy.ears != "none")
        assert ("tail" in scene.parts) == (anatomy.tail != "none")


def test_the_eyes_are_where_the_mask_says() -> None:
    brightest = []
    for index in range(12):
        scene = draw_scene(SceneConfig(noise=0.0), "train", index)
        brightest.append(int(scene.image.min(axis=2)[scene.parts["eyes"]].max()))
    assert min(brightest) > 150


def test_two_classes_differ_in_two_parts_and_share_each_part_with_others() -> None:
    choices = {name: (a.ears, a.eyes, a.nose, a.tail) for name, a in ANATOMY.items()}
    for one, other in itertools.combinations(choices, 2):
        differing = [a != b for a, b in zip(choices[one], choices[other], strict=True)]
        assert sum(differing) >= 2, (one, other)
    for place in range(4):
        values = [choice[place] for choice in choices.values()]
        assert min(values.count(value) for value in values) >= 2


def test_distractors_show_one_telling_part_at_most() -> None:
    telling = {"ears", "eyes", "nose", "tail"}
    seen = [d for i in range(26) for d in draw_scene(TINY, "train", i).distractors]
    assert len(seen) > 10
    assert all(len(telling & set(d.parts)) <= 1 for d in seen)


def test_average_colour_does_not_depend_on_the_class() -> None:
    config = SceneConfig(train=480, classes=("cat", "tapir", "duck", "hare"))
    coats: list[list[float]] = [[] for _ in config.classes]
    for index in range(480):
        scene = draw_scene(config, "train", index)
        coats[scene.label].append(float(scene.image[scene.parts["head"]].mean()))
    means = [np.mean(c) for c in coats]
    spread = np.std(coats[0])
    assert spread > 20
    assert max(means) - min(means) < 5 * spread / np.sqrt(120)


def test_pictures_drawn_by_several_processes_are_the_same() -> None:
    config = SceneConfig(image_size=24, train=13, val=2)
    alone = draw_pictures(config, "train")
    shared = draw_pictures(config, "train", scenes_a_process=4)
    assert np.array_equal(alone, shared)


def test_pictures_are_the_same_on_every_machine() -> None:
    config = SceneConfig(train=12, val=1)
    digest = hashlib.sha256(draw_pictures(config, "train").tobytes()).hexdigest()
    assert digest == "3f7246ae37342aaf20b3819c465c2c0c7f8a043bd223d2289439d18a2be82966"


def test_the_data_set_holds_the_scenes() -> None:
    data = open_data(None, scenes=TINY)
    assert (data.kind, data.val_name, data.classes) == ("scenes", "val", tuple(ANATOMY))
    assert (len(data.train), len(data.val)) == (26, 13)
    image, label = pickle.loads(pickle.dumps(data)).train[14]
    assert (image.mode, image.size, label) == ("RGB", (64, 64), 2)
    assert np.array_equal(np.asarray(image), draw_scene(TINY, "train", 14).image)
    assert "train 14" in data.train.source(14)
    with pytest.raises(IndexError):
        data.train[26]


def test_larger_pictures_show_larger_creatures() -> None:
    areas = {
        size: np.mean(
            [draw_scene(SceneConfig(image_size=size), "val", i).mask.mean() for i in range(12)]
        )
        for size in (64, 128)
    }
    assert areas[128] == pytest.approx(areas[64], rel=0.15)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"classes": ("cat", "dragon")}, "dragon"),
        ({"classes": ("cat",)}, "two or more"),
        ({"classes": ("cat", "cat")}, "two or more"),
        ({"image_size": 8}, "16 pixels"),
        ({"train": 0}, "train=0"),
        ({"seed": -1}, "-1"),
        ({"creature_sizes": ()}, "creature sizes"),
        ({"creature_sizes": (20.0, -3.0)}, "-3"),
        ({"noise": -0.5}, "noise"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SceneConfig(**setting)  # type: ignore[arg-type]


def test_wrong_places_are_named() -> None:
    with pytest.raises(InputError, match="'test'"):
        draw_scene(TINY, "test", 0)
    with pytest.raises(IndexError, match="99 of 26"):
        draw_scene(TINY, "train", 99)
    assert len(PARTS) == len(set(PARTS))
