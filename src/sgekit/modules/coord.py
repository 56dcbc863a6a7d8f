"""Coordinate Attention as a layer."""

from typing import ClassVar

import torch
from timm.layers.coord_attn import CoordAttn

from sgekit.modules.widths import check_reduction, zero

LEAST_HIDDEN = 8


class CoordinateAttention(CoordAttn):
    """Scales every position of every channel by a gate of its row and one of its column.

    From "Coordinate Attention for Efficient Mobile Network Design", arXiv 2103.02907, section
    3.2: equations 4 and 5, means of rows and columns; 6, a 1x1 convolution of both to C/r
    channels with BatchNorm and hard swish; 7 and 8, a 1x1 convolution and a sigmoid for each;
    9, x times both. r = 32, at least 8 channels, with biases. timm's layer.

    Takes and returns `(B, channels, H, W)`.
    """

    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_reduction(reduction)
        hidden = max(channels // reduction, LEAST_HIDDEN)
        super().__init__(channels, rd_channels=hidden, bias=True, device=device, dtype=dtype)

    def neutralize(self) -> float:
        """Make both gates sigmoid(0), whatever the input, and return their product."""
        zero(self.conv_h, self.conv_w)
        return 0.25
