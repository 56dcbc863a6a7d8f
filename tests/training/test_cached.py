import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from sgekit.data import ImageData
from sgekit.errors import InputError
from sgekit.training.cached import CachedSamples, Prepare, cached_training, moved, whole
from sgekit.training.checkpoint import load_network, read_checkpoint
from sgekit.training.evaluate import evaluate
from sgekit.training.loaders import (
    EvalBatches,
    RandomShift,
    Samples,
    TrainBatches,
    eval_picture,
    eval_transform,
    loader,
    train_transform,
)
from sgekit.training.recipes import RECIPES, Recipe
from sgekit.training.run import run
from sgekit.training.settings import RunSettings

QUIET = Console(quiet=True)


@pytest.fixture
def cached(tiny: Recipe) -> Recipe:
    return tiny.with_overrides({"cache": True})


@pytest.mark.parametrize("flip", [0, 1])
def test_pictures_move_as_those_of_the_other_way(
    flip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    for down in range(-3, 4):
        for right in range(-3, 4):
            drawn = iter((down, right))
            monkeypatch.setattr(random, "randint", lambda low, high, d=drawn: next(d))
            expected = np.asarray(RandomShift(3)(Image.fromarray(pixels)))
            expected = expected[:, ::-1] if flip else expected
            got = moved(
                torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None],
                torch.tensor([[down, right, flip]]),
            )[0]
            assert np.array_equal(got.permute(1, 2, 0).numpy(), expected)


def test_every_picture_has_a_move_of_its_own() -> None:
    pixels = torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8)
    moves = torch.tensor([[0, 0, 0], [2, -1, 1], [-1, 0, 0]])
    together = moved(pixels, moves)
    for index in range(3):
        alone = moved(pixels[index : index + 1], moves[index : index + 1])
        assert torch.equal(together[index : index + 1], alone)
    assert torch.equal(together[0], pixels[0])
    assert not torch.equal(together[1], pixels[1])


def test_evaluation_sees_the_same_numbers(colours: ImageData) -> None:
    samples = CachedSamples(colours.val, eval_picture(24, 0.8, "bilinear"), 24, 0)
    plain = Samples(colours.val, eval_transform(24, 0.8, "bilinear"), None)
    seen = 0
    for keys in EvalBatches(len(colours.val), 10, 0, 1):
        images, labels = Prepare()(samples.__getitems__(keys))
        for image, label, key in zip(images, labels, keys, strict=True):
            assert torch.equal(image, plain[key][0])
            assert int(label) == plain[key][1]
            seen += 1
    assert seen == len(colours.val)


def test_training_without_chance_sees_the_same_numbers(colours: ImageData, cached: Recipe) -> None:
    still = cached.with_overrides({"crop": "none", "hflip": 0.0})
    samples = cached_training(colours.train, still, 0, 0)
    plain = Samples(colours.train, train_transform(still), 0)
    images, _ = Prepare()(samples.__getitems__([(2, i) for i in range(5)]))
    assert torch.equal(images, torch.stack([plain[(2, i)][0] for i in range(5)]))


def test_moves_follow_from_seed_epoch_and_index(colours: ImageData, cached: Recipe) -> None:
    def moves(seed: int, keys: list[tuple[int, int]]) -> Tensor:
        return cached_training(colours.train, cached, seed, 0).__getitems__(keys)[2]

    keys = [(1, i) for i in range(48)]
    whole_epoch = moves(3, keys)
    assert torch.equal(moves(3, keys[30:40]), whole_epoch[30:40])
    assert not torch.equal(moves(4, keys), whole_epoch)
    assert not torch.equal(moves(3, [(2, i) for i in range(48)]), whole_epoch)
    assert whole_epoch[:, :2].abs().max() == 2  # a sixteenth of 32 pixels
    assert {*whole_epoch[:, 2].tolist()} == {0, 1}


def test_a_loader_gives_whole_batches(colours: ImageData, cached: Recipe) -> None:
    samples = cached_training(colours.train, cached, 0, workers=2)
    batches = TrainBatches(48, 12, 0, 0, 1, 1)
    for (pixels, labels, moves), keys in zip(
        loader(samples, batches, 0, False, whole), batches, strict=True
    ):
        assert pixels.shape == (12, 3, 32, 32)
        assert pixels.dtype == torch.uint8
        assert labels.tolist() == [colours.train[i][1] for _, i in keys]
        assert moves.shape == (12, 3)


def settings(recipe: Recipe, out: Path, **changes: Any) -> RunSettings:
    return RunSettings(
        "resnet10_small", "sge", recipe, out, tensorboard=False, device="cpu", workers=0, **changes
    )


def test_a_run_learns_resumes_and_is_evaluated(
    colours: ImageData, cached: Recipe, tmp_path: Path
) -> None:
    result = run(settings(cached, tmp_path / "whole"), colours, QUIET)
    assert result.top1 >= 0.6  # chance is one in three
    network, who = load_network(tmp_path / "whole" / "last.ckpt")
    assert evaluate(network, who, colours, "cpu").top1 == pytest.approx(result.top1, abs=1e-6)
    saved = read_checkpoint(tmp_path / "whole" / "last.ckpt")
    assert not [name for name in saved["state_dict"] if "prepare" in name]
    with pytest.raises(InputError, match="cache was True, now False"):
        run(
            settings(cached.with_overrides({"cache": False}), tmp_path / "whole", resume=True),
            colours,
            QUIET,
        )


@pytest.mark.parametrize(
    "changes",
    [{"crop": "resized"}, {"color_jitter": 0.1}, {"random_erasing": 0.1}],
    ids=["crop", "colour", "erasing"],
)
def test_what_is_not_done_on_the_device_is_refused(cached: Recipe, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cache knows shifts and flips alone"):
        cached.with_overrides(changes)


def test_pictures_without_room_are_refused(colours: ImageData) -> None:
    class Many:
        def __len__(self) -> int:
            return 10**15

    with pytest.raises(InputError, match="no room in memory"):
        CachedSamples(Many(), eval_picture(32, 1.0, "bilinear"), 32, 0)  # type: ignore[arg-type]


def test_the_recipe_for_cifar_caches_and_shifts_by_four_pixels(colours: ImageData) -> None:
    recipe = RECIPES["cifar"]
    samples = cached_training(colours.train, recipe, 0, 0)
    assert recipe.cache
    assert samples.shift == 4


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_shifts_of_nothing_and_of_half(colours: ImageData, cached: Recipe, shift: float) -> None:
    recipe = cached.with_overrides({"shift": shift})
    samples = cached_training(colours.train, recipe, 0, 0)
    images, _ = Prepare()(samples.__getitems__([(0, i) for i in range(48)]))
    assert images.isfinite().all()
    assert int(samples._moves(0)[:, :2].abs().max()) == 32 * shift
