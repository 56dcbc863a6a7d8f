"""The released code's names for weights, and ours."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

_BAM = r"^bam(\d)\.channel_att\.gate_c\.gate_c_"
_BAM_SPATIAL = r"^bam(\d)\.spatial_att\.gate_s\.gate_s_"

# What the released networks call a part, and where it is here (sgekit.models.released).
_RENAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"\.sge\.(weight|bias)$", r".se.\1"),
        (r"\.se\.fc\.0\.", ".se.fc1."),
        (r"\.se\.fc\.2\.", ".se.fc2."),
        (r"\.cbam\.ChannelGate\.mlp\.1\.", ".se.reduce."),
        (r"\.cbam\.ChannelGate\.mlp\.3\.", ".se.expand."),
        (r"\.cbam\.SpatialGate\.spatial\.conv\.", ".se.conv."),
        (r"\.cbam\.SpatialGate\.spatial\.bn\.", ".se.norm."),
        (_BAM + r"fc_0\.", r"layer\1.bam.channel.0."),
        (_BAM + r"bn_1\.", r"layer\1.bam.channel.1."),
        (_BAM + r"fc_final\.", r"layer\1.bam.channel.3."),
        (_BAM_SPATIAL + r"conv_reduce0\.", r"layer\1.bam.spatial.0."),
        (_BAM_SPATIAL + r"bn_reduce0\.", r"layer\1.bam.spatial.1."),
        (_BAM_SPATIAL + r"conv_di_0\.", r"layer\1.bam.spatial.3."),
        (_BAM_SPATIAL + r"bn_di_0\.", r"layer\1.bam.spatial.4."),
        (_BAM_SPATIAL + r"conv_di_1\.", r"layer\1.bam.spatial.6."),
        (_BAM_SPATIAL + r"bn_di_1\.", r"layer\1.bam.spatial.7."),
        (_BAM_SPATIAL + r"conv_final\.", r"layer\1.bam.spatial.9."),
        (r"\.conv2g\.", ".conv2_grouped."),
        (r"\.bn2g\.", ".bn2_grouped."),
        (r"\.conv_fc1\.", ".squeeze."),
        (r"\.bn_fc1\.", ".squeeze_bn."),
        (r"\.conv_fc2\.", ".select."),
    )
)


def renamed(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """`tensors` under the names of `wanted`, in our shapes.

    A name that `wanted` has is left alone, and so is one that stays unknown when renamed.
    """
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        ours = name if name in wanted else _ours(name)
        ours = ours if ours in wanted else name
        found[ours] = _shaped(ours, name, value)
    return found


def _ours(name: str) -> str:
    for pattern, replacement in _RENAMES:
        if pattern.search(name):
            return pattern.sub(replacement, name)
    return name


def _shaped(ours: str, theirs: str, value: Tensor) -> Tensor:
    # SGE's parameters are (1, G, 1, 1) there and (G,) here; SE's linear layers are 1x1
    # convolutions here.
    sge = re.search(r"\.se\.(weight|bias)$", ours)
    if sge and value.ndim == 4 and value.shape[0] == value.shape[2] == value.shape[3] == 1:
        return value.reshape(-1)
    if ours != theirs and re.search(r"\.se\.fc[12]\.weight$", ours) and value.ndim == 2:
        return value[:, :, None, None]
    return value
