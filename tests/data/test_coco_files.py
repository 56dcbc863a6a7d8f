"""Image files of COCO data: missing, broken, turned, in other modes, of another size."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgekit.data import coco_files
from sgekit.data.detection import open_detection
from sgekit.errors import InputError
from tests.data.coco_files import content, picture, write


def turned(path: Path, orientation: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Store a picture with an EXIF orientation, and return its pixels as they are stored."""
    exif = Image.Exif()
    exif[274] = orientation
    image = picture(*size)
    image.save(path, "PNG", exif=exif)
    return np.asarray(image)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path, train=content(6), val=content(3))


def sizes(root: Path, **of: tuple[int, int] | None) -> None:
    """Set (width, height) of train's images by name ("_1" is 1.png) in the JSON."""
    path = root / "annotations/instances_train.json"
    text = json.loads(path.read_text())
    for image in text["images"]:
        name = "_" + Path(image["file_name"]).stem
        if name in of:
            image["width"], image["height"] = of[name] or (None, None)
    path.write_text(json.dumps(text))


def test_missing_files(tmp_path: Path) -> None:
    root = write(tmp_path, train=content(40), val=content(3))
    for i in range(2, 27):
        (root / f"train/{i}.png").unlink()
    with pytest.raises(InputError, match=r"names 25 files of 40 that .*train lacks") as caught:
        open_detection(root)
    assert str(caught.value).count(".png") == 10
    assert "11.png and 15 more; put them there" in str(caught.value)
    data = open_detection(root, skip_bad=True)
    assert (len(data.train), data.train.image_id(1)) == (15, 27)
    assert data.notes[0].startswith("instances_train.json: 25 missing files left out: 2.png, 3.png")
    assert len(data.train.ground_truth()["images"]) == 15
    for i in range(len(data.train)):
        assert data.train[i][1].image_id == data.train.image_id(i)


def test_no_file_at_all(root: Path) -> None:
    for file in (root / "train").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"none of its 6 files is there \(1\.png, …\); looked in"):
        open_detection(root, skip_bad=True)


def test_broken_files(root: Path) -> None:
    (root / "train/2.png").write_text("roses are red")
    (root / "train/4.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 files cannot be used: .*2\.png is not an image, .*4"):
        open_detection(root)
    data = open_detection(root, skip_bad=True)
    assert data.notes == (
        "instances_train.json: 2 unreadable or unfit files left out: 2.png, 4.png",
    )
    assert [data.train.image_id(i) for i in range(4)] == [1, 3, 5, 6]


def test_a_truncated_file_is_named_when_it_is_asked_for(root: Path, noise_jpeg: bytes) -> None:
    (root / "train/2.png").write_bytes(noise_jpeg[: len(noise_jpeg) // 2])
    sizes(root, _2=(64, 64))
    data = open_detection(root)
    with pytest.raises(InputError, match=r"2\.png cannot be decoded.*truncated"):
        data.train[1]
    assert len(open_detection(root, skip_bad=True).train) == 5


def test_another_size_than_the_json_says(root: Path) -> None:
    sizes(root, _2=(32, 24), _5=(48, 64))
    with pytest.raises(InputError, match=r"2 files cannot .*2\.png is 64 × 48 pixels, not 32 × 24"):
        open_detection(root)
    data = open_detection(root, skip_bad=True)
    assert data.notes[0].endswith("2 unreadable or unfit files left out: 2.png, 5.png")


def test_sizes_of_many_files_are_checked_when_they_are_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_files, "_ALL_HEADERS", 3)
    monkeypatch.setattr(coco_files, "_SAMPLE", 2)
    sizes(root, _2=(32, 24), _3=None)
    data = open_detection(root)
    assert data.train.size(2) == (48, 64)
    with pytest.raises(InputError, match=r"2\.png is 64 × 48 pixels, its annotation says 32 × 24"):
        data.train[1]
    sizes(root, _6=(32, 24))
    with pytest.raises(InputError, match=r"6\.png is 64 × 48 pixels, not 32 × 24"):
        open_detection(root)


def test_sizes_that_are_missing_are_read_from_the_files(root: Path) -> None:
    turned(root / "train/2.png", 6)
    sizes(root, _1=None, _2=None)
    data = open_detection(root)
    assert data.notes == (
        "instances_train.json: 2 images without width and height, read from the files",
    )
    assert (data.train.size(0), data.train.size(1)) == ((48, 64), (64, 48))
    assert data.train[1][0].size == (48, 64)


def test_the_annotation_belongs_to_the_upright_picture(root: Path) -> None:
    stored = turned(root / "train/2.png", 6)
    turned(root / "train/3.png", 3)
    sizes(root, _2=(48, 64))
    data = open_detection(root)
    assert data.notes == ()
    assert np.array_equal(np.asarray(data.train[1][0]), np.rot90(stored, -1))
    # A half turn leaves the size: taken as upright.
    assert np.array_equal(np.asarray(data.train[2][0]), np.rot90(stored, 2))


def test_the_annotation_belongs_to_the_stored_picture(root: Path) -> None:
    stored = turned(root / "train/2.png", 6)
    turned(root / "train/3.png", 3)
    data = open_detection(root)
    assert data.notes == (
        "instances_train.json: 1 image annotated without the EXIF turn, taken as stored",
    )
    assert np.array_equal(np.asarray(data.train[1][0]), stored)
    # The others tell that this file's annotations know no turns.
    assert np.array_equal(np.asarray(data.train[2][0]), stored)


def test_every_image_decides_for_itself(root: Path) -> None:
    stored = turned(root / "train/2.png", 6)
    for name in ("3", "4"):
        turned(root / f"train/{name}.png", 8)
    sizes(root, _3=(48, 64))
    data = pickle.loads(pickle.dumps(open_detection(root)))
    assert np.array_equal(np.asarray(data.train[1][0]), stored)
    assert np.array_equal(np.asarray(data.train[2][0]), np.rot90(stored))
    assert np.array_equal(np.asarray(data.train[3][0]), stored)


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16", "RGBA", "P"])
def test_other_modes_become_rgb(root: Path, mode: str) -> None:
    grey = np.full((48, 64), 128, dtype=np.uint8)
    image = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    image.save(root / "train/1.png", "TIFF")
    assert Image.open(root / "train/1.png").mode == mode
    read, _ = open_detection(root).train[0]
    assert (read.mode, read.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(read).astype(int) - 128).max() <= 1


def test_a_decompression_bomb_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48)
    picture(640, 480).save(root / "train/1.png")
    sizes(root, _1=(640, 480))
    with pytest.raises(InputError, match=r"1\.png cannot be decoded .*decompression bomb"):
        open_detection(root)
    assert len(open_detection(root, skip_bad=True).train) == 5
