"""Style-based Recalibration Module as a layer."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from sgekit.modules.widths import zero


class StyleRecalibration(nn.Module):
    """Scales every channel by a gate from its own mean and deviation.

    From "SRM: A Style-based Recalibration Module for Convolutional Neural Networks", arXiv
    1903.10829, section 3: style pooling, the mean and deviation (over n); style integration,
    their sum weighted for each channel alone, BatchNorm and sigmoid; and x times that. The
    weights start at 0, as in the code of the paper's authors, so that every gate starts at 0.5.

    Takes and returns `(B, channels, *spatial)` with 1 to 3 spatial dimensions. The deviation
    of a constant map is 0, and nothing flows back through it. In training it needs a batch of
    two or more: PyTorch's BatchNorm refuses one number a channel.
    """

    dims: ClassVar[tuple[int, ...] | None] = (1, 2, 3)

    def __init__(
        self,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 2, device=device, dtype=dtype))
        self.norm = nn.BatchNorm1d(channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, tuple(range(2, x.dim())), correction=0)
        style = torch.stack((mean, std), -1)
        gate = torch.sigmoid(self.norm((style * self.weight).sum(-1))).to(x.dtype)
        return x * gate.reshape(*gate.shape, *[1] * (x.dim() - 2))

    def neutralize(self) -> float:
        """Make every gate sigmoid(0), whatever the input, and return it.

        By the BatchNorm, and the weights before it at 1: with both at 0 nothing would learn,
        and weights at 0 alone have gradients 1 / sqrt(eps) = 316 times too large.
        """
        nn.init.ones_(self.weight)
        zero(self.norm)
        return 0.5
