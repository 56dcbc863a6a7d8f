"""Batches for detectors: pictures of any size with their objects."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from sgekit.data.detection import DetectionSplit, Target
from sgekit.training.detection_recipes import DetectionRecipe
from sgekit.training.loaders import Seeded, TrainBatches

Sample = tuple[Tensor, dict[str, Any]]


def augmentation(recipe: DetectionRecipe) -> v2.Compose:
    """What is done to a training picture and its objects; the detector itself resizes."""
    steps: list[Any] = []
    if tuple(recipe.jitter) != (1.0, 1.0):
        side = (recipe.max_size, recipe.max_size)
        low, high = recipe.jitter
        steps.append(v2.ScaleJitter(side, scale_range=(low, high), antialias=True))
        fill = {tv_tensors.Image: 114, tv_tensors.Mask: 0}
        steps.append(v2.RandomCrop(side, pad_if_needed=True, fill=fill))
        # Objects that were cut away, or to less than a pixel, are none any more.
        steps.append(v2.SanitizeBoundingBoxes(min_size=1))
    # Also at 0, as there must be a step.
    steps.append(v2.RandomHorizontalFlip(recipe.hflip))
    return v2.Compose(steps)


class DetectionSamples(Seeded[Sample]):
    """A split's pictures (3, H, W) between 0 and 1, and their targets as torchvision has them.

    Training leaves crowds out: a region of many objects is no example of one.
    """

    def __init__(
        self, split: DetectionSplit, recipe: DetectionRecipe | None, masks: bool, seed: int | None
    ) -> None:
        super().__init__(len(split), seed)
        self.split, self.masks = split, masks
        self.augment = augmentation(recipe) if recipe is not None else None
        self.cuts = recipe is not None and tuple(recipe.jitter) != (1.0, 1.0)

    def sample(self, index: int) -> Sample:
        image, target = self.split[index]
        if self.augment is None:
            return to_tensor(image), {"image_id": target.image_id}
        picture = tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        picture, known = self.augment(picture, self._known(target, image))
        known = {name: value.as_subclass(Tensor) for name, value in known.items()}
        if self.cuts and "masks" in known:
            known = _refitted(known)
        return picture.as_subclass(Tensor).float().div_(255), known | {"image_id": target.image_id}

    def _known(self, target: Target, image: Image.Image) -> dict[str, Any]:
        one = ~target.crowd
        known: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(target.boxes[one]).reshape(-1, 4),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=(image.height, image.width),
            ),
            "labels": torch.from_numpy(target.labels[one]),
        }
        if self.masks and target.masks is not None:
            known["masks"] = tv_tensors.Mask(torch.from_numpy(target.masks[one]))
        return known


def _refitted(known: dict[str, Tensor]) -> dict[str, Tensor]:
    """Objects with something left of their mask, in boxes that fit what is left."""
    left = known["masks"].flatten(1).bool().any(1)
    known = {name: value[left] for name, value in known.items()}
    boxes = masks_to_boxes(known["masks"]) + torch.tensor([0, 0, 1, 1])
    return known | {"boxes": boxes.reshape(-1, 4)}


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as (3, H, W) between 0 and 1."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).float().div_(255)


def collate(samples: list[Sample]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Pictures and targets of a batch, as lists: their sizes differ."""
    return [image for image, _ in samples], [target for _, target in samples]


class AspectBatches(TrainBatches):
    """Batches of wide or of tall pictures, since the smaller is padded to the larger."""

    def __init__(self, split: DetectionSplit, *args: int) -> None:
        super().__init__(len(split), *args)
        sizes = np.array([split.size(index) for index in range(len(split))])
        self.wide = sizes[:, 1] >= sizes[:, 0]

    def order(self) -> list[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        drawn, micro = rng.permutation(self.length), self.micro
        batches, left = [], []
        for kind in (True, False):
            same = drawn[self.wide[drawn] == kind]
            whole = len(same) // micro * micro
            batches += np.split(same[:whole], max(1, whole // micro)) if whole else []
            left.append(same[whole:])
        rest = np.concatenate(left)
        whole = len(rest) // micro * micro
        batches += np.split(rest[:whole], max(1, whole // micro)) if whole else []
        return [int(i) for batch in rng.permutation(len(batches)) for i in batches[batch]]
