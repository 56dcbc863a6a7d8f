"""Efficient Channel Attention as a layer."""

from typing import ClassVar

import torch
from timm.layers.eca import EcaModule

from sgekit.modules.widths import zero


class EfficientChannelAttention(EcaModule):
    """Scales every channel by a gate that sees the means of the channels next to it.

    From "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    arXiv 1910.03151, section 3: x * sigmoid(conv1d_k(mean(x))) along the channels, with k,
    odd, from equation 12 (gamma = 2, b = 1). timm's layer, in which k is at least 3.

    Takes and returns `(B, channels, H, W)`.
    """

    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, device=device, dtype=dtype)

    def neutralize(self) -> float:
        """Make every gate sigmoid(0), whatever the input, and return it."""
        zero(self.conv)
        return 0.5
