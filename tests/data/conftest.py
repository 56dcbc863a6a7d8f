import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

Paint = Callable[..., bytes]


@pytest.fixture
def blob() -> Paint:
    """A function from a shade to the bytes of a small image of it."""

    def make(shade: int = 100, form: str = "PNG", size: tuple[int, int] = (12, 10)) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, (shade, 255 - shade, 7)).save(buffer, form)
        return buffer.getvalue()

    return make


@pytest.fixture
def noise_jpeg() -> bytes:
    """A JPEG large enough that its first half is not all of it."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def image_folder(tmp_path: Path, blob: Paint) -> Callable[..., Path]:
    """Write {"train/cat": 3, …} as that many images a folder, below a new folder."""

    def make(counts: dict[str, int], name: str = "pets") -> Path:
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                file = tmp_path / name / folder / f"{i}.png"
                file.write_bytes(blob(40 * i % 256))
        return tmp_path / name

    return make


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of `datasets` in a folder of the test's own."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    return cache
