"""Batches that depend on the seed alone: not on workers, processes or interruptions.

Every sample is drawn with a random state derived from (seed, epoch, index), and the order
of an epoch from (seed, epoch). Two runs with the same seed therefore see the same batches,
whatever network they train, a resumed run sees what an uninterrupted one sees, and N
processes together see what one process sees.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from sgekit.data import Split
from sgekit.errors import InputError
from sgekit.training.recipes import Recipe

Key = tuple[int, int]
Transform = Callable[[Image.Image], Tensor]


def derived_seed(*parts: int) -> int:
    """A 63-bit seed from several numbers, well mixed, the same on every machine."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int) -> None:
    """Set Python's, NumPy's and PyTorch's global random state."""
    _seed_cpu(seed)
    torch.manual_seed(seed)


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """Put the CPU's global random states back after a block that seeds and draws."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


def _seed_cpu(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


class RandomShift:
    """Shift a picture by up to ``most`` pixels each way and reflect what is uncovered.

    What torchvision's RandomCrop does after reflecting padding, by indices: a tenth of the time.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, image: Image.Image) -> Image.Image:
        pixels = np.asarray(image)
        for axis in (0, 1):
            length = pixels.shape[axis]
            places = np.abs(np.arange(length) + random.randint(-self.most, self.most))
            pixels = pixels.take(np.minimum(places, 2 * (length - 1) - places), axis)
        return Image.fromarray(pixels)


_MEAN = 255 * np.array(IMAGENET_DEFAULT_MEAN, dtype=np.float32)[:, None, None]
_STD = 255 * np.array(IMAGENET_DEFAULT_STD, dtype=np.float32)[:, None, None]


def _normalised(image: Image.Image | Tensor) -> Tensor:
    """A picture, or its bytes (3, H, W), as the floats that networks of ImageNet expect."""
    # NumPy, because PyTorch's dispatch costs more than the arithmetic of a small picture.
    if isinstance(image, Image.Image):
        pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
    else:
        pixels = np.asarray(image).astype(np.float32)
    pixels -= _MEAN
    pixels /= _STD
    return torch.from_numpy(pixels)


def squared(recipe: Recipe) -> list[Any]:
    """The steps from an image to the picture of S x S pixels that a shift begins with."""
    mode = transforms.InterpolationMode(recipe.interpolation)
    size = recipe.image_size
    return [transforms.Resize(size, interpolation=mode), transforms.CenterCrop(size)]


def largest_shift(recipe: Recipe) -> int:
    """Of crop "shift", in pixels."""
    return round(recipe.shift * recipe.image_size)


def train_transform(recipe: Recipe) -> Transform:
    """Augmentation of one training image: PIL image to (3, S, S), normalised."""
    size = recipe.image_size
    transform: Transform
    if recipe.crop == "resized":
        transform = create_transform(
            size,
            is_training=True,
            scale=recipe.crop_scale,
            hflip=recipe.hflip,
            color_jitter=recipe.color_jitter or None,  # type: ignore[arg-type]
            auto_augment=recipe.auto_augment,
            re_prob=recipe.random_erasing,
            interpolation=recipe.interpolation,
        )
        return transform
    steps: list[Any] = squared(recipe)
    if recipe.crop == "shift":
        steps.append(RandomShift(largest_shift(recipe)))
    if recipe.hflip:
        steps.append(transforms.RandomHorizontalFlip(recipe.hflip))
    if recipe.color_jitter:
        steps.append(transforms.ColorJitter(*[recipe.color_jitter] * 3))
    steps.append(_normalised)
    if recipe.random_erasing:
        steps.append(transforms.RandomErasing(recipe.random_erasing))
    transform = transforms.Compose(steps)
    return transform


def eval_transform(image_size: int, eval_crop: float, interpolation: str) -> Transform:
    """Resize the shorter side to image_size / eval_crop, crop the centre, normalise."""
    picture = eval_picture(image_size, eval_crop, interpolation)
    transform: Transform = transforms.Compose([picture, _normalised])
    return transform


