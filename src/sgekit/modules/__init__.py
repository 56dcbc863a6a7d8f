"""Attention mechanisms, one a file, and ATTENTION, the dict of their names.

Every class is made as `cls(channels, *, <own options>, device=None, dtype=None)`; unknown
keywords are an error. Importing this package needs torch alone; reading ATTENTION imports timm.

What inserts layers into networks relies on three more names of each class:

- `placement`, a class attribute, is where the layer stands: "norm" after the last norm of a
  residual branch (also where the attribute is missing), "conv" in place of a 3x3 convolution
  with its norm and activation, "stage" after a stage and before the next.
- `dims`, a class attribute, is the numbers of spatial dimensions that the layer takes, such as
  `(2,)`; None is any. Forward doesn't check it.
- `neutralize()` sets parameters so that the layer multiplies its input by a constant, whatever
  the input, in training and in evaluation, and returns that constant; gradients still lead
  away from there. It raises InputError where the mechanism can't.
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
    from sgekit.modules.bam import BottleneckAttention
    from sgekit.modules.cbam import ConvBlockAttention
    from sgekit.modules.coord import CoordinateAttention
    from sgekit.modules.eca import EfficientChannelAttention
    from sgekit.modules.ema import EfficientMultiScaleAttention
    from sgekit.modules.gc import GlobalContext
    from sgekit.modules.ge import GatherExcite
    from sgekit.modules.sa import ShuffleAttention
    from sgekit.modules.se import SqueezeExcite
    from sgekit.modules.simam import SimAM
    from sgekit.modules.sk import SelectiveKernel
    from sgekit.modules.srm import StyleRecalibration
    from sgekit.modules.triplet import TripletAttention

    attention = {
        "none": NoAttention,
        "se": SqueezeExcite,
        "cbam": ConvBlockAttention,
        "bam": BottleneckAttention,
        "sk": SelectiveKernel,
        "gc": GlobalContext,
        "ge": GatherExcite,
        "eca": EfficientChannelAttention,
        "srm": StyleRecalibration,
        "simam": SimAM,
        "coord": CoordinateAttention,
        "sa": ShuffleAttention,
        "triplet": TripletAttention,
        "ema": EfficientMultiScaleAttention,
        "sge": SpatialGroupEnhance,
    }
    # From here on the name is an ordinary attribute: everyone shares one dict.
    globals()["ATTENTION"] = attention
    return attention
