"""Attention mechanisms, one a file, and ATTENTION, the dict of their names.

Every class is made as `cls(channels, *, device=None, dtype=None)`; unknown keywords are an
error. Importing this package needs torch alone; reading ATTENTION imports timm.
"""

from typing import TYPE_CHECKING, Any

from sgekit.modules.groups import DEFAULT_GROUPS, divisors, resolve_groups
from sgekit.modules.none import NoAttention
from sgekit.modules.sge import SpatialGroupEnhance

if TYPE_CHECKING:
    from torch import nn

    ATTENTION: dict[str, type[nn.Module]]

__all__ = [
    "ATTENTION",
    "DEFAULT_GROUPS",
    "NoAttention",
    "SpatialGroupEnhance",
    "divisors",
    "resolve_groups",
]


def __getattr__(name: str) -> Any:
    if name != "ATTENTION":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sgekit.modules.cbam import ConvBlockAttention
    from sgekit.modules.eca import EfficientChannelAttention
    from sgekit.modules.se import SqueezeExcite

    attention = {
        "none": NoAttention,
        "se": SqueezeExcite,
        "eca": EfficientChannelAttention,
        "cbam": ConvBlockAttention,
        "sge": SpatialGroupEnhance,
    }
    # From here on the name is an ordinary attribute: everyone shares one dict.
    globals()["ATTENTION"] = attention
    return attention
