import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from sgekit.data import open_data
from sgekit.errors import InputError

Folder = Callable[..., Path]


def test_train_and_val_folders(image_folder: Folder) -> None:
    root = image_folder({"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 2})
    data = open_data(root)
    assert (data.name, data.kind, data.classes) == ("pets", "folder", ("cat", "dog"))
    assert (len(data.train), len(data.val), data.val_name) == (5, 3, "val")
    image, label = data.train[3]
    assert (image.mode, image.size, label) == ("RGB", (12, 10), 1)
    assert data.train.source(3) == str(root / "train/dog/0.png")


@pytest.mark.parametrize("name", ["validation", "valid", "test", "Val"])
def test_other_names_of_the_split_to_validate_on(image_folder: Folder, name: str) -> None:
    root = image_folder({"train/a": 2, "train/b": 2, f"{name}/a": 1})
    data = open_data(root)
    assert data.val_name == name.lower()
    assert data.classes == ("a", "b")


def test_val_is_preferred_and_another_can_be_asked_for(image_folder: Folder) -> None:
    root = image_folder({"train/a": 2, "train/b": 2, "val/a": 1, "test/a": 2})
    assert open_data(root).val_name == "val"
    data = open_data(root, eval_split="test")
    assert (data.val_name, len(data.val)) == ("test", 2)
    with pytest.raises(InputError, match=r"'dev'.*test, val"):
        open_data(root, eval_split="dev")


@pytest.mark.parametrize("prefix", ["", "train/"], ids=["classes only", "train only"])
def test_images_are_held_out_where_no_split_is_given(image_folder: Folder, prefix: str) -> None:
    root = image_folder({f"{prefix}a": 10, f"{prefix}b": 5, f"{prefix}c": 1})
    data, again = open_data(root), open_data(root)
    assert data.val_name == "held-out 20 % of train"
    assert [data.val[i][1] for i in range(len(data.val))] == [0, 0, 1]
    names = [data.val.source(i) for i in range(3)]
    assert names == [again.val.source(i) for i in range(3)]
    assert not set(names) & {data.train.source(i) for i in range(len(data.train))}
    assert len(data.train) == 13
    assert len(open_data(root, val_fraction=0.5).val) == 7


def test_classes_in_numeric_order(image_folder: Folder) -> None:
    assert open_data(image_folder({"10": 2, "9": 2, "1": 2})).classes == ("1", "9", "10")


def test_hidden_and_other_files_are_no_images(image_folder: Folder) -> None:
    root = image_folder({"a": 3, "b": 3})
    (root / "a" / "._0.png").write_bytes(b"resource fork")
    (root / "a" / "notes.txt").write_text("hello")
    data = open_data(root)
    assert len(data.train) + len(data.val) == 6


def test_data_goes_to_other_processes(image_folder: Folder) -> None:
    data = pickle.loads(pickle.dumps(open_data(image_folder({"a": 4, "b": 4}))))
    assert data.val[0][0].size == (12, 10)


def test_a_class_that_train_lacks_is_named(image_folder: Folder) -> None:
    root = image_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/zebra": 1})
    with pytest.raises(InputError, match="train lacks: zebra"):
        open_data(root)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/a": 2, "val/a": 1}, "one class only"),
        ({"a": 3}, "one class only"),
        ({"a": 0, "b": 0}, "no images"),
        ({"a": 1, "b": 1}, "single image"),
        ({"val/a": 2, "val/b": 2}, "no train/"),
        ({"train": 3, "val": 3}, "no class folders"),
        ({"train/a": 2, "train/b": 2, "val/a": 0}, "no images"),
        ({"train": 1, "train/a": 2, "train/b": 2}, "no class folder"),
    ],
    ids=str,
)
def test_folders_that_cannot_be_used(
    image_folder: Folder, counts: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_data(image_folder(counts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_share_that_leaves_nothing_is_refused(image_folder: Folder, fraction: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        open_data(image_folder({"a": 3, "b": 3}), val_fraction=fraction)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.*does not exist"):
        open_data(tmp_path / "gone")
    with pytest.raises(InputError, match="is empty"):
        open_data(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(InputError, match="is a file"):
        open_data(tmp_path / "photo.png")
