"""Which normalisation a detector has, and GroupNorm in place of BatchNorm."""

import math
from typing import Any, Literal, get_args

from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Norm = Literal["frozen", "batch", "sync", "group"]
NORMS: tuple[Norm, ...] = get_args(Norm)

GROUPS = 32
"""Of GroupNorm (Wu and He, arXiv 1803.08494); fewer where 32 do not divide the channels."""


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm over the most groups, 32 at most, that divide both 32 and the channels."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def to_group_norm(module: nn.Module) -> int:
    """Exchange every BatchNorm for GroupNorm, in place; returns how many there were.

    Weights and biases are kept; running statistics have no place in GroupNorm. Attention that is
    inserted behind a BatchNorm would be lost: exchange first.
    """
    found = [name for name, child in module.named_modules() if isinstance(child, _BatchNorm)]
    for name in found:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, _grouped(module.get_submodule(name)))
    return len(found)


def _grouped(old: Any) -> nn.Module:
    new: Any = group_norm(old.num_features)
    if isinstance(old, BatchNormAct2d):
        # timm's norm with its dropout and activation behind it, which stay the same modules.
        new = GroupNormAct(old.num_features, new.num_groups, eps=old.eps, apply_act=False)
        new.drop, new.act = old.drop, old.act
    new.eps = old.eps
    if old.affine:
        new.weight, new.bias = old.weight, old.bias
    return new.train(old.training)  # type: ignore[no-any-return]
