import dataclasses

import pytest

from sgekit.errors import InputError
from sgekit.training.recipes import RECIPES, get_recipe


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = get_recipe("imagenet-resnet")
    assert (recipe.epochs, recipe.batch_size, recipe.peak_lr) == (100, 256, 0.1)
    assert (recipe.schedule, recipe.milestones, recipe.decay_rate) == (
        "multistep",
        (30, 60, 90),
        0.1,
    )
    assert recipe.optimizer == "momentum"  # timm's name for SGD without Nesterov's step
    assert (recipe.momentum, recipe.weight_decay, recipe.decay_norm_and_bias) == (0.9, 1e-4, True)
    assert (recipe.label_smoothing, recipe.zero_init_last) == (0.0, False)
    assert (recipe.crop_scale, recipe.hflip) == ((0.08, 1.0), 0.5)
    assert recipe.image_size / recipe.eval_crop == 256


def test_the_rate_follows_the_batch() -> None:
    assert get_recipe("imagenet-resnet", {"batch_size": 1024}).peak_lr == pytest.approx(0.4)
    assert get_recipe("imagenet-resnet", {"batch_size": 1024, "lr_batch": 0}).peak_lr == 0.1


def test_milestones_move_with_the_epochs() -> None:
    assert get_recipe("imagenet-resnet", {"epochs": 10}).milestones == (3, 6, 9)
    fixed = get_recipe("imagenet-resnet", {"epochs": 10, "milestones": "5,8"})
    assert fixed.milestones == (5, 8)


def test_values_come_as_text() -> None:
    recipe = get_recipe(
        "quick",
        {
            "channels_last": "false",
            "crop_scale": "0.3,0.9",
            "auto_augment": "rand-m5",
            "lr": "1e-2",
        },
    )
    assert recipe.channels_last is False
    assert recipe.crop_scale == (0.3, 0.9)
    assert recipe.auto_augment == "rand-m5"
    assert recipe.lr == 0.01
    assert get_recipe("imagenet-modern", {"auto_augment": "none"}).auto_augment is None


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = RECIPES[name]
    flat = recipe.flat()
    assert recipe.with_overrides({k: v for k, v in flat.items() if k != "name"}) == recipe
    assert set(flat) == {field.name for field in dataclasses.fields(recipe)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": 3}, "no field 'epoch'; near: epochs"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": "many"}, "epochs takes int, got 'many'"),
        ({"lr": -1.0}, "lr must not be negative"),
        ({"lr": float("nan")}, "lr must not be negative, got nan"),
        ({"channels_last": "perhaps"}, "takes true or false"),
        ({"precision": "fp8"}, "precision 'fp8' is none of fp32, bf16, fp16"),
        ({"schedule": "spiral"}, "schedule 'spiral' is none of"),
        ({"hflip": 1.5}, "hflip must lie between 0 and 1"),
        ({"batch_size": 10, "accumulate": 3}, "does not divide into 3"),
    ],
)
def test_wrong_changes_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        get_recipe("quick", changes)


def test_an_unknown_recipe_lists_them() -> None:
    with pytest.raises(InputError, match="unknown recipe 'fast'; there are: quick, finetune"):
        get_recipe("fast")
