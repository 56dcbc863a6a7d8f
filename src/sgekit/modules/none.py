"""No attention: the control of every comparison."""

import torch
from torch import nn


class NoAttention(nn.Identity):
    """Returns its input. Takes what the other attention layers take and has no parameters."""

    def __init__(
        self,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels

    def extra_repr(self) -> str:
        return str(self.channels)
