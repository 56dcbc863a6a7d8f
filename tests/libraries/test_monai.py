"""3-D and 1-D networks of MONAI."""

from functools import partial

import pytest

from tests.libraries.checks import Case, check
from tests.libraries.optional import library

nets = library("monai.networks.nets")

VOLUME, SIGNAL = (2, 1, 24, 24, 24), (2, 1, 128)


def resnet(dims: int, shape: tuple[int, ...]) -> Case:
    make = partial(nets.resnet18, spatial_dims=dims, n_input_channels=1, num_classes=3)
    return Case(make, shape, 8, "layer1.0.bn2.attention", "layer4.1.bn2.attention")


def unet(dims: int, shape: tuple[int, ...], norm: str) -> Case:
    make = partial(
        nets.UNet, dims, in_channels=1, out_channels=2, channels=(16, 32, 64), strides=(2, 2),
        num_res_units=2, norm=norm,
    )  # fmt: skip
    first, last = "model.0.conv.unit1.adn.N.attention", "model.2.1.conv.unit0.conv.attention"
    # MONAI's instance norm, the default, has no weights.
    return Case(make, shape, 5, first, last, held=norm == "batch")


CASES = {
    "resnet18 3-D": resnet(3, VOLUME),
    "resnet18 1-D": resnet(1, SIGNAL),
    "UNet 3-D": unet(3, VOLUME, "instance"),
    "UNet 3-D, batch": unet(3, VOLUME, "batch"),
    "UNet 1-D": unet(1, SIGNAL, "instance"),
    "SegResNet 3-D": Case(
        partial(nets.SegResNet, 3, in_channels=1, out_channels=2),
        VOLUME,
        layers=12,
        first="down_layers.0.1.conv2.conv.attention",
        last="up_layers.2.0.conv2.conv.attention",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_networks(name: str) -> None:
    check(CASES[name])
