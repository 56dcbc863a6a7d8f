"""Images decoded once and kept as bytes; shifted, flipped and normalised on the device.

For small images, where decoding and augmenting each one on the CPU would keep a GPU waiting. What
an image undergoes follows from (seed, epoch, index), as elsewhere, by draws of its own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from sgekit.data import Split
from sgekit.errors import InputError
from sgekit.training.loaders import (
    EvalBatches,
    Key,
    Samples,
    largest_shift,
    loader,
    squared,
)
from sgekit.training.recipes import Recipe

CachedBatch = tuple[Tensor, Tensor, Tensor]
"""Bytes (B, 3, S, S), labels (B,), and (B, 3): pixels down and to the right, whether flipped."""


def _bytes(picture: Image.Image | Tensor) -> Tensor:
    if isinstance(picture, Image.Image):
        return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
    return torch.as_tensor(np.asarray(picture))


class CachedSamples(Dataset[CachedBatch]):
    """A split as one tensor of bytes; a key is (epoch, index), and a list of keys makes a batch.

    ``picture`` makes the square picture of an image. ``shift`` is the most pixels each way,
    ``hflip`` a probability; without a seed neither is done. Raises InputError where the pictures
    have no room in memory.
    """

    def __init__(
        self,
        split: Split,
        picture: Callable[[Image.Image], Any],
        size: int,
        workers: int,
        *,
        seed: int | None = None,
        shift: int = 0,
        hflip: float = 0.0,
    ) -> None:
        self.seed, self.shift, self.hflip = seed, shift, hflip
        try:
            self.pixels = torch.empty((len(split), 3, size, size), dtype=torch.uint8)
        except RuntimeError as error:
            raise InputError(
                f"{len(split):,} pictures of {size} pixels have no room in memory "
                f"({3 * size * size * len(split) / 2**30:,.0f} GiB); use --set cache=false"
            ) from error
        self.labels = torch.empty(len(split), dtype=torch.int64)
        samples = Samples(split, transforms.Compose([picture, _bytes]), None)
        begin = 0
        for pixels, labels in loader(samples, EvalBatches(len(split), 256, 0, 1), workers, False):
            end = begin + len(labels)
            self.pixels[begin:end], self.labels[begin:end] = pixels, labels
            begin = end
        self._drawn: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> CachedBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Key]) -> CachedBatch:
        index = torch.tensor([number for _, number in keys])
        return self.pixels[index], self.labels[index], self._moves(keys[0][0])[index]

    def _moves(self, epoch: int) -> Tensor:
        """Every image's in this epoch, (N, 3)."""
        if self._drawn is None or self._drawn[0] != epoch:
            moves = torch.zeros((len(self), 3), dtype=torch.int64)
            if self.seed is not None:
                rng = np.random.default_rng([self.seed, epoch, 1])
                shifts = rng.integers(-self.shift, self.shift + 1, (len(self), 2))
                moves[:, :2] = torch.from_numpy(shifts)
                moves[:, 2] = torch.from_numpy(rng.random(len(self)) < self.hflip)
            self._drawn = epoch, moves
        return self._drawn[1]


def cached_training(split: Split, recipe: Recipe, seed: int, workers: int) -> CachedSamples:
    """The training images, with the recipe's shifts and flips."""
    return CachedSamples(
        split,
        transforms.Compose(squared(recipe)),
        recipe.image_size,
        workers,
        seed=seed,
        shift=largest_shift(recipe) if recipe.crop == "shift" else 0,
        hflip=recipe.hflip,
    )


def whole(batch: CachedBatch) -> CachedBatch:
    """What collates a batch that is one already."""
    return batch


class Prepare(nn.Module):
    """From a `CachedBatch` to images (B, 3, S, S), normalised, and labels, on their device.

    A shift reflects what it uncovers, as `RandomShift` does. Other batches pass as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            scaled = 255 * np.array(values, dtype=np.float32)[:, None, None]
            self.register_buffer(name, torch.from_numpy(scaled), persistent=False)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        if len(batch) == 2:
            return batch[0], batch[1]
        pixels, labels, moves = batch
        images = moved(pixels, moves).float()
        return images.sub_(self.mean).div_(self.std), labels


def moved(pixels: Tensor, moves: Tensor) -> Tensor:
    """Pictures (B, C, H, W) shifted and flipped as ``moves`` (B, 3) says, what is uncovered
    reflected."""
    down, right, flip = moves[:, :, None].unbind(1)
    batch, channels, height, width = pixels.shape
    columns = torch.arange(width, device=pixels.device)
    columns = torch.where(flip > 0, width - 1 - columns, columns)
    rows = _reflected(torch.arange(height, device=pixels.device) + down, height)
    columns = _reflected(columns + right, width)
    rows = rows[:, None, :, None].expand(batch, channels, height, width)
    columns = columns[:, None, None, :].expand(batch, channels, height, width)
    return pixels.gather(2, rows).gather(3, columns)


def _reflected(places: Tensor, length: int) -> Tensor:
    places = places.abs()
    return torch.minimum(places, 2 * (length - 1) - places)
