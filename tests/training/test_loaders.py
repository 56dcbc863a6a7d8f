import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sgekit.data import ImageData
from sgekit.errors import InputError
from sgekit.training.loaders import (
    EvalBatches,
    RandomShift,
    Samples,
    TrainBatches,
    eval_transform,
    loader,
    to_picture,
    train_transform,
)
from sgekit.training.recipes import Crop, Recipe


def batches(world: int, epoch: int = 0, accumulate: int = 1) -> list[list[list[tuple[int, int]]]]:
    samplers = [TrainBatches(50, 12, 7, rank, world, accumulate) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_share_the_batches_of_one(world: int, accumulate: int) -> None:
    whole = batches(1)[0]
    steps = len(whole)
    parts = batches(world, accumulate=accumulate)
    for step in range(steps):
        together = [
            key
            for micro in range(accumulate)
            for rank in range(world)
            for key in parts[rank][step * accumulate + micro]
        ]
        assert sorted(together) == sorted(whole[step])


def test_epochs_differ_and_repeat() -> None:
    first, second = batches(1, 0)[0], batches(1, 1)[0]
    assert [i for b in first for _, i in b] != [i for b in second for _, i in b]
    assert batches(1, 1)[0] == second
    indices = [i for batch in first for _, i in batch]
    assert len(first) == 4  # 50 images make four batches of 12; the rest is dropped
    assert len(set(indices)) == 48


def test_evaluation_sees_every_image_once() -> None:
    for world in (1, 2, 3):
        seen = Counter(
            index
            for rank in range(world)
            for batch in EvalBatches(50, 8, rank, world)
            for _, index in batch
        )
        assert seen == Counter(range(50))
        assert all(
            len(list(EvalBatches(50, 8, rank, world))) == len(EvalBatches(50, 8, rank, world))
            for rank in range(world)
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((50, 13, 0, 0, 2, 1), "does not divide into 2 processes"),
        ((5, 8, 0, 0, 1, 1), "fewer than"),
    ],
)
def test_impossible_batches_are_refused(arguments: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TrainBatches(*arguments)


@pytest.mark.parametrize("crop", ["resized", "shift", "none"])
def test_a_sample_depends_on_seed_epoch_and_index_alone(
    colours: ImageData, tiny: Recipe, crop: str
) -> None:
    recipe = tiny.with_overrides({"crop": crop, "color_jitter": 0.3})
    samples = Samples(colours.train, train_transform(recipe), seed=3)
    one, label = samples[(0, 5)]
    assert one.shape == (3, 32, 32)
    assert label == colours.train[5][1]
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert torch.equal(samples[(0, 5)][0], one)
    assert not torch.equal(samples[(1, 5)][0], one)
    assert not torch.equal(Samples(colours.train, samples.transform, 4)[(0, 5)][0], one)


def test_drawing_a_sample_leaves_the_random_state_alone(colours: ImageData, tiny: Recipe) -> None:
    samples = Samples(colours.train, train_transform(tiny), seed=3)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = (torch.rand(1).item(), random.random(), np.random.rand())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    samples[(0, 0)]
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected


def test_workers_load_what_the_process_itself_loads(colours: ImageData, tiny: Recipe) -> None:
    def load(workers: int) -> list[torch.Tensor]:
        samples = Samples(colours.train, train_transform(tiny), seed=0)
        return [
            images
            for images, _ in loader(samples, TrainBatches(48, 12, 0, 0, 1, 1), workers, False)
        ]

    for mine, theirs in zip(load(0), load(2), strict=True):
        assert torch.equal(mine, theirs)


def test_a_picture_comes_back_from_its_tensor(colours: ImageData) -> None:
    image, _ = colours.val[0]
    back = to_picture(eval_transform(32, 1.0, "bilinear")(image))
    assert np.abs(np.asarray(back, float) - np.asarray(image, float)).max() <= 1


def test_shift_reflects_what_it_uncovers() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {padded[y : y + 9, x : x + 7].tobytes() for y in range(5) for x in range(5)}
    seen = {np.asarray(RandomShift(2)(Image.fromarray(pixels))).tobytes() for _ in range(1000)}
    assert seen == windows


@pytest.mark.parametrize("crop", ["shift", "none"])
def test_training_images_are_normalised_as_evaluation_images(crop: Crop, tiny: Recipe) -> None:
    recipe = replace(tiny, crop=crop, hflip=0.0)
    flat = Image.new("RGB", (32, 32), (250, 128, 3))
    evaluated = eval_transform(32, 1.0, recipe.interpolation)(flat)
    torch.testing.assert_close(train_transform(recipe)(flat), evaluated)


def test_a_batch_leaves_the_random_state_alone(colours: ImageData, tiny: Recipe) -> None:
    samples = Samples(colours.train, train_transform(tiny), seed=1)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(()).item(), np.random.random(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    batch = samples.__getitems__([(0, 3), (1, 3), (0, 4)])
    assert (torch.rand(()).item(), np.random.random(), random.random()) == expected
    alone = samples[(1, 3)]
    assert torch.equal(batch[1][0], alone[0])
    assert batch[1][1] == alone[1]
