"""Options that several commands share, and what they become."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from sgekit.data import ImageData, open_data
from sgekit.data.detection import DetectionData, is_detection, open_detection
from sgekit.errors import InputError
from sgekit.models.contender import parse
from sgekit.training.detection_recipes import (
    DETECTION_RECIPES,
    DetectionRecipe,
    get_detection_recipe,
)
from sgekit.training.recipes import RECIPES, Recipe, get_recipe

SCENES_MODEL = "resnet10_small"
DATA_MODEL = "resnet18"

# Recipe fields with an option of their own; --set reaches all of them.
_DIRECT = {
    "epochs": int,
    "batch_size": int,
    "image_size": int,
    "lr": float,
    "precision": str,
    "accumulate": int,
    "clip_grad_norm": float,
    "ema_decay": float,
    "bn": str,
}


def add_data(parser: argparse.ArgumentParser) -> None:
    """--data, --eval-split, --skip-bad."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        metavar="PATH",
        help="image folder (train/ and val/ or test/, or class folders), folder of Hugging Face "
        "parquet files or of WebDataset shards, folder with COCO JSON (detection); without it: "
        "the built-in scenes",
    )
    group.add_argument(
        "--eval-split", metavar="NAME", help="split to evaluate on, e.g. val or test"
    )
    group.add_argument(
        "--skip-bad",
        action="store_true",
        help="count and leave out images that cannot be read",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, of a trained network."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="a run's .ckpt, or .safetensors from sgekit convert",
    )


def open_from(options: argparse.Namespace) -> ImageData:
    """The data that the options name."""
    data = open_data(options.data, skip_bad=options.skip_bad, eval_split=options.eval_split)
    if data.skipped:
        shown = ", ".join(data.skipped[:3]) + (", …" if len(data.skipped) > 3 else "")
        print(f"left out {len(data.skipped)} images that cannot be read: {shown}")
    return data


def wants_detection(options: argparse.Namespace) -> bool:
    """Whether a detector is asked for, or the data are boxes and no folders of classes."""
    if getattr(options, "detector", None):
        return True
    if not options.data:
        return False
    path = Path(options.data).expanduser()
    train = path / "train"
    classes = train.is_dir() and any(entry.is_dir() for entry in train.iterdir())
    return path.is_dir() and not classes and is_detection(path)


def open_boxes_from(options: argparse.Namespace) -> DetectionData:
    """The detection data that the options name; what was mended in them is printed."""
    data = open_detection(options.data, skip_bad=options.skip_bad, eval_split=options.eval_split)
    for note in data.notes:
        print(note)
    return data


def check_groups(groups: object, attention: Sequence[str]) -> None:
    """Raise InputError where --groups is given and nothing takes it."""
    others = [contender for contender in map(parse, attention) if contender.name != "none"]
    if groups is not None and others and not any(other.takes_groups for other in others):
        raise InputError(
            f"--groups is SGE's number of groups, which {', '.join(attention)} does not take; "
            "options of an attention stand behind its name, as in sge(groups=8)"
        )


def add_start(parser: argparse.ArgumentParser) -> None:
    """What a network starts from, if not from random weights."""
    parser.add_argument("--pretrained", action="store_true", help="start from timm's weights")
    parser.add_argument(
        "--init",
        metavar="FILE",
        help="start from these weights: of the network, plain or with the attention; for a "
        "detector of its backbone, or a whole detector's",
    )


def add_detector(parser: argparse.ArgumentParser) -> None:
    """--detector and what goes with it."""
    group = parser.add_argument_group("detection")
    group.add_argument(
        "--detector",
        metavar="NAME",
        help="faster_rcnn, mask_rcnn, cascade_rcnn, cascade_mask_rcnn or retinanet, on --model as "
        "its backbone (faster_rcnn where --data is a folder with COCO JSON)",
    )
    group.add_argument(
        "--fpn-attention", metavar="NAME", help="attention on the detector's pyramid as well"
    )


