"""Training recipes: everything that decides how a network learns, as one typed record."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from sgekit.errors import InputError
from sgekit.training.timm_names import check_augmentation, check_optimizer

BatchNormMode = Literal["local", "sync", "frozen"]
Schedule = Literal["cosine", "multistep", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]
Crop = Literal["resized", "shift", "none"]
# What timm's transforms and torchvision's both take.
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

# Known to work in timm, so that the recipes below need no import of it: optimisers as they are
# with some momentum, and policies.
_OPTIMIZERS = frozenset({"sgd", "momentum", "adamw", "lamb"})
_POLICIES = frozenset({"rand-m7-mstd0.5-inc1"})


@dataclass(frozen=True)
class Recipe:
    """How a network learns. Images a step, epochs and pixels are the units.

    ``batch_size`` counts the images of one optimiser step over all processes and
    accumulation steps, so that a recipe means the same on any number of devices.
    ``lr`` is the rate at ``lr_batch`` images a step and scales linearly with
    ``batch_size``; ``lr_batch=0`` takes it as it is.
    """

    name: str
    epochs: int
    batch_size: int
    image_size: int
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    decay_rate: float = 0.1
    warmup_epochs: int = 0
    min_lr: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop: Crop = "resized"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    shift: float = 0.0625
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0
    interpolation: Interpolation = "bilinear"
    eval_crop: float = 0.875
    drop_path: float = 0.0
    zero_init_last: bool = True
    clip_grad_norm: float = 0.0
    accumulate: int = 1
    ema_decay: float = 0.0
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    bn: BatchNormMode = "local"
    cache: bool = False

    def __post_init__(self) -> None:
        self._check_ranges()
        for name, choice in (
            ("schedule", Schedule),
            ("precision", Precision),
            ("crop", Crop),
            ("interpolation", Interpolation),
            ("bn", BatchNormMode),
        ):
            if getattr(self, name) not in get_args(choice):
                allowed = ", ".join(get_args(choice))
                raise InputError(f"{name} {getattr(self, name)!r} is none of {allowed}")
        self._check_together()
        if self.optimizer not in _OPTIMIZERS or not self.momentum:
            check_optimizer(self.optimizer, self.momentum)
        if self.auto_augment is not None and self.auto_augment not in _POLICIES:
            check_augmentation(self.auto_augment)

    def _check_ranges(self) -> None:
        """What is wrong with a number whatever the other fields are."""
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise InputError(f"{field.name} must be a finite number, got {number}")
        for name in ("epochs", "batch_size", "image_size", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "lr",
            "lr_batch",
            "min_lr",
            "weight_decay",
            "clip_grad_norm",
            "mixup",
            "cutmix",
            "color_jitter",
            "warmup_epochs",
        ):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in (
            "label_smoothing",
            "ema_decay",
            "drop_path",
            "random_erasing",
            "hflip",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.shift <= 0.5:
            raise InputError(f"shift must lie between 0 and 0.5, got {self.shift}")
        if not 0 < self.eval_crop <= 1:
            raise InputError(f"eval_crop must lie in (0, 1], got {self.eval_crop}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not 0 < self.decay_rate <= 1:
            raise InputError(f"decay_rate must lie in (0, 1], got {self.decay_rate}")
        scale = self.crop_scale
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(
                f"crop_scale must be two numbers 0 < a <= b <= 1, got {_listed(scale)}"
            )
        if any(m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise InputError(
                f"milestones must be positive and ascending, got {_listed(self.milestones)}"
            )

    def _check_together(self) -> None:
        """What does not go together."""
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                f"warmup_epochs must be less than epochs ({self.epochs}), got {self.warmup_epochs}"
            )
        if self.batch_size % self.accumulate:
            raise InputError(
                f"batch_size {self.batch_size} does not divide into {self.accumulate} "
                "accumulation steps"
            )
        if (self.mixup or self.cutmix) and self.batch_size // self.accumulate % 2:
            raise InputError(
                f"mixup and cutmix need an even number of images a process and accumulation step, "
                f"got {self.batch_size // self.accumulate}; change batch_size {self.batch_size} or "
                f"accumulate {self.accumulate}, or set both to 0"
            )
        if self.auto_augment is not None and self.crop != "resized":
            raise InputError(
                f"auto_augment goes with crop 'resized' only, not {self.crop!r}; "
                "set crop=resized or auto_augment=none"
            )
        if self.auto_augment is not None and self.interpolation == "lanczos":
            raise InputError(
                "auto_augment does not go with interpolation 'lanczos', which Pillow cannot rotate "
                "with; take nearest, bilinear or bicubic"
            )
        if self.cache and (self.crop == "resized" or self.color_jitter or self.random_erasing):
            raise InputError(
                "cache knows shifts and flips alone: it goes with crop 'shift' or 'none' and "
                "without color_jitter and random_erasing"
            )

    @property
    def peak_lr(self) -> float:
        """The learning rate at this recipe's batch size."""
        return self.lr * self.batch_size / self.lr_batch if self.lr_batch else self.lr

    def with_overrides(self, changes: Mapping[str, Any]) -> "Recipe":
        """This recipe with some fields changed; milestones move along with the epochs.

        A warm-up that would not leave an epoch after it is shortened, unless it is given.

        Values may be strings, as a command line gives them. Raises InputError for an
        unknown field (naming near ones) or a value of the wrong kind.
        """
        parsed = parse_changes(self, changes)
        if "epochs" in parsed and "milestones" not in parsed and parsed["epochs"] > 0:
            stretch = parsed["epochs"] / self.epochs
            parsed["milestones"] = tuple(max(1, round(m * stretch)) for m in self.milestones)
        if "epochs" in parsed and "warmup_epochs" not in parsed and parsed["epochs"] > 0:
            parsed["warmup_epochs"] = min(self.warmup_epochs, parsed["epochs"] - 1)
        return replace(self, **parsed)

    def flat(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


def parse_changes(recipe: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values for fields of a recipe, read where they are text. InputError as `with_overrides`."""
    names = [field.name for field in fields(recipe)]
    hints = get_type_hints(type(recipe))
    parsed: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"; near: {', '.join(near)}" if near else f"; there are: {', '.join(names)}"
            raise InputError(f"a recipe has no field {name!r}{hint}")
        parsed[name] = _parse(name, value, getattr(recipe, name), hints[name])
    return parsed


def _parse(name: str, value: Any, current: Any, hint: Any) -> Any:
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    if hint == (str | None) and value.lower() == "none":
        return None
    try:
        if isinstance(current, bool):
            return {
                "true": True,
                "1": True,
                "yes": True,
                "false": False,
                "0": False,
                "no": False,
            }[value.lower()]
        if isinstance(current, tuple):
            kind = int if hint == tuple[int, ...] else float
            return tuple(kind(part) for part in value.split(",") if part)
        return value if current is None else type(current)(value)
    except (ValueError, KeyError):
        kind_name = "true or false" if isinstance(current, bool) else type(current).__name__
        raise InputError(f"recipe field {name} takes {kind_name}, got {value!r}") from None


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # For small images and few cores; chosen on the built-in scenes with the plain network.
        Recipe(
            name="quick",
            epochs=6,
            batch_size=64,
            image_size=64,
            optimizer="adamw",
            lr=8e-3,
            lr_batch=64,
            weight_decay=0.05,
            decay_norm_and_bias=False,
            warmup_epochs=1,
            crop="shift",
            eval_crop=1.0,
            zero_init_last=False,
            channels_last=True,
        ),
        # The usual procedure for CIFAR from scratch with the `_cifar` networks, in fewer epochs.
        Recipe(
            name="cifar",
            epochs=60,
            batch_size=128,
            image_size=32,
            lr=0.1,
            lr_batch=128,
            weight_decay=5e-4,
            warmup_epochs=1,
            crop="shift",
            shift=0.125,
            eval_crop=1.0,
            precision="bf16",
            channels_last=True,
            cache=True,
        ),
        # A trained network on one's own images: small rate, short, gentle augmentation.
        Recipe(
            name="finetune",
            epochs=20,
            batch_size=64,
            image_size=224,
            lr=0.01,
            lr_batch=64,
            weight_decay=1e-4,
            warmup_epochs=1,
            label_smoothing=0.1,
            crop_scale=(0.25, 1.0),
            interpolation="bicubic",
            clip_grad_norm=5.0,
        ),
        # arXiv 1905.09646, section 4, as the released code runs it. In timm's names "momentum"
        # is plain SGD with momentum; its "sgd" adds Nesterov's step, which the paper does not use.
        Recipe(
            name="imagenet-resnet",
            optimizer="momentum",
            epochs=100,
            batch_size=256,
            image_size=224,
            lr=0.1,
            lr_batch=256,
            weight_decay=1e-4,
            schedule="multistep",
            milestones=(30, 60, 90),
            crop_scale=(0.08, 1.0),
            zero_init_last=False,
        ),
        # The 300-epoch procedure A2 of "ResNet strikes back" (arXiv 2110.00476) in timm's parts,
        # with cross-entropy on mixed labels instead of binary cross-entropy.
        Recipe(
            name="imagenet-modern",
            epochs=300,
            batch_size=2048,
            image_size=224,
            optimizer="lamb",
            lr=5e-3,
            lr_batch=2048,
            weight_decay=0.02,
            decay_norm_and_bias=False,
            warmup_epochs=5,
            min_lr=1e-6,
            mixup=0.1,
            cutmix=1.0,
            auto_augment="rand-m7-mstd0.5-inc1",
            interpolation="bicubic",
            eval_crop=0.95,
            drop_path=0.05,
            precision="bf16",
            channels_last=True,
        ),
    )
}


def get_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name, with fields changed. Raises InputError naming the recipes."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name].with_overrides(changes or {})
