import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgekit.data import open_data
from sgekit.data.decode import decode
from sgekit.errors import InputError

Folder = Callable[..., Path]


def stored(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixel(blob: bytes) -> tuple[int, ...]:
    image = decode(blob, "it")
    assert image.mode == "RGB"
    return tuple(int(v) for v in np.asarray(image)[0, 0])


def test_a_text_file_that_calls_itself_an_image(image_folder: Folder) -> None:
    root = image_folder({"a": 5, "b": 5})
    (root / "b" / "poem.png").write_text("roses are red")
    with pytest.raises(InputError, match=r"poem\.png is not an image.*--skip-bad"):
        open_data(root)


def test_a_truncated_file_is_named_when_it_is_asked_for(
    image_folder: Folder, noise_jpeg: bytes
) -> None:
    root = image_folder({"train/a": 1, "train/b": 1, "val/a": 1})
    (root / "train/a/half.jpg").write_bytes(noise_jpeg[: len(noise_jpeg) // 2])
    data = open_data(root)
    index = [data.train.source(i) for i in range(3)].index(str(root / "train/a/half.jpg"))
    with pytest.raises(InputError, match=r"half\.jpg cannot be decoded.*truncated"):
        data.train[index]


@pytest.mark.parametrize("split", [True, False], ids=["with val", "held out"])
def test_bad_files_are_left_out_and_listed(
    image_folder: Folder, noise_jpeg: bytes, split: bool
) -> None:
    counts = {"train/a": 4, "train/b": 4}
    root = image_folder(counts | ({"val/b": 2} if split else {}))
    bad = {root / "train/a/half.jpg": noise_jpeg[:1500], root / "train/b/empty.png": b""}
    if split:
        bad[root / "val/b/text.webp"] = b"no image"
    for path, content in bad.items():
        path.write_bytes(content)
    data = open_data(root, skip_bad=True)
    assert set(data.skipped) == {str(path) for path in bad}
    everything = [(s, i) for s in (data.train, data.val) for i in range(len(s))]
    assert len(everything) == (10 if split else 8)
    for part, index in everything:
        _, label = part[index]
        assert f"/{data.classes[label]}/" in part.source(index)


def test_nothing_but_bad_files(image_folder: Folder) -> None:
    root = image_folder({"a": 0, "b": 0})
    for name in ("a/1.png", "b/1.png"):
        (root / name).write_bytes(b"")
    with pytest.raises(InputError, match="no image can be decoded"):
        open_data(root, skip_bad=True)


def test_a_class_whose_files_are_all_bad_does_not_shift_the_others(image_folder: Folder) -> None:
    root = image_folder({"a": 0, "b": 4, "c": 4})
    (root / "a" / "1.png").write_bytes(b"")
    data = open_data(root, skip_bad=True)
    assert data.classes == ("a", "b", "c")
    assert {data.train[i][1] for i in range(len(data.train))} == {1, 2}


def test_a_file_that_vanishes(image_folder: Folder) -> None:
    data = open_data(image_folder({"a": 2, "b": 2}))
    Path(data.train.source(0)).unlink()
    with pytest.raises(InputError, match=r"\.png is gone"):
        data.train[0]


def test_transparent_pixels_are_white() -> None:
    assert pixel(stored(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert pixel(stored(Image.new("RGBA", (4, 4), (255, 0, 0, 255)), "PNG")) == (255, 0, 0)
    assert pixel(stored(Image.new("LA", (4, 4), (9, 0)), "PNG")) == (255, 255, 255)


def test_palette_images() -> None:
    image = Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4)
    assert pixel(stored(image, "PNG")) == (10, 200, 30)
    index = image.getpixel((0, 0))
    assert pixel(stored(image, "PNG", transparency=index)) == (255, 255, 255)


def test_cmyk_jpeg() -> None:
    red, green, blue = pixel(stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize(("value", "expected"), [(65535, 255), (32896, 128), (0, 0)])
def test_sixteen_bit_images_are_scaled(value: int, expected: int) -> None:
    image = Image.fromarray(np.full((4, 4), value, dtype=np.uint16))
    assert pixel(stored(image, "PNG")) == (expected,) * 3


def test_floating_point_images() -> None:
    image = Image.fromarray(np.linspace(1, 0, 16, dtype=np.float32).reshape(4, 4))
    assert pixel(stored(image, "TIFF")) == (255,) * 3


def test_grey_images() -> None:
    assert pixel(stored(Image.new("L", (4, 4), 77), "PNG")) == (77, 77, 77)
    assert pixel(stored(Image.new("1", (4, 4), 1), "PNG")) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 8), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[274] = 6  # the camera was held with its right side up: turn by 90 degrees clockwise
    upright = decode(stored(image, "PNG", exif=exif), "it")
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) == (255, 255, 255)
    assert upright.getpixel((4, 13)) == (0, 0, 0)


def test_a_small_file_that_claims_to_be_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(InputError, match=r"bomb\.png cannot be decoded"):
        decode(stored(Image.new("RGB", (40, 40)), "PNG"), "bomb.png")
