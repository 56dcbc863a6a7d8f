"""A small data set that a network learns in two epochs: which colour fills the picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgekit.data import ImageData
from sgekit.training.recipes import Recipe, get_recipe

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


class Colours:
    """Noisy pictures in one of three colours."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        label = index % 3
        noise = np.random.default_rng([self.seed, index]).normal(0, 30, (32, 32, 3))
        pixels = np.clip(np.array(list(COLOURS.values())[label]) + noise, 0, 255)
        return Image.fromarray(pixels.astype(np.uint8)), label

    def source(self, index: int) -> str:
        return f"colour {index}"


@pytest.fixture
def colours() -> ImageData:
    return ImageData("colours", "test", tuple(COLOURS), Colours(48, 0), Colours(24, 1), "val")


@pytest.fixture
def tiny() -> Recipe:
    changes = {"optimizer": "sgd", "lr": 0.02, "epochs": 2, "batch_size": 12, "image_size": 32}
    return get_recipe("quick", changes)


def write_folder(data: ImageData, root: Path) -> Path:
    """The same pictures as an image folder."""
    for name, split in (("train", data.train), ("val", data.val)):
        for index in range(len(split)):
            image, label = split[index]
            folder = root / name / data.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{index:03}.png")
    return root
