"""Which folders are COCO data, and which file is used for what."""

import json
import shutil
from pathlib import Path

import pytest

from sgekit.data.detection import is_detection, open_detection
from sgekit.errors import InputError
from tests.data.coco_files import content, write


def test_train_and_val(tmp_path: Path) -> None:
    data = open_detection(write(tmp_path / "cells", train=content(), val=content(3)))
    assert is_detection(tmp_path / "cells")
    assert (data.name, data.kind, data.val_name) == ("cells", "coco", "val")
    assert (len(data.train), len(data.val), data.classes) == (4, 3, ("cell", "platelet"))
    assert (data.masks, data.notes) == (False, ())
    image, target = data.train[1]
    assert image.size == (64, 48)
    assert data.train.size(1) == (48, 64)
    assert target.boxes.tolist() == [[8, 5, 18, 25]]
    assert (target.labels.tolist(), target.area.tolist()) == ([1], [200])
    assert (target.masks, target.image_id, data.train.image_id(1)) == (None, 2, 2)
    assert data.train.source(1) == str(tmp_path / "cells/train/2.png")


def test_images_without_objects_are_kept(tmp_path: Path) -> None:
    data = open_detection(write(tmp_path, train=content(), val=content(3)))
    _, target = data.train[3]
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == target.area.shape == target.crowd.shape == (0,)
    assert len(data.train.ground_truth()["images"]) == 4


def test_coco_s_own_layout(tmp_path: Path) -> None:
    root = write(tmp_path, train2017=content(), val2017=content(3))
    for name in ("captions_train2017.json", "person_keypoints_val2017.json"):
        (root / "annotations" / name).write_text(json.dumps(content()))
    data = open_detection(root)
    assert (data.val_name, len(data.train), len(data.val)) == ("val", 4, 3)
    assert data.val.source(0) == str(root / "val2017/1.png")


def test_folders_with_their_own_json(tmp_path: Path) -> None:
    write(tmp_path, train=content(), valid=content(3), test=content(2))
    for split in ("train", "valid", "test"):
        name = tmp_path / "annotations" / f"instances_{split}.json"
        name.rename(tmp_path / split / "_annotations.coco.json")
    (tmp_path / "annotations").rmdir()
    # The name of the whole, which Roboflow writes above the classes.
    path = tmp_path / "train/_annotations.coco.json"
    text = json.loads(path.read_text())
    text["categories"].insert(0, {"id": 0, "name": "cells", "supercategory": "none"})
    for category in text["categories"][1:]:
        category["supercategory"] = "cells"
    path.write_text(json.dumps(text))
    data = open_detection(tmp_path)
    assert is_detection(tmp_path)
    assert (data.val_name, len(data.val)) == ("valid", 3)
    assert data.classes == ("cell", "platelet")
    assert data.notes == ("category cells left out: it has no boxes and stands above others",)
    assert data.train[1][1].labels.tolist() == [1]
    assert len(open_detection(tmp_path, eval_split="test").val) == 2


@pytest.mark.parametrize("place", ["images", "."])
def test_one_json_beside_the_images(tmp_path: Path, place: str) -> None:
    root = write(tmp_path, train=content(20))
    shutil.move(root / "annotations/instances_train.json", root / "labels.json")
    (root / "annotations").rmdir()
    for file in sorted((root / "train").iterdir()):
        (root / place).mkdir(exist_ok=True)
        shutil.move(file, root / place / file.name)
    (root / "train").rmdir()
    assert is_detection(root)
    data = open_detection(root)
    assert (data.val_name, len(data.train), len(data.val)) == ("held-out 20 % of train", 16, 4)


def test_what_is_held_out_is_always_the_same_and_has_every_class(tmp_path: Path) -> None:
    root = write(tmp_path, train=content(30))
    first, second = (open_detection(root, val_fraction=0.3) for _ in range(2))
    ids = [[split.image_id(i) for i in range(len(split))] for split in (first.train, first.val)]
    assert sorted(ids[0] + ids[1]) == list(range(1, 31))
    assert ids[1] == [second.val.image_id(i) for i in range(len(second.val))]
    truth = first.val.ground_truth()
    assert {note["category_id"] for note in truth["annotations"]} == {1, 2}
    assert {note["image_id"] for note in truth["annotations"]} <= set(ids[1])
    assert [image["id"] for image in truth["images"]] == ids[1]


def test_what_is_no_detection_data(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "classes.json").write_text('{"0": "cat", "images": 7}')
    assert not is_detection(tmp_path)
    assert not is_detection(tmp_path / "classes.json")
    with pytest.raises(InputError, match=r"no COCO JSON; expected annotations/instances_train"):
        open_detection(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_detection(tmp_path / "nothing")
    with pytest.raises(InputError, match="is a file"):
        open_detection(tmp_path / "classes.json")


def test_splits_that_cannot_be_chosen(tmp_path: Path) -> None:
    root = write(tmp_path, train=content(), val=content(3))
    with pytest.raises(InputError, match=r"no split 'test' to validate on; found: val"):
        open_detection(root, eval_split="test")
    write(root, train2014=content())
    with pytest.raises(InputError, match=r"two files for train: .*2014.*leave one"):
        open_detection(root)
    for path in (root / "annotations").glob("*train*"):
        path.unlink()
    with pytest.raises(InputError, match="no JSON to train on among annotations/instances_val"):
        open_detection(root)


def test_the_same_files_in_both_splits_are_told(tmp_path: Path) -> None:
    root = write(tmp_path, train=content())
    (root / "train").rename(root / "images")
    shutil.copy(root / "annotations/instances_train.json", root / "annotations/instances_val.json")
    data = open_detection(root)
    assert data.notes == ("4 images both trained and validated on: 1.png, 2.png, 3.png and 1 more",)


def test_a_file_that_is_listed_twice_is_told_where_it_is_held_out(tmp_path: Path) -> None:
    twice = content(12)
    twice["images"] += [image | {"id": image["id"] + 100} for image in twice["images"]]
    more = [
        n | {"id": n["id"] + 100, "image_id": n["image_id"] + 100} for n in twice["annotations"]
    ]
    twice["annotations"] += more
    data = open_detection(write(tmp_path, train=twice))
    trained = {data.train.source(i) for i in range(len(data.train))}
    both = trained & {data.val.source(i) for i in range(len(data.val))}
    assert both
    note = next(note for note in data.notes if "both trained and validated on" in note)
    assert note.startswith(f"{len(both)} image")


def test_the_files_own_ids_of_the_classes_are_known(tmp_path: Path) -> None:
    train = content(categories=[{"id": 3, "name": "cell"}, {"id": 7, "name": "platelet"}])
    for note in train["annotations"]:
        note["category_id"] = {1: 3, 2: 7}[note["category_id"]]
    val = content(categories=[{"id": 9, "name": "cell"}])
    for note in val["annotations"]:
        note["category_id"] = 9
    data = open_detection(write(tmp_path, train=train, val=val))
    assert data.category_ids == (9, 11)  # the validation file's; one above for what it lacks
    assert open_detection(write(tmp_path / "one", train=train)).category_ids == (3, 7)
