from typing import Any

import pytest
import timm
import torch
from torch import nn

from sgekit.errors import InputError
from sgekit.models import default_input_size
from sgekit.models.zoo import ARCHITECTURES
from sgekit.modules import SpatialGroupEnhance


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # As published for PyTorch's ResNets and the paper's networks.
        ("resnet50", 25_557_032),
        ("sge_resnet50", 25_559_080),
        ("resnet101", 44_549_160),
        ("sge_resnet101", 44_553_384),
        # 16 groups in each of 8 blocks: four channels a group in the first stage.
        ("sge_resnet18", 11_689_512 + 8 * 32),
        # The usual networks for CIFAR have 11,173,962 and 23,520,842 with 10 classes.
        ("resnet18_cifar", 11_173_962 + 990 * 513),
        ("resnet50_cifar", 23_520_842 + 990 * 2049),
    ],
)
def test_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(timm.create_model(name)) == count


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_default_groups_leave_four_channels_each(name: str) -> None:
    with torch.device("meta"):
        layers = [
            m for m in timm.create_model(f"sge_{name}").modules()
            if isinstance(m, SpatialGroupEnhance)
        ]  # fmt: skip
    narrowest = min(layer.channels for layer in layers)
    assert {layer.groups for layer in layers} == {min(64, narrowest // 4)}


_DEEP = ("101", "152")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if any(d in name for d in _DEEP) else [])
        for name in sorted(ARCHITECTURES)
    ],
)
def test_every_block_has_sge_and_nothing_else_changed(name: str) -> None:
    with torch.device("meta"):
        plain, ours = timm.create_model(name), timm.create_model(f"sge_{name}")
    added = {k for k in ours.state_dict() if k not in plain.state_dict()}
    blocks = [n for n, m in ours.named_modules() if hasattr(m, "se")]
    assert added == {f"{n}.se.{p}" for n in blocks for p in ("weight", "bias")}
    shared = {k: v.shape for k, v in ours.state_dict().items() if k not in added}
    assert shared == {k: v.shape for k, v in plain.state_dict().items()}
    assert len(blocks) == sum(ARCHITECTURES[name]["layers"])


def test_takes_what_timm_resnets_take() -> None:
    model: Any = timm.create_model(
        "sge_resnet18", num_classes=7, in_chans=1, drop_path_rate=0.2, groups=16
    )
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    layers = [m for m in model.modules() if isinstance(m, SpatialGroupEnhance)]
    assert [layer.groups for layer in layers] == [16] * 8
    assert type(model.layer4[1].drop_path).__name__ == "DropPath"
    features: Any = timm.create_model("sge_resnet18", features_only=True, out_indices=(1, 4))
    shapes = [tuple(f.shape) for f in features(torch.randn(1, 3, 64, 64))]
    assert shapes == [(1, 64, 16, 16), (1, 512, 2, 2)]
    assert features.feature_info.channels() == [64, 512]


def test_small_network() -> None:
    model = timm.create_model("sge_resnet10_small", num_classes=10)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    assert [m.groups for m in model.modules() if isinstance(m, SpatialGroupEnhance)] == [8] * 4
    assert default_input_size("sge_resnet10_small") == (3, 64, 64)


def test_networks_for_cifar_keep_the_size_in_their_stem() -> None:
    features: Any = timm.create_model("sge_resnet18_cifar", features_only=True, in_chans=1)
    shapes = [tuple(f.shape[1:]) for f in features(torch.randn(1, 1, 32, 32))]
    assert shapes == [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert features.feature_info.reduction() == [1, 1, 2, 4, 8]
    assert default_input_size("resnet50_cifar") == (3, 32, 32)
    stem: Any = timm.create_model("resnet50_cifar").conv1
    assert float(stem.weight.detach().std()) == pytest.approx(
        (2 / (64 * 9)) ** 0.5, rel=0.1
    )  # He's, fan out


def test_attention_stands_before_the_residual_add() -> None:
    model: Any = timm.create_model("sge_resnet10_small").eval()
    block = model.layer2[0]
    x = torch.randn(2, 32, 8, 8)
    residual = block.downsample(x)
    branch = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(block.se(branch) + residual))


@pytest.mark.parametrize("name", ["sge_resnet50", "resnet10_small"])
def test_pretrained_weights_that_do_not_exist(name: str) -> None:
    with pytest.raises(InputError, match=f"no pretrained weights.*{name}"):
        timm.create_model(name, pretrained=True)
