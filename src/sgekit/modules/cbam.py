"""Convolutional Block Attention Module as a layer."""

from typing import ClassVar

import torch
from timm.layers.cbam import CbamModule

from sgekit.modules.widths import check_reduction, zero


class ConvBlockAttention(CbamModule):
    """Scales every channel, then every position, by a gate from average and maximum pooling.

    From "CBAM: Convolutional Block Attention Module", arXiv 1807.06521, section 3: equation
    2 for the channels (an MLP without biases, r = 16) and equation 3 for the positions (a
    7x7 convolution and a BatchNorm). timm's layer.

    Takes and returns `(B, channels, H, W)`. Where `channels` < 2 * r the MLP has one or
    more hidden units, never none. In training the BatchNorm refuses one 1x1 map alone.
    """

    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_reduction(reduction)
        super().__init__(channels, rd_ratio=1 / reduction, device=device, dtype=dtype)

    def neutralize(self) -> float:
        """Make both gates sigmoid(0), whatever the input, and return their product."""
        zero(self.channel.fc2, self.spatial.conv.bn)
        return 0.25
