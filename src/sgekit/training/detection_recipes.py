"""Recipes for detectors."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from sgekit.errors import InputError
from sgekit.training.recipes import Precision, parse_changes
from sgekit.training.timm_names import check_optimizer

Norm = Literal["frozen", "batch", "sync", "group"]
DetectionSchedule = Literal["multistep", "cosine"]


@dataclass(frozen=True)
class DetectionRecipe:
    """How a detector learns. Images a step, epochs, steps and pixels are the units.

    ``batch_size`` counts the images of one optimiser step over all processes and
    accumulation steps. ``lr`` is the rate at ``lr_batch`` images a step and scales linearly
    with ``batch_size``; ``lr_batch=0`` takes it as it is. The rate rises linearly from
    ``warmup_factor`` of it over ``warmup_steps`` steps. In training the shorter side becomes
    one of ``min_size`` at random, in evaluation the last of them, the longer at most
    ``max_size``. ``jitter`` is the range of large-scale jitter (arXiv 2012.07177): the picture
    is scaled to ``max_size`` times a factor from it and cut or padded to that square, which the
    detector then resizes to ``min_size`` as every picture; (1, 1) is off.
    ``anchor_sizes`` are the pixels a side of the anchors on the pyramid's five maps, in the
    resized picture; small objects want smaller ones. ``box_batch_size_per_image`` is the
    number of a picture's proposals that the box head learns from, ``proposals`` the number of
    those that it judges in evaluation (RetinaNet has none of both). ``fpn_channels`` and
    ``head_width`` are the width of pyramid and heads, ``zero_init_last`` the start of a backbone
    that learns from scratch: see `sgekit.create_detector`.
    """

    name: str
    epochs: int
    batch_size: int = 16
    optimizer: str = "momentum"
    lr: float = 0.02
    lr_batch: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: DetectionSchedule = "multistep"
    milestones: tuple[int, ...] = ()
    decay_rate: float = 0.1
    warmup_steps: int = 500
    warmup_factor: float = 1 / 3
    clip_grad_norm: float = 35.0
    min_size: tuple[int, ...] = (800,)
    max_size: int = 1333
    hflip: float = 0.5
    jitter: tuple[float, ...] = (1.0, 1.0)
    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    box_batch_size_per_image: int = 512
    proposals: int = 1000
    fpn_channels: int = 256
    head_width: int = 1024
    norm: Norm = "frozen"
    frozen_stages: int = 2
    zero_init_last: bool = True
    accumulate: int = 1
    ema_decay: float = 0.0
    precision: Precision = "fp32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise InputError(f"{field.name} must be a finite number, got {number}")
        counts = ("epochs", "batch_size", "max_size", "accumulate", "box_batch_size_per_image")
        for name in (*counts, "proposals", "fpn_channels", "head_width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "lr_batch", "weight_decay", "warmup_steps", "clip_grad_norm"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("hflip", "ema_decay", "warmup_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 0 < self.decay_rate <= 1:
            raise InputError(f"decay_rate must lie in (0, 1], got {self.decay_rate}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not self.min_size or min(self.min_size) < 1 or max(self.min_size) > self.max_size:
            raise InputError(
                f"min_size must be sizes from 1 to max_size ({self.max_size}), got {self.min_size}"
            )
        if len(self.jitter) != 2 or not 0 < self.jitter[0] <= self.jitter[1]:
            raise InputError(f"jitter must be two numbers 0 < a <= b, got {self.jitter}")
        if len(self.anchor_sizes) != 5 or min(self.anchor_sizes) <= 0:
            raise InputError(f"anchor_sizes must be 5 numbers above 0, got {self.anchor_sizes}")
        if not 0 <= self.frozen_stages <= 5:
            raise InputError(f"frozen_stages must be 0 to 5, got {self.frozen_stages}")
        if any(m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise InputError(f"milestones must be positive and ascending, got {self.milestones}")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"batch_size {self.batch_size} does not divide into {self.accumulate} "
                "accumulation steps"
            )
        for name, choice in (
            ("schedule", DetectionSchedule),
            ("precision", Precision),
            ("norm", Norm),
        ):
            if getattr(self, name) not in get_args(choice):
                allowed = ", ".join(get_args(choice))
                raise InputError(f"{name} {getattr(self, name)!r} is none of {allowed}")
        if self.optimizer not in ("momentum", "sgd", "adamw"):
            check_optimizer(self.optimizer, self.momentum)

    @property
    def peak_lr(self) -> float:
        """The learning rate at this recipe's batch size."""
        return self.lr * self.batch_size / self.lr_batch if self.lr_batch else self.lr

    def with_overrides(self, changes: Mapping[str, Any]) -> "DetectionRecipe":
        """This recipe with some fields changed; milestones move along with the epochs.

        Values may be strings, as a command line gives them. Raises InputError for an
        unknown field (naming near ones) or a value of the wrong kind.
        """
        parsed = parse_changes(self, changes)
        if "epochs" in parsed and "milestones" not in parsed and parsed["epochs"] > 0:
            stretch = parsed["epochs"] / self.epochs
            parsed["milestones"] = tuple(max(1, round(m * stretch)) for m in self.milestones)
        if min(parsed.get("min_size", (1,)), default=0) < 1:
            raise InputError(f"min_size must be sizes from 1 on, got {parsed['min_size']}")
        if "min_size" in parsed and "max_size" not in parsed:
            # The usual proportion, 1333 to 800.
            parsed["max_size"] = round(max(parsed["min_size"], default=0) * 5 / 3)
        return replace(self, **parsed)

    def flat(self) -> dict[str, Any]:
        """All fields as plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


DETECTION_RECIPES: dict[str, DetectionRecipe] = {
    recipe.name: recipe
    for recipe in (
        # For small pictures and few cores: the built-in scenes, from scratch.
        DetectionRecipe(
            name="quick-detect",
            epochs=6,
            batch_size=8,
            optimizer="adamw",
            lr=1e-3,
            lr_batch=0,
            weight_decay=0.05,
            schedule="cosine",
            warmup_steps=50,
            min_size=(128,),
            max_size=214,
            anchor_sizes=(8, 16, 32, 64, 128),
            box_batch_size_per_image=64,
            proposals=100,
            # A sixteenth of the papers' work.
            fpn_channels=64,
            head_width=256,
            norm="group",
            frozen_stages=0,
            zero_init_last=False,
        ),
        # arXiv 1905.09646, section 4: 24 epochs for Faster R-CNN, Mask R-CNN and RetinaNet (whose
        # rate is 0.01), 20 for Cascade R-CNN; 1x is the usual shorter form.
        DetectionRecipe(name="coco-1x", epochs=12, milestones=(8, 11)),
        DetectionRecipe(name="coco-2x", epochs=24, milestones=(16, 22)),
        DetectionRecipe(name="coco-20e", epochs=20, milestones=(16, 19)),
        # A trained backbone or detector on a few hundred pictures of one's own.
        DetectionRecipe(
            name="finetune-detect",
            epochs=20,
            batch_size=8,
            lr=0.005,
            lr_batch=8,
            schedule="cosine",
            warmup_steps=100,
            clip_grad_norm=10.0,
            min_size=(640, 720, 800),
        ),
    )
}


def get_detection_recipe(name: str, changes: Mapping[str, Any] | None = None) -> DetectionRecipe:
    """The recipe of that name, with fields changed. Raises InputError naming the recipes."""
    if name not in DETECTION_RECIPES:
        raise InputError(
            f"unknown recipe {name!r} for detection; there are: {', '.join(DETECTION_RECIPES)}"
        )
    return DETECTION_RECIPES[name].with_overrides(changes or {})
