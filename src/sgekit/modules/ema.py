"""Efficient Multi-scale Attention as a layer."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sgekit.modules.groups import resolve_groups
from sgekit.modules.widths import zero

DEFAULT_GROUPS = 32


class EfficientMultiScaleAttention(nn.Module):
    """Scales every position of every group of channels by how two branches see each other.

    From "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", arXiv 2305.13563,
    section 3. Of each of G groups of channels, with parameters that the groups share: a 1x1
    convolution of the means of rows and columns and a sigmoid scale x, which GN (every channel
    alone) makes branch 1; a 3x3 convolution of x is branch 2. The softmax of each branch's
    channel means weighs the channels of the other; the sum of both is one map, and its sigmoid
    scales the group. G = 32; 10 (C/G)^2 + 4 C/G parameters. (The means of branch 1 are those
    that GN leaves, its biases: by these equations they don't depend on x.)

    Takes and returns `(B, channels, H, W)`. Raises InputError where `groups` doesn't divide
    `channels`; `groups="auto"` takes the divisor nearest to 32.
    """

    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        groups: int | Literal["auto"] = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.groups = resolve_groups(channels, groups, DEFAULT_GROUPS)
        self.width = channels // self.groups
        self.conv1 = nn.Conv2d(self.width, self.width, 1, device=device, dtype=dtype)
        self.conv3 = nn.Conv2d(self.width, self.width, 3, padding=1, device=device, dtype=dtype)
        self.norm = nn.GroupNorm(self.width, self.width, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        samples, _, height, width = x.shape
        xs = x.reshape(samples * self.groups, self.width, height, width)
        both = torch.cat((xs.mean(3, keepdim=True), xs.mean(2, keepdim=True).mT), 2)
        rows, columns = torch.sigmoid(self.conv1(both)).split_with_sizes((height, width), 2)
        # Not the module itself, which refuses a single 1x1 map though it can norm it.
        first = torch.group_norm(
            xs * rows * columns.mT, self.width, self.norm.weight, self.norm.bias, self.norm.eps
        )
        second = self.conv3(xs)
        seen = _weights(first) @ second.flatten(2) + _weights(second) @ first.flatten(2)
        gate = torch.sigmoid(seen).to(x.dtype).reshape(-1, 1, height, width)
        return (xs * gate).view(x.shape)

    def neutralize(self) -> float:
        """Make both branches 0 and so every gate sigmoid(0), whatever the input; return it."""
        zero(self.conv3, self.norm)
        return 0.5

    def extra_repr(self) -> str:
        return f"{self.channels}, groups={self.groups}"


def _weights(branch: Tensor) -> Tensor:
    """The softmax of the channels' means: `(B, 1, C)`."""
    return torch.softmax(branch.mean((2, 3)), 1).unsqueeze(1)
