"""One image file or blob to an upright RGB image, and the search for those that cannot be read."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sgekit.data.contract import Split
from sgekit.errors import InputError


def to_rgb(image: Image.Image, *, upright: bool = True) -> Image.Image:
    """RGB, turned upright by its EXIF orientation; transparent pixels over white.

    16-bit and floating-point images are scaled to 8 bits: by 1/257 where the values need
    more than 8 bits, floats by 255 where they end at 1. With upright=False the orientation is
    left as it is stored.
    """
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = float(values.max(initial=0.0))
        scale = 1.0 if 1 < top <= 255 else 255.0 if image.mode == "F" and top <= 1 else 1 / 257
        return Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(source: str | Path | bytes, name: str) -> Image.Image:
    """Decode a file's path or an image's bytes; `name` stands in the error.

    Raises InputError where the file is missing, truncated or no image.
    """
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    with reading(name), Image.open(opened) as image:
        return to_rgb(image)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Whatever Pillow raises in the block, as an InputError that says `name`."""
    try:
        yield
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image; {_ADVICE}") from None
    except FileNotFoundError:
        raise InputError(f"{name} is gone; put it back or open the data again") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise InputError(f"{name} cannot be decoded ({problem}); {_ADVICE}") from None


_ADVICE = "mend or remove it, or leave out bad files with --skip-bad (skip_bad=True)"


def check_header(path: str) -> None:
    """Raise InputError unless the file begins as an image does; the pixels are not read."""
    try:
        with Image.open(path):
            return
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image; {_ADVICE}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise InputError(f"{path} cannot be read ({problem}); {_ADVICE}") from None


def check_headers(paths: Sequence[str]) -> None:
    """check_header on every path, in order, with several threads."""
    _first_error(check_header, paths)


def unreadable(split: Split) -> set[int]:
    """Decode everything, with several threads, and return the indices that failed."""

    def failed(index: int) -> bool:
        try:
            split[index]
        except InputError:
            return True
        return False

    with ThreadPoolExecutor(threads()) as pool:
        return {i for i, bad in enumerate(pool.map(failed, range(len(split)))) if bad}


def threads() -> int:
    """How many threads read files: a few more than cores, since some of them wait."""
    return min(16, (os.cpu_count() or 1) + 2)


def _first_error(check: Callable[[str], None], paths: Sequence[str]) -> None:
    with ThreadPoolExecutor(threads()) as pool:
        try:
            for _ in pool.map(check, paths, chunksize=64):
                pass
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
