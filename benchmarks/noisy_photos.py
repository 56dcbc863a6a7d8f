"""A copy of an image folder with noise on every pixel, for the evidence's question about noise.

    python benchmarks/noisy_photos.py caltech101 caltech101-noise --noise 0.28

Every image is scaled so that its shorter side has --pixels (noise added before would average out in
scaling) and gets Gaussian noise of that standard deviation, 1 being the range of brightness; each
file's noise follows from its name, so that all trainings see the same. Written as PNG.
"""

import argparse
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.Image import Resampling


def noisy(image: Image.Image, pixels: int, noise: float, seed: int) -> Image.Image:
    width, height = image.size
    factor = pixels / min(width, height)
    size = max(pixels, round(width * factor)), max(pixels, round(height * factor))
    small = image.convert("RGB").resize(size, Resampling.BILINEAR)
    values = np.asarray(small, dtype=np.float32) / 255
    values = values + np.random.default_rng(seed).normal(0, noise, values.shape).astype(np.float32)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--noise", type=float, required=True)
    parser.add_argument("--pixels", type=int, default=64)
    options = parser.parse_args()
    if options.noise < 0 or options.pixels < 1:
        parser.error("--noise must not be negative and --pixels at least 1")
    files = sorted(options.source.rglob("*"))
    files = [file for file in files if file.suffix.lower() in (".jpg", ".jpeg", ".png")]
    if not files:
        parser.error(f"{options.source} holds no JPEG or PNG")
    for file in files:
        name = file.relative_to(options.source)
        seed = zlib.crc32(name.as_posix().encode())
        try:
            with Image.open(file) as image:
                copy = noisy(image, options.pixels, options.noise, seed)
        except OSError as error:
            parser.error(f"{file} cannot be read: {error}")
        target = (options.out / name).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        copy.save(target, compress_level=1)


if __name__ == "__main__":
    main()
