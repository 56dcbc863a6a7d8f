import re
from typing import Any

import pytest
import torch
from torch import nn

from sgekit.models import build, count_operations, describe, list_models
from sgekit.modules import ATTENTION, SpatialGroupEnhance


def test_a_network_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    counted = count_operations(model, (3, 6, 4))
    pixels, pooled = 24, 6
    assert counted.multiply_adds == 27 * 8 * pixels + 8 * 5
    other = 8 * pixels + 2 * 8 * pixels + 8 * pixels + 4 * 8 * pooled + (8 * pooled + 8) + 5
    assert counted.other == other
    assert counted.attention == 0
    assert counted.uncounted == ()


@pytest.mark.parametrize("batch", [1, 3])
def test_sge_by_hand(batch: int) -> None:
    counted = count_operations(SpatialGroupEnhance(32, groups=8), (batch, 32, 7, 5))
    of_numbers, of_positions = 5 * 32 * 35, 8 * 8 * 35
    assert counted.multiply_adds == 0
    assert counted.other == batch * (of_numbers + of_positions + 32 + 4 * 8)
    assert counted.attention == counted.other


def test_squeeze_excite_by_hand() -> None:
    # 64 -> 8 -> 64, on 4x4 maps: mean, two layers with biases, ReLU, sigmoid, gate.
    with torch.device("meta"):
        plain: Any = build("resnet18", "none")
        ours: Any = build("resnet18", "se")
    block = count_operations(ours.layer1[0].se, (64, 4, 4))
    elementwise = 64 * 16 + 64 + 8 + 8 + 64 + 64 + 64 * 16
    assert block.multiply_adds == 2 * 64 * 8
    assert block.other == elementwise
    before, after = (count_operations(m, (3, 64, 64)) for m in (plain, ours))
    added = 2 * (after.multiply_adds - before.multiply_adds) + after.other - before.other
    assert after.attention == added


def test_resnet50_at_224() -> None:
    plain, ours = describe("resnet50", "none"), describe("resnet50", "sge")
    assert plain.operations.multiply_adds == pytest.approx(4.09e9, rel=1e-3)
    assert ours.operations.multiply_adds == plain.operations.multiply_adds
    # 3, 4, 6 and 3 blocks of these channels and positions.
    stages = ((3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7))
    expected = sum(b * (5 * c * s * s + 8 * 64 * s * s + c + 4 * 64) for b, c, s in stages)
    assert ours.operations.attention == expected
    assert ours.operations.other == plain.operations.other + expected
    assert ours.parameters - plain.parameters == 16 * 128
    assert ours.input_size == (3, 224, 224)


def test_style_recalibration_by_hand() -> None:
    # Mean and deviation, their weighted sum, BatchNorm, sigmoid, gate.
    counted = count_operations(ATTENTION["srm"](32), (32, 7, 5))
    assert counted.multiply_adds == 0
    assert counted.other == (4 * 32 * 35 + 3 * 32) + 4 * 32 + 2 * 32 + 32 + 32 * 35


def test_coordinate_attention_by_hand() -> None:
    # Means of rows and columns, 64 -> 8 -> twice 64 at 6 + 4 places, hard swish, two gates.
    counted = count_operations(ATTENTION["coord"](64), (64, 6, 4))
    assert counted.multiply_adds == 2 * 10 * 64 * 8
    means, hidden, gates = 2 * 64 * 24 + 64 * 10, (1 + 2 + 1) * 8 * 10, 2 * 64 * 10
    assert counted.other == means + hidden + gates + 2 * 64 * 24


@pytest.mark.parametrize(
    "attention",
    [
        pytest.param(name, marks=[] if name in ("sge", "se", "sk") else pytest.mark.slow)
        for name in ATTENTION
    ],
)
def test_every_attention_is_counted_whole(attention: str) -> None:
    operations = describe("resnet50", attention, image_size=64).operations
    assert operations.uncounted == ()
    assert (operations.attention > 0) == (attention != "none")


@pytest.mark.parametrize(
    "name",
    [
        # The deep ones have more of the same blocks.
        pytest.param(name, marks=pytest.mark.slow if re.search("50|101|152", name) else [])
        for name in list_models()
    ],
)
def test_nothing_is_left_uncounted(name: str) -> None:
    assert describe(name, "cbam", image_size=64).operations.uncounted == ()


def test_the_model_is_left_as_it_was() -> None:
    model: Any = build("resnet10_small", "sge", num_classes=3)
    model.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    count_operations(model, (3, 64, 64))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_small_network_is_small() -> None:
    assert 0.02e9 <= describe("resnet10_small").operations.multiply_adds <= 0.05e9


def test_list_models() -> None:
    assert "resnet10_small" in list_models()
    assert list_models("sge_resnext50*") == ["resnext50_32x4d"]
    every = list_models("*res2net50*", every=True)
    assert "res2net50_26w_4s" in every
    assert not list_models("se*", every=True)


@pytest.mark.slow
def test_every_listed_model_can_be_built() -> None:
    with torch.device("meta"):
        for name in list_models(every=True):
            build(name, "sge", groups="auto")
