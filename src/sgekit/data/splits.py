"""Which part of a data set trains and which validates."""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from sgekit.data.contract import Split
from sgekit.errors import InputError

VAL_NAMES = ("val", "validation", "valid", "dev", "eval", "test")
"""Names of a split to validate on, the first found wins."""

_TRAIN_NAMES = ("train", "training")
_SPLIT = re.compile(rf"({'|'.join(_TRAIN_NAMES + VAL_NAMES)})(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A choice of another split's images, in the order of `indices`."""

    whole: Split
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.whole[self.indices[index]]

    def source(self, index: int) -> str:
        """The name of the image in the whole."""
        return self.whole.source(self.indices[index])


def split_of(*names: str) -> str | None:
    """The split told by the first of the names that begins with one: "train" or as written.

    "train-00000-of-00001.parquet" is "train", "validation" is "validation", "tester" is none.
    """
    for name in names:
        if match := _SPLIT.match(name):
            found = match[1].lower()
            return "train" if found in _TRAIN_NAMES else found
    return None


def choose_val(found: Iterable[str], eval_split: str | None, where: str) -> str | None:
    """The name to validate on among the found ones; None where there is none to choose.

    eval_split is taken as it is, and InputError lists what is there when it is not found.
    """
    names = [name for name in found if name != "train"]
    if eval_split is not None:
        if eval_split not in names:
            there = ", ".join(names) or "none"
            raise InputError(f"{where} has no split {eval_split!r} to validate on; found: {there}")
        return eval_split
    return next((name for name in VAL_NAMES if name in names), None)


def hold_out(
    labels: Sequence[int], fraction: float
) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    """Indices to train on, indices to validate on, and a name for the latter.

    The same share of every class, at least one image of each class that has two; drawn with a
    fixed seed, so the same data always gives the same answer. InputError unless 0 < fraction < 1
    and something is left on both sides.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the share held out for validation is between 0 and 1, not {fraction}")
    classes: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        classes.setdefault(label, []).append(index)
    held: set[int] = set()
    for label in sorted(classes):
        members = classes[label]
        count = min(len(members) - 1, max(1, round(len(members) * fraction)))
        held.update(random.Random(label).sample(members, count))
    if not held:
        raise InputError("every class has a single image, so none can be held out for validation")
    train = tuple(i for i in range(len(labels)) if i not in held)
    return train, tuple(sorted(held)), f"held-out {fraction * 100:g} % of train"


def leave_out(split: Split, find: Callable[[Split], set[int]]) -> tuple[Part, tuple[str, ...]]:
    """The split without the images that `find` names, and their sources.

    InputError where nothing is left.
    """
    bad = find(split)
    kept = tuple(i for i in range(len(split)) if i not in bad)
    if not kept:
        raise InputError(f"no image can be decoded, {split.source(0)} among them")
    return Part(split, kept), tuple(split.source(i) for i in sorted(bad))