def detection_recipe_from(options: argparse.Namespace) -> DetectionRecipe:
    """The detector's recipe that the options name, with their changes."""
    changes = _set(options)
    if options.image_size is not None and "min_size" in changes:
        raise InputError("--image-size is a detector's min_size, and --set min_size is given too")
    if options.image_size is not None:
        changes["min_size"] = (options.image_size,)
    for name in (
        "epochs",
        "batch_size",
        "lr",
        "precision",
        "accumulate",
        "clip_grad_norm",
        "ema_decay",
        "channels_last",
    ):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    if options.bn is not None:
        raise InputError("--bn is for classifiers; for a detector's norms: --set norm=...")
    if options.compile is not None:
        raise InputError("--compile is for classifiers")
    default = "finetune-detect" if options.data else "quick-detect"
    return get_detection_recipe(options.recipe or default, changes)


def _set(options: argparse.Namespace) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set takes FIELD=VALUE, got {text!r}")
        changes[name.replace("-", "_")] = value
    return changes


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """--recipe and what changes it."""
    group = parser.add_argument_group("recipe")
    group.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"one of {', '.join(RECIPES)} (quick); for a detector one of "
        f"{', '.join(DETECTION_RECIPES)} (quick-detect on the scenes, finetune-detect on --data)",
    )
    for name, kind in _DIRECT.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper())
    group.add_argument("--channels-last", action="store_const", const=True)
    group.add_argument("--compile", action="store_const", const=True, help="torch.compile")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"any recipe field: {', '.join(f.name for f in fields(Recipe)[1:])}; a detector's: "
        f"{', '.join(f.name for f in fields(DetectionRecipe)[1:])}",
    )


def recipe_from(options: argparse.Namespace) -> Recipe:
    """The recipe that the options name, with their changes."""
    changes = _set(options)
    for name in (*_DIRECT, "channels_last", "compile"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    return get_recipe(options.recipe or "quick", changes)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """--device and --workers."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps (auto)"
    )
    group.add_argument("--workers", type=count, metavar="INT", help="loader processes")


def add_groups(parser: argparse.ArgumentParser) -> None:
    """--groups."""
    parser.add_argument(
        "--groups",
        type=parse_groups,
        metavar="INT|auto",
        help="groups of SGE: a number, or auto for the divisor of each layer's channels nearest "
        "to 64 that leaves four channels a group (64; 16 for ResNet-18 and -34, 8 for "
        "resnet10_small)",
    )


def parse_groups(text: str) -> int | Literal["auto"]:
    """A positive number or "auto"."""
    if text == "auto":
        return "auto"
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor auto")
    return value


def comma_list(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def comma_numbers(text: str) -> tuple[int, ...]:
    """Seeds between commas."""
    return tuple(seed(part) for part in comma_list(text))


def seed(text: str) -> int:
    """A seed, which PyTorch and NumPy both take."""
    return _whole(text, 2**32 - 1, "a seed is a whole number from 0 to 4294967295")


def count(text: str) -> int:
    """A whole number, 0 or more."""
    return _whole(text, None, "it takes a whole number, 0 or more")


def _whole(text: str, most: int | None, allowed: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0 or (most is not None and value > most):
        raise argparse.ArgumentTypeError(f"got {text!r}; {allowed}")
    return value


def default_model(options: argparse.Namespace) -> str:
    """--model, or the one that suits the data."""
    if options.model:
        return str(options.model)
    return DATA_MODEL if options.data else SCENES_MODEL


def positive(value: int, name: str) -> int:
    """The value. Raises InputError below 1."""
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")
    return value


def short(stem: str) -> str:
    """The stem's first 80 characters, fewer where they need many bytes: names end at 255 bytes."""
    stem = stem[:80]
    while len(os.fsencode(stem)) > 240:
        stem = stem[:-1]
    return stem
