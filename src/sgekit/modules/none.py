"""No attention: the control of every comparison."""

from typing import ClassVar

import torch
from torch import nn


class NoAttention(nn.Identity):
    """Returns its input. Takes what the other attention layers take and has no parameters."""

    dims: ClassVar[tuple[int, ...] | None] = None

    def __init__(
        self,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels

    def neutralize(self) -> float:
        """Returns 1, what it multiplies its input by."""
        return 1.0

    def extra_repr(self) -> str:
        return str(self.channels)
