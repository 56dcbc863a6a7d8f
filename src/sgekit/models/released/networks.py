"""The released networks as timm models: `timm.create_model("cbam_resnet50")`.

Each is timm's ResNet with what its name says and takes what timm's ResNets take. As in the
released code, and unlike timm, the last BatchNorm of a block starts at weight 1;
`zero_init_last=True` gives timm's start.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import ResNet
from torch import nn

from sgekit.errors import InputError
from sgekit.models.released.attention import ReleasedBam, ReleasedCbam
from sgekit.models.released.selective import SelectiveBottleneck
from sgekit.models.zoo import ARCHITECTURES
from sgekit.modules.se import SqueezeExcite


class BamResNet(ResNet):
    """timm's ResNet with BAM after each of its first three stages, as the stage's last layer."""

    def __init__(
        self,
        block: Any,
        layers: tuple[int, ...],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(block, layers, device=device, dtype=dtype, **kwargs)
        stages: list[dict[str, Any]] = self.feature_info[1:4]
        for stage in stages:
            layer = ReleasedBam(stage["num_chs"], device=device, dtype=dtype)
            self.get_submodule(stage["module"]).add_module("bam", layer)


_CHANGES: dict[str, dict[str, Any]] = {
    "se": {"block_args": {"attn_layer": SqueezeExcite}},
    "sk": {"block": SelectiveBottleneck},
    "cbam": {"block_args": {"attn_layer": ReleasedCbam}},
    "bam": {},
}

RELEASED: dict[str, str] = {
    f"{attention}_{base}": attention for attention in _CHANGES for base in ("resnet50", "resnet101")
}
"""Names of the networks and what they hold. SGE's own are in sgekit.models.zoo."""

_CFG: dict[str, Any] = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "conv1",
    "classifier": "fc",
}

default_cfgs = generate_default_cfgs(dict.fromkeys(RELEASED, _CFG))


def _entry(name: str) -> Callable[..., nn.Module]:
    attention = RELEASED[name]
    base = name.removeprefix(f"{attention}_")

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained and not (
            kwargs.get("pretrained_cfg") or kwargs.get("pretrained_cfg_overlay")
        ):
            raise InputError(
                f"no pretrained weights can be fetched for {name!r}; build it without "
                "pretrained and load a released file with sgekit.load_checkpoint"
            )
        given = {
            **ARCHITECTURES[base],
            **_CHANGES[attention],
            "zero_init_last": False,
            **kwargs,
        }
        cls = BamResNet if attention == "bam" else ResNet
        model: nn.Module = build_model_with_cfg(cls, name, pretrained, **given)
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{base} with {attention.upper()} as released by the authors of SGE."
    return build


__all__: list[str] = []  # timm's register_model appends every name
for _name in RELEASED:
    globals()[_name] = register_model(_entry(_name))
