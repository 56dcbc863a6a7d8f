"""Bottleneck Attention Module as a layer."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from sgekit.modules.widths import hidden_channels, zero


class BottleneckAttention(nn.Module):
    """Adds to x what a gate lets through, a sum of one for the channels and one for the positions.

    From "BAM: Bottleneck Attention Module", arXiv 1807.06514, section 3: equations 1 and 2,
    x + x * sigmoid(Mc(x) + Ms(x)); 3, Mc, two layers on the channels' means, C to C/r and
    back; 4, Ms, convolutions 1x1 to C/r channels, twice 3x3 with dilation d, and 1x1 to one.
    Each branch ends in a BatchNorm; r = 16, d = 4. The equations leave out what stands
    between the layers: here a BatchNorm and a ReLU, as in the code of the paper's authors.
    A layer before a BatchNorm has no bias, which would do nothing.

    Stands after a stage of a network, not in its blocks (section 3, figure 1).

    Takes and returns `(B, channels, H, W)`. In training it needs a batch of two or more:
    PyTorch's BatchNorm refuses the means of one image.
    """

    placement: ClassVar[str] = "stage"
    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        dilation: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_channels(channels, reduction)
        conv = partial(nn.Conv2d, bias=False, device=device, dtype=dtype)
        wide = partial(conv, hidden, hidden, 3, padding=dilation, dilation=dilation)
        norm = partial(nn.BatchNorm2d, device=device, dtype=dtype)

        def between() -> tuple[nn.Module, nn.Module]:
            return norm(hidden), nn.ReLU(inplace=True)

        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            *(conv(channels, hidden, 1), *between()),
            *(conv(hidden, channels, 1), norm(channels)),
        )
        self.spatial = nn.Sequential(
            *(conv(channels, hidden, 1), *between()),
            *(wide(), *between()),
            *(wide(), *between()),
            *(conv(hidden, 1, 1), norm(1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + x * torch.sigmoid(self.channel(x) + self.spatial(x))

    def neutralize(self) -> float:
        """Make every gate sigmoid(0), whatever the input, and return 1 more, what x gets."""
        zero(self.channel[-1], self.spatial[-1])
        return 1.5
