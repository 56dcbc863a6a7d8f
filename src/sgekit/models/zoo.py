"""SGE networks as timm models: `timm.create_model("sge_resnet50")` after `import sgekit.models`.

Each is timm's own ResNet with SpatialGroupEnhance after the last BatchNorm of every block,
before the residual add, as in arXiv 1905.09646, and takes what timm's ResNets take
(`num_classes`, `in_chans`, `features_only`, `drop_path_rate`, ...) and `groups`. Those whose name
ends in `_cifar` are for images of about 32 pixels: a 3x3 stem of stride 1 and no pooling, as is
usual for CIFAR.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from sgekit.errors import InputError
from sgekit.models.insertion.tails import set_tails
from sgekit.modules import DEFAULT_GROUPS, SpatialGroupEnhance
from sgekit.modules.groups import LEAST_CHANNELS

SMALL = "resnet10_small"
CIFAR = "_cifar"
OWN = (SMALL, *(f"resnet{depth}{CIFAR}" for depth in ("18", "50")))
"""The networks that timm does not have."""
PREFIX = "sge_"

_SMALL: dict[str, Any] = {
    "block": BasicBlock,
    "layers": (1, 1, 1, 1),
    "channels": (32, 64, 128, 256),
}
_DEEP: dict[str, Any] = {"stem_width": 32, "stem_type": "deep", "avg_down": True}
_DEPTHS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "18": (BasicBlock, (2, 2, 2, 2)),
    "34": (BasicBlock, (3, 4, 6, 3)),
    "50": (Bottleneck, (3, 4, 6, 3)),
    "101": (Bottleneck, (3, 4, 23, 3)),
    "152": (Bottleneck, (3, 8, 36, 3)),
}


def _resnet(depth: str, **kwargs: Any) -> dict[str, Any]:
    block, layers = _DEPTHS[depth]
    return {"block": block, "layers": layers, **kwargs}


class CifarResNet(ResNet):
    """timm's ResNet with one 3x3 convolution of stride 1 as its stem, without the pooling."""

    def __init__(
        self,
        block: Any,
        layers: tuple[int, ...],
        *,
        in_chans: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(block, layers, in_chans=in_chans, device=device, dtype=dtype, **kwargs)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        width = cast(int, self.feature_info[0]["num_chs"])
        stem = nn.Conv2d(in_chans, width, 3, padding=1, bias=False, **place)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.add_module("conv1", stem)
        self.add_module("maxpool", nn.Identity())
        for number, stage in enumerate(self.feature_info):
            stage["reduction"] = 2 ** max(0, number - 1)


ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}": _resnet(depth) for depth in _DEPTHS},
    **{f"resnet{depth}d": _resnet(depth, **_DEEP) for depth in _DEPTHS},
    "resnext50_32x4d": _resnet("50", cardinality=32, base_width=4),
    "resnext101_32x4d": _resnet("101", cardinality=32, base_width=4),
    "resnext101_32x8d": _resnet("101", cardinality=32, base_width=8),
    "resnext101_64x4d": _resnet("101", cardinality=64, base_width=4),
    "wide_resnet50_2": _resnet("50", base_width=128),
    "wide_resnet101_2": _resnet("101", base_width=128),
    **{f"resnet{depth}{CIFAR}": _resnet(depth) for depth in ("18", "50")},
    SMALL: _SMALL,
}
"""The plain networks, by timm's names, that have an SGE counterpart `sge_<name>`."""


def _cfg(name: str) -> dict[str, Any]:
    size, pool = 224, 7
    if name.endswith(SMALL):
        size, pool = 64, 2
    elif name.endswith(CIFAR):
        size, pool = 32, 4
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, size, size),
        "pool_size": (pool, pool),
        "crop_pct": 1.0 if name.endswith(CIFAR) else 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1.0" if name.endswith("d") and "resnet" in name else "conv1",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(
    {name: _cfg(name) for name in [*OWN, *(PREFIX + base for base in ARCHITECTURES)]}
)


def default_groups(name: str, channels: int | None = None) -> int:
    """64, as in the paper, or fewer where a group would have less than four channels.

    That is so where the first stage's blocks end in fewer than 256 channels: 16 for ResNet-18 and
    -34, 8 for the small network. docs/evidence.md has what one channel a group does to them.
    `channels` are those of the first stage, for a network that is not among ARCHITECTURES.
    """
    architecture = ARCHITECTURES.get(name.removeprefix(PREFIX))
    if architecture is not None:
        channels = architecture.get("channels", (64,))[0] * architecture["block"].expansion
    if channels is None:
        return DEFAULT_GROUPS
    return max(min(DEFAULT_GROUPS, channels // LEAST_CHANNELS), 1)


def _refuse_missing_weights(name: str, pretrained: bool, kwargs: dict[str, Any]) -> None:
    given = kwargs.get("pretrained_cfg") or kwargs.get("pretrained_cfg_overlay")
    if pretrained and not given:
        raise InputError(
            f"no pretrained weights are published for {name!r}; "
            "build it without pretrained and load a checkpoint"
        )


def _entry(name: str) -> Callable[..., nn.Module]:
    base = name.removeprefix(PREFIX)
    network = CifarResNet if base.endswith(CIFAR) else ResNet

    def build(
        pretrained: bool = False,
        groups: int | Literal["auto"] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        attention = partial(
            SpatialGroupEnhance,
            groups=default_groups(name) if groups is None else groups,
        )
        _refuse_missing_weights(name, pretrained, kwargs)
        given = {
            **ARCHITECTURES[base],
            "block_args": {"attn_layer": attention},
            **kwargs,
        }
        model: nn.Module = build_model_with_cfg(network, name, pretrained, **given)
        set_tails(model)
        return model

    def plain(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        _refuse_missing_weights(name, pretrained, kwargs)
        model: nn.Module = build_model_with_cfg(
            network, name, pretrained, **{**ARCHITECTURES[base], **kwargs}
        )
        return model

    entry = build if name.startswith(PREFIX) else plain
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{base} with SGE in every block." if entry is build else f"{base}."
    return entry


__all__: list[str] = []  # timm's register_model appends every name
for _name in default_cfgs:
    globals()[_name] = register_model(_entry(_name))