def eval_picture(image_size: int, eval_crop: float, interpolation: str) -> Any:
    """The same without normalising: bytes (3, S, S)."""
    # As for a prefetcher: timm then leaves bytes, and normalising them is ours and faster.
    return create_transform(
        image_size,
        is_training=False,
        crop_pct=eval_crop,
        interpolation=interpolation,
        use_prefetcher=True,
    )


def to_picture(image: Tensor) -> Image.Image:
    """The picture behind a normalised (3, S, S) tensor: what the network saw."""
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    picture: Image.Image = transforms.functional.to_pil_image(
        (image.cpu() * std + mean).clamp(0, 1)
    )
    return picture


Sample = TypeVar("Sample")


class Seeded(Dataset[Sample]):
    """Samples whose randomness follows from (seed, epoch, index); a key is (epoch, index).

    Without a seed nothing is random.
    """

    def __init__(self, length: int, seed: int | None) -> None:
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Sample]:
        """A batch at once: putting the global random states back costs as much as a sample."""
        with _kept_random_state():
            return [self._seeded(*key) for key in keys]

    def _seeded(self, epoch: int, index: int) -> Sample:
        if self.seed is not None:
            _seed_cpu(derived_seed(self.seed, epoch, index))
        return self.sample(index)

    def sample(self, index: int) -> Sample:
        """The sample as the network wants it, drawn from the global random state."""
        raise NotImplementedError


class Samples(Seeded[tuple[Tensor, int]]):
    """A split's images as tensors (3, S, S), with their classes."""

    def __init__(self, split: Split, transform: Transform, seed: int | None) -> None:
        super().__init__(len(split), seed)
        self.split, self.transform = split, transform

    def sample(self, index: int) -> tuple[Tensor, int]:
        image, label = self.split[index]
        return self.transform(image), label


class TrainBatches(Sampler[list[Key]]):
    """One process's share of every global batch; an incomplete last batch is dropped.

    The global batch b of an epoch is the same for any number of processes: process r takes
    its r-th slice.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        accumulate: int,
    ) -> None:
        if batch_size % (world * accumulate):
            raise InputError(
                f"batch_size {batch_size} does not divide into {world} processes "
                f"× {accumulate} accumulation steps"
            )
        if length < batch_size:
            raise InputError(
                f"the training split has {length} images, fewer than batch_size {batch_size}; "
                "use a smaller --batch-size"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.epoch = 0

    @property
    def sampler(self) -> "TrainBatches":
        """Itself: Lightning looks here for what wants to be told the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.batch_size * self.accumulate

    @property
    def micro(self) -> int:
        """The images of one forward pass over all processes."""
        return self.batch_size // self.accumulate

    def order(self) -> list[int]:
        """The epoch's images, one micro-batch behind another."""
        rng = np.random.default_rng([self.seed, self.epoch])
        return [int(index) for index in rng.permutation(self.length)]

    def __iter__(self) -> Iterator[list[Key]]:
        order, micro = self.order(), self.micro
        share = micro // self.world
        for number in range(len(self)):
            start = number * micro + self.rank * share
            yield [(self.epoch, i) for i in order[start : start + share]]


class EvalBatches(Sampler[list[Key]]):
    """Every image once over all processes, none twice."""

    def __init__(self, length: int, batch_size: int, rank: int, world: int) -> None:
        self.indices = range(rank, length, world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, i) for i in self.indices[start : start + self.batch_size]]


def _quiet_worker(_: int) -> None:
    torch.set_num_threads(1)


def loader(
    samples: Dataset[Any],
    batches: Sampler[list[Key]],
    workers: int,
    pin_memory: bool,
    collate: Callable[[Any], Any] | None = None,
) -> DataLoader[Any]:
    """A DataLoader over prepared batches of keys."""
    return DataLoader(
        samples,
        collate_fn=collate,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_quiet_worker,
        # Of its own, so that making an iterator does not draw from the training's random state.
        generator=torch.Generator(),
    )
