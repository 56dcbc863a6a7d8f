"""Squeeze-and-Excitation as a layer."""

from typing import ClassVar

import torch
from timm.layers.squeeze_excite import SEModule

from sgekit.modules.widths import check_reduction, zero


class SqueezeExcite(SEModule):
    """Scales every channel by a gate that sees all channels' means.

    From "Squeeze-and-Excitation Networks", arXiv 1709.01507, section 3, equations 2 to 4:
    x * sigmoid(W2 relu(W1 mean(x))), W1 from C to C/r channels and W2 back, both with
    biases; r = 16. timm's layer, which rounds C/r to a multiple of 8.

    Takes and returns `(B, channels, H, W)`.
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
        """Make every gate sigmoid(0), whatever the input, and return it."""
        zero(self.fc2)
        return 0.5
