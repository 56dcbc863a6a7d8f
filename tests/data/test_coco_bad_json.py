"""COCO JSON that is wrong is refused in one line that names the offenders."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgekit.data.detection import open_detection
from sgekit.errors import InputError
from tests.data.coco_files import annotation, content, write


def opened(root: Path, train: dict[str, Any]) -> None:
    write(root, train=content(), val=content(3))
    write(root, train=train)
    open_detection(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"<html>not here</html>", "is not valid JSON"),
        (b'{"images": [{"id": 1', "may be cut short"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[1, 2]", "holds a list"),
        (b"{}", "no list of images .it has nothing"),
        (b'{"images": [], "info": 1}', "no list of annotations .it has images, info"),
        (b'{"images": [7], "annotations": []}', r"not JSON objects: images\[0\]"),
        (b'{"images": [], "annotations": [], "categories": []}', "lists no images"),
        (b'{"images": [{}], "annotations": [], "categories": []}', "lists no categories"),
    ],
)
def test_files_that_are_no_coco(tmp_path: Path, text: bytes, message: str) -> None:
    root = write(tmp_path, train=content(), val=content(3))
    (root / "annotations/instances_train.json").write_bytes(text)
    with pytest.raises(InputError, match=rf"instances_train\.json.*{message}"):
        open_detection(root)


def change(field: str, value: Any, of: str = "annotations", place: int = 0) -> Callable[..., None]:
    def apply(text: dict[str, Any]) -> None:
        text[of][place][field] = value

    return apply


CASES = {
    "image_id of none": (change("image_id", 99), r"image_id is no image's: 1 \(image_id 99\)"),
    "category_id of none": (
        change("category_id", 7),
        r"no category's: 1 \(category_id 7\); the categories are 1 cell, 2 platelet",
    ),
    "image_id as text": (change("image_id", "1"), r"no whole number in: annotations\[0\] \('1'\)"),
    "id beyond 64 bits": (change("id", 1 << 70), "more than 64 bits"),
    "image id missing": (change("id", None, "images"), r"no whole number in: images\[0\] \(None\)"),
    "image ids twice": (change("id", 2, "images"), "several images have the id: 2"),
    "annotation ids twice": (change("id", 2), "several annotations have the id: 2"),
    "category ids twice": (change("id", 2, "categories"), "two categories have the id 2: cell and"),
    "names twice": (
        change("name", "platelet", "categories"),
        r"several categories have one name: platelet \(1, 2\)",
    ),
    "no name": (change("name", "", "categories"), r"categories\[0\] needs a whole number"),
    "no file name": (change("file_name", None, "images"), r"without a file_name: images\[0\]"),
    "size of nothing": (change("width", 0, "images"), r"are no sizes: 1\.png \(0 × 48\)"),
    "half a size": (change("height", None, "images"), r"are no sizes: 1\.png"),
    "three numbers": (change("bbox", [1, 2, 3]), r"four finite numbers in: annotation 1 \(\[1, 2"),
    "no box": (change("bbox", None), r"four finite numbers in: annotation 1 \(None\)"),
    "not a number": (change("bbox", [0, 0, float("nan"), 4]), "four finite numbers"),
    "endless": (change("bbox", [0, 0, 10**400, 4]), "four finite numbers"),
    "endless area": (change("area", math.inf), r"area is no number in: annotation 1 \(inf\)"),
    "area as text": (change("area", "big"), r"area is no number in: annotation 1 \('big'\)"),
    "crowd of 2": (change("iscrowd", 2), "iscrowd is neither 0 nor 1 in: annotation 1"),
}


@pytest.mark.parametrize(("apply", "message"), CASES.values(), ids=CASES)
def test_fields(tmp_path: Path, apply: Callable[..., None], message: str) -> None:
    text = content()
    apply(text)
    with pytest.raises(InputError, match=message) as caught:
        opened(tmp_path, text)
    assert "instances_train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ten_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    notes = [annotation(i, 100 + i, [1, 1, 5, 5]) for i in range(1, 36)]
    with pytest.raises(InputError) as caught:
        opened(tmp_path, content(annotations=notes))
    assert len(re.findall(r"image_id \d", str(caught.value))) == 10
    assert "and 25 more" in str(caught.value)


def test_classes_that_train_lacks(tmp_path: Path) -> None:
    text = content(3)
    text["categories"].append({"id": 3, "name": "worm"})
    write(tmp_path, train=content(), val=text)
    with pytest.raises(InputError, match=r"instances_val\.json has categories that .* lacks: worm"):
        open_detection(tmp_path)


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no box on any image"):
        opened(tmp_path, content(annotations=[]))


def test_gaps_in_ids_and_other_ids_in_val(tmp_path: Path) -> None:
    train = content(categories=[{"id": 90, "name": "zebra"}, {"id": 5, "name": "ant"}])
    for note, category in zip(train["annotations"], (5, 90, 5), strict=True):
        note["category_id"] = category
    val = content(3, categories=[{"id": 1, "name": "zebra"}, {"id": 2, "name": "ant"}])
    data = open_detection(write(tmp_path, train=train, val=val))
    assert data.classes == ("ant", "zebra")
    assert [data.train[i][1].labels.tolist() for i in range(3)] == [[1], [2], [1]]
    assert [data.val[i][1].labels.tolist() for i in range(2)] == [[1], [2]]
    truth = data.val.ground_truth()
    assert truth["categories"] == [{"id": 1, "name": "ant"}, {"id": 2, "name": "zebra"}]
    assert [note["category_id"] for note in truth["annotations"]] == [1, 2]


def test_annotations_without_ids_and_with_id_0(tmp_path: Path) -> None:
    train, val = content(), content(3)
    for note in train["annotations"]:
        del note["id"]
    for number, note in enumerate(val["annotations"]):
        note["id"] = number
    data = open_detection(write(tmp_path, train=train, val=val))
    assert data.notes == (
        "instances_train.json: 3 annotations without an id, numbered in their order",
    )
    for split in (data.train, data.val):
        ids = [note["id"] for note in split.ground_truth()["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
