"""What can be built, and what it takes."""

import fnmatch
from dataclasses import dataclass
from typing import Literal

import timm
import torch

from sgekit.models.build import build
from sgekit.models.operations import Operations, count_operations
from sgekit.models.zoo import ARCHITECTURES, PREFIX

_MODULES = (
    "convnext", "cspnet", "densenet", "efficientnet", "ghostnet", "hrnet", "inception_next",
    "inception_v3", "inception_v4", "mobilenetv3", "nfnet", "regnet", "res2net", "resnest",
    "resnet", "resnetv2", "sknet", "vgg", "xception",
)  # fmt: skip
_OWN_ATTENTION = ("se", "eca", "resnetrs")


@dataclass(frozen=True)
class ModelInfo:
    """One network with one attention."""

    name: str
    attention: str
    input_size: tuple[int, int, int]
    """(channels, height, width) of the images that the operations are counted for."""
    parameters: int
    operations: Operations


def list_models(pattern: str = "*", *, every: bool = False) -> list[str]:
    """Names that `build` takes with any attention, matching the shell pattern, sorted.

    The networks with an `sge_` name of their own; with `every` those of timm's convolutional
    families without attention at the end of their blocks. `build` takes others too.
    """
    names = set(ARCHITECTURES)
    if every:
        for module in _MODULES:
            names |= {name for name in timm.list_models(module=module) if _is_plain(name)}
    return sorted(fnmatch.filter(names, pattern.removeprefix(PREFIX)))


def _is_plain(name: str) -> bool:
    return not name.startswith(_OWN_ATTENTION)


def default_input_size(name: str) -> tuple[int, int, int]:
    """(channels, height, width) of the images that the network was made for."""
    config = timm.get_pretrained_cfg(name.removeprefix(PREFIX))
    channels, height, width = config.input_size if config is not None else (3, 224, 224)
    return channels, height, width


def describe(
    name: str,
    attention: str = "none",
    *,
    groups: int | Literal["auto"] | None = None,
    num_classes: int = 1000,
    image_size: int | None = None,
) -> ModelInfo:
    """Parameters and operations of `build(name, attention, ...)`, for one image.

    `image_size` is in pixels; None is the network's own. No memory is allocated for weights.
    Raises as `build` does.
    """
    with torch.device("meta"):
        model = build(name, attention, groups=groups, num_classes=num_classes)
    size = default_input_size(name)
    if image_size is not None:
        size = (size[0], image_size, image_size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelInfo(name, attention, size, parameters, count_operations(model, size))
