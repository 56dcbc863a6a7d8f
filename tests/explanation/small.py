"""A small classifier's checkpoint, without training: gates that differ between positions."""

from pathlib import Path

import torch
from torch import nn

from sgekit.data import SceneConfig
from sgekit.data.regions import RegionData, of_scenes
from sgekit.explanation.subject import Classifier
from sgekit.models import build
from sgekit.modules import SpatialGroupEnhance
from sgekit.training.checkpoint import KEY, Identity

CONFIG = SceneConfig(image_size=32, train=1, val=24)


def network(attention: str = "sge", classes: int = len(CONFIG.classes)) -> nn.Module:
    torch.manual_seed(0)
    model = build("resnet10_small", attention, num_classes=classes)
    for module in model.modules():
        if isinstance(module, SpatialGroupEnhance):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts the last of each branch at 0
    return model.eval()


def identity(attention: str = "sge", classes: tuple[str, ...] = CONFIG.classes) -> Identity:
    return Identity("resnet10_small", attention, None, classes, 32, 1.0, "bilinear")


def checkpoint(
    path: Path, attention: str = "sge", classes: tuple[str, ...] = CONFIG.classes
) -> Path:
    weights = network(attention, len(classes)).state_dict()
    torch.save(
        {
            "state_dict": {f"model.{name}": value for name, value in weights.items()},
            KEY: identity(attention, classes).plain(),
        },
        path,
    )
    return path


def subject(attention: str = "sge") -> Classifier:
    return Classifier(network(attention), "cpu", who=identity(attention), groups=8)


def scenes(val: int = 24) -> RegionData:
    return of_scenes(SceneConfig(image_size=32, train=1, val=val))
