import dataclasses
import subprocess
import sys

import pytest
from PIL import Image

from sgekit.errors import InputError
from sgekit.training.loaders import train_transform
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
            "crop": "resized",
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
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"lr": float("inf")}, "lr must be a finite number, got inf"),
        ({"crop_scale": "0.1,inf"}, "crop_scale must be a finite number, got inf"),
        ({"lr_batch": -1}, "lr_batch must not be negative, got -1"),
        ({"min_lr": -0.1}, "min_lr must not be negative"),
        ({"shift": 0.6}, "shift must lie between 0 and 0.5"),
        ({"color_jitter": -0.1}, "color_jitter must not be negative"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"decay_rate": 0.0}, r"decay_rate must lie in \(0, 1\], got 0.0"),
        ({"crop_scale": "0.5"}, "crop_scale must be two numbers 0 < a <= b <= 1, got 0.5"),
        ({"crop_scale": "0.9,0.3"}, "crop_scale must be two numbers .*, got 0.9, 0.3"),
        ({"milestones": "5,3"}, "milestones must be positive and ascending, got 5, 3"),
        ({"milestones": "0,3"}, "milestones must be positive"),
        ({"epochs": 3, "warmup_epochs": 3}, r"warmup_epochs must be less than epochs \(3\), got 3"),
        ({"interpolation": "cubic"}, "interpolation 'cubic' is none of nearest, bilinear"),
        ({"optimizer": "adamx"}, "timm has no optimizer 'adamx'; near: adam"),
        ({"optimizer": "§"}, "timm has no optimizer '§'; for instance: sgd"),
        ({"optimizer": "adahessian"}, "'adahessian' needs second derivatives"),
        ({"optimizer": "sgd", "momentum": 0.0}, "'sgd' cannot be made here with momentum 0: Nest"),
        ({"auto_augment": "rand-m5"}, "auto_augment goes with crop 'resized' only, not 'shift'"),
        (
            {"crop": "resized", "auto_augment": "loud"},
            "auto_augment 'loud' is no policy of timm .*instance: rand-m7",
        ),
        ({"crop": "resized", "auto_augment": "rand-mx"}, "'rand-mx' is no policy"),
        ({"crop": "resized", "auto_augment": "random"}, "'random' is no policy"),
        ({"crop": "resized", "auto_augment": ""}, "'' is no policy"),
        (
            {"crop": "resized", "auto_augment": "v0", "interpolation": "lanczos"},
            "does not go with .* 'lanczos'",
        ),
        ({"mixup": 0.1, "batch_size": 9}, "even number of images a process and .* step, got 9"),
        ({"cutmix": 1.0, "batch_size": 10, "accumulate": 2}, "got 5; change batch_size 10"),
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


@pytest.mark.parametrize("optimizer", ["rmsproptf", "lookahead_adam", "muon", "SGD"])
def test_timms_other_optimizers_are_taken(optimizer: str) -> None:
    assert get_recipe("quick", {"optimizer": optimizer}).optimizer == optimizer


@pytest.mark.parametrize("policy", ["original-mstd0.5", "augmix-m3", "rand-m9-tweights", "3a"])
def test_timms_other_policies_are_taken(policy: str) -> None:
    assert get_recipe("finetune", {"auto_augment": policy}).auto_augment == policy


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", ["resized", "shift"])
def test_every_interpolation_resizes(mode: str, crop: str) -> None:
    changes = {"interpolation": mode, "crop": crop, "image_size": 16}
    picture = Image.new("RGB", (20, 24))
    assert train_transform(get_recipe("quick", changes))(picture).shape == (3, 16, 16)


def test_what_the_recipes_use_is_known_without_timm() -> None:
    code = "import sys, sgekit.training.recipes; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_inherited_warmup_leaves_an_epoch() -> None:
    assert get_recipe("quick", {"epochs": 1}).warmup_epochs == 0
    assert get_recipe("imagenet-modern", {"epochs": 3}).warmup_epochs == 2
    assert get_recipe("imagenet-modern", {"epochs": 30}).warmup_epochs == 5


def test_an_unknown_recipe_lists_them() -> None:
    with pytest.raises(
        InputError, match="unknown recipe 'fast'; there are: quick, cifar, finetune"
    ):
        get_recipe("fast")
