"""Encoders and whole networks of segmentation-models-pytorch."""

from dataclasses import replace
from functools import partial

import pytest

from tests.libraries.checks import Case, check
from tests.libraries.optional import library

smp = library("segmentation_models_pytorch")

UNET = Case(
    partial(smp.Unet, "resnet34", encoder_weights=None, classes=3),
    (2, 3, 64, 64),
    layers=16,
    first="encoder.layer1.0.bn2.attention",
    last="encoder.layer4.2.bn2.attention",
)
CASES = {
    "Unet resnet34": UNET,
    "Unet resnet34, encoder": replace(
        UNET, part="encoder", first="layer1.0.bn2.attention", last="layer4.2.bn2.attention"
    ),
    "Unet resnet34, decoder": replace(
        UNET,
        where="decoder.blocks.*.conv2.1",
        layers=5,
        first="decoder.blocks.0.conv2.1.attention",
        last="decoder.blocks.4.conv2.1.attention",
    ),
    "FPN efficientnet-b0": replace(
        UNET,
        make=partial(smp.FPN, "efficientnet-b0", encoder_weights=None, classes=3),
        layers=9,
        first="encoder._blocks.2._bn2.attention",
        last="encoder._blocks.14._bn2.attention",
    ),
    "FPN tu-efficientnet_b0": replace(
        UNET,
        make=partial(smp.FPN, "tu-efficientnet_b0", encoder_weights=None, classes=3),
        layers=9,
        first="encoder.model.blocks.1.1.bn3.attention",
        last="encoder.model.blocks.5.3.bn3.attention",
    ),
    "DeepLabV3Plus resnet34": replace(
        UNET, make=partial(smp.DeepLabV3Plus, "resnet34", encoder_weights=None, classes=3)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_networks(name: str) -> None:
    check(CASES[name])
