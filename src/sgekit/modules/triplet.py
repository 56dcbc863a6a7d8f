"""Triplet Attention as a layer."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.modules.widths import zero


class TripletAttention(nn.Module):
    """The mean of three gates, each of which sees two of channels, rows and columns.

    From "Rotate to Attend: Convolutional Triplet Attention Module", arXiv 2010.03045, section
    3: of x turned so that one dimension after another comes first, the maximum and mean along
    it (the paper's Z-pool), a kxk convolution of the two with BatchNorm, a sigmoid, and x times
    the mean of the three gates. k = 7; 3 * (2 k^2 + 2) parameters, whatever the channels.

    Takes and returns `(B, channels, H, W)`. In training BatchNorm refuses one 1x1 map alone.
    """

    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"kernel_size must be odd, such as 3 or 7, not {kernel_size}")

        def gate() -> nn.Sequential:
            conv = nn.Conv2d(
                2, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype
            )
            return nn.Sequential(conv, nn.BatchNorm2d(1, device=device, dtype=dtype))

        self.channels = channels
        self.over_columns = gate()
        self.over_rows = gate()
        self.over_channels = gate()

    def forward(self, x: Tensor) -> Tensor:
        # Each pooled along its dimension and turned as x would be: (H, C), (C, W), (H, W).
        rows = torch.sigmoid(self.over_columns(_pool(x, 3).transpose(2, 3)))
        columns = torch.sigmoid(self.over_rows(_pool(x, 2)))
        positions = torch.sigmoid(self.over_channels(_pool(x, 1)))
        # Divided while they are small.
        of_rows = rows.permute(0, 3, 2, 1) / 3
        of_columns = columns.transpose(1, 2) / 3
        return x * (of_rows + of_columns + positions / 3)

    def neutralize(self) -> float:
        """Make the three gates sigmoid(0), whatever the input, and return their mean."""
        zero(self.over_columns[-1], self.over_rows[-1], self.over_channels[-1])
        return 0.5

    def extra_repr(self) -> str:
        return str(self.channels)


def _pool(x: Tensor, dim: int) -> Tensor:
    """Maximum and mean along `dim`: `(B, 2, ...)`, the other two dimensions in their order."""
    return torch.stack((x.amax(dim), x.mean(dim)), 1)
