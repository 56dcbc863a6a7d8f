import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from sgekit.data import open_data
from sgekit.errors import InputError

Paint = Callable[..., bytes]
NAMES = ("ant", "bee")


@pytest.fixture
def cells(blob: Paint) -> Callable[[int], list[dict[str, Any]]]:
    return lambda n: [{"bytes": blob(40 * i), "path": f"{i}.png"} for i in range(n)]


def write(
    file: Path,
    images: list[dict[str, Any]],
    labels: list[Any],
    kind: Any = None,
    image: str = "image",
    label: str = "label",
) -> None:
    features = datasets.Features(
        {image: datasets.Image(), label: kind or datasets.ClassLabel(names=list(NAMES))}
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_dict({image: images, label: labels}, features=features)
    rows.to_parquet(file)


def shard(file: Path, samples: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in samples.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("train", "val", "name"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet", "test"),
        ("data/train-0.parquet", "data/validation-0.parquet", "validation"),
        ("train/0.parquet", "val/0.parquet", "val"),
    ],
)
def test_parquet_splits(
    tmp_path: Path, cells: Callable[[int], list[Any]], train: str, val: str, name: str
) -> None:
    root = tmp_path / "bugs"
    write(root / train, cells(4), [0, 1, 1, 0])
    write(root / val, cells(2), [1, 0])
    before = sorted(p for p in root.rglob("*"))
    data = open_data(root)
    assert (data.name, data.kind, data.classes) == ("bugs", "parquet", NAMES)
    assert (len(data.train), len(data.val), data.val_name) == (4, 2, name)
    image, label = pickle.loads(pickle.dumps(data)).train[2]
    assert (image.mode, image.size, label) == ("RGB", (12, 10), 1)
    assert image.getpixel((0, 0)) == (80, 175, 7)
    assert "train row 2 (2.png)" in data.train.source(2)
    assert sorted(p for p in root.rglob("*")) == before


@pytest.mark.parametrize(
    ("image", "label", "kind", "labels", "classes"),
    [
        ("img", "fine_label", None, [0, 1] * 5, NAMES),
        ("jpg", "cls", datasets.Value("int64"), [0, 2] * 5, ("0", "1", "2")),
        ("picture", "class", datasets.Value("string"), ["wasp", "ant"] * 5, ("ant", "wasp")),
        ("photo", "species", None, [0, 1] * 5, NAMES),
    ],
)
def test_columns_and_labels(
    tmp_path: Path,
    cells: Callable[[int], list[Any]],
    image: str,
    label: str,
    kind: Any,
    labels: list[Any],
    classes: tuple[str, ...],
) -> None:
    file = tmp_path / "bugs.parquet"
    write(file, cells(10), labels, kind, image, label)
    data = open_data(file)
    assert data.classes == classes
    assert (len(data.train), len(data.val)) == (8, 2)
    assert data.val_name == "held-out 20 % of train"
    found = {data.classes[data.train[i][1]] for i in range(8)}
    assert found == {classes[v] if isinstance(v, int) else v for v in labels}


def test_a_file_given_by_itself_trains_whatever_its_name(
    tmp_path: Path, cells: Callable[[int], list[Any]]
) -> None:
    write(tmp_path / "test.parquet", cells(10), [0, 1] * 5)
    data = open_data(tmp_path / "test.parquet")
    assert (len(data.train), len(data.val)) == (8, 2)


def test_an_image_that_is_missing_is_named(
    tmp_path: Path, cells: Callable[[int], list[Any]]
) -> None:
    images: list[Any] = cells(10)
    images[4] = None
    write(tmp_path / "train.parquet", images, [0, 1] * 5)
    write(tmp_path / "val.parquet", cells(2), [0, 1])
    with pytest.raises(InputError, match=r"row 4 holds no image bytes in 'image'"):
        open_data(tmp_path).train[4]


def test_class_names_from_a_text_file(tmp_path: Path, cells: Callable[[int], list[Any]]) -> None:
    write(tmp_path / "train.parquet", cells(4), [0, 1, 0, 1], datasets.Value("int32"))
    (tmp_path / "classnames.txt").write_text("ant\nbee\n")
    assert open_data(tmp_path).classes == NAMES
    (tmp_path / "classnames.txt").write_text("ant\n")
    with pytest.raises(InputError, match="names 1 classes, but a label is 1"):
        open_data(tmp_path)


def test_shards(tmp_path: Path, blob: Paint) -> None:
    root = tmp_path / "shards"
    for number in range(2):
        samples: dict[str, bytes] = {}
        for i in range(3):
            samples[f"{number}{i}.png"] = blob(10 * i)
            samples[f"{number}{i}.cls"] = str(i % 2).encode()
        shard(root / f"train-{number}.tar", samples)
    shard(root / "val-0.tar", {"x.png": blob(200), "x.cls": b"1"})
    data = open_data(root)
    assert (data.kind, data.classes, data.val_name) == ("webdataset", ("0", "1"), "val")
    assert [data.train[i][1] for i in range(6)] == [0, 1, 0, 0, 1, 0]
    assert "(11)" in data.train.source(4)
    assert data.val[0][0].getpixel((0, 0)) == (200, 55, 7)
    assert data.val[0][1] == 1


def test_bad_rows_are_named_or_left_out(
    tmp_path: Path, cells: Callable[[int], list[Any]], noise_jpeg: bytes
) -> None:
    images = cells(6)
    images[2] = {"bytes": noise_jpeg[:900], "path": "half.jpg"}
    images[5] = {"bytes": b"words", "path": "words.jpg"}
    write(tmp_path / "train.parquet", images, [0, 1] * 3)
    write(tmp_path / "val.parquet", cells(2), [0, 1])
    with pytest.raises(InputError, match=r"row 2 \(half.jpg\) cannot be decoded"):
        open_data(tmp_path).train[2]
    data = open_data(tmp_path, skip_bad=True)
    assert [name.split("(")[1] for name in data.skipped] == ["half.jpg)", "words.jpg)"]
    assert [data.train[i][1] for i in range(4)] == [0, 1, 1, 0]


def test_tables_that_cannot_be_used(tmp_path: Path, cells: Callable[[int], list[Any]]) -> None:
    text = datasets.Value("string")
    cases: dict[str, tuple[str, Callable[[Path], object]]] = {
        "one": ("one class only", lambda p: write(p / "a.parquet", cells(3), [1, 1, 1])),
        "broken": (
            r"cannot be read as parquet.*broken.parquet",
            lambda p: (p / "broken.parquet").write_bytes(b"PAR1 no"),
        ),
        "tar": (
            "cannot be read as webdataset",
            lambda p: (p / "broken.tar").write_bytes(b"no tar at all"),
        ),
        "val only": (
            "no files of a train split",
            lambda p: write(p / "test.parquet", cells(2), [0, 1]),
        ),
        "no image": (
            "no image column.*columns: caption, label",
            lambda p: datasets.Dataset.from_dict(
                {"caption": ["a", "b"], "label": [0, 1]}
            ).to_parquet(p / "a.parquet"),
        ),
        "no label": (
            "no label column.*columns: image, note",
            lambda p: write(p / "a.parquet", cells(2), ["x", "y"], text, label="note"),
        ),
        "missing label": (
            "row 1 has the label None",
            lambda p: write(p / "a.parquet", cells(3), ["x", None, "y"], text),
        ),
    }
    for name, (message, make) in cases.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name)
        with pytest.raises(InputError, match=message) as caught:
            open_data(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_label_that_train_lacks(tmp_path: Path, cells: Callable[[int], list[Any]]) -> None:
    text = datasets.Value("string")
    write(tmp_path / "train.parquet", cells(4), ["a", "b"] * 2, text)
    write(tmp_path / "val.parquet", cells(2), ["a", "z"], text)
    with pytest.raises(InputError, match="row 1 has the label 'z'"):
        open_data(tmp_path)
