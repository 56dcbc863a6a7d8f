"""Shuffle Attention as a layer."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.modules.groups import DEFAULT_GROUPS, resolve_groups


class ShuffleAttention(nn.Module):
    """Scales half of every group's channels by their means, half by their positions, and shuffles.

    From "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", arXiv 2102.00240,
    section 3: of each of G groups of channels the first half is scaled by equation 2,
    sigmoid(w1 * mean + b1), the second by equation 3, sigmoid(w2 * GN(x) + b2), GN taking
    every channel alone; then the channels of both halves of all are shuffled, so that channel
    2 k + h of the result is channel k + h C/2 of what was. The groups share their parameters,
    3 C / G in all. G = 64; the weights start at 0 and the biases at 1, as in the code of the
    paper's authors.

    Takes and returns `(B, channels, *spatial)` with 1 to 3 spatial dimensions. Raises
    InputError where `channels` is odd or `groups` doesn't divide half of them;
    `groups="auto"` is the number nearest to 64 that does.
    """

    dims: ClassVar[tuple[int, ...] | None] = (1, 2, 3)

    def __init__(
        self,
        channels: int,
        *,
        groups: int | Literal["auto"] = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise InputError(f"sa halves the channels; {channels} channels can't be halved")
        try:
            self.groups = resolve_groups(channels // 2, groups, DEFAULT_GROUPS)
        except InputError as error:
            raise InputError(f"sa halves the {channels} channels first: {error}") from None
        self.channels = channels
        self.width = channels // (2 * self.groups)
        self.channel_weight = nn.Parameter(torch.zeros(self.width, device=device, dtype=dtype))
        self.channel_bias = nn.Parameter(torch.ones(self.width, device=device, dtype=dtype))
        self.position_weight = nn.Parameter(torch.zeros(self.width, device=device, dtype=dtype))
        self.position_bias = nn.Parameter(torch.ones(self.width, device=device, dtype=dtype))
        self.norm = nn.GroupNorm(self.width, self.width, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        samples, _, *spatial = x.shape
        # (B, G, C/2G, *spatial) each.
        first, second = x.reshape(samples, self.groups, 2, self.width, *spatial).unbind(2)

        def each(parameter: Tensor) -> Tensor:
            return parameter.reshape(-1, *[1] * (x.dim() - 2))

        mean = first.mean(tuple(range(3, first.dim())), keepdim=True)
        first_gate = each(self.channel_weight) * mean + each(self.channel_bias)
        # Not the module itself, which refuses a single 1x1 map though it can norm it.
        normed = torch.group_norm(
            second.flatten(0, 1), self.width, self.norm.weight, self.norm.bias, self.norm.eps
        ).view(second.shape)
        second_gate = each(self.position_weight) * normed + each(self.position_bias)
        first = first * torch.sigmoid(first_gate).to(x.dtype)
        second = second * torch.sigmoid(second_gate).to(x.dtype)
        halves = torch.cat((first, second), 2).reshape(samples, 2, self.channels // 2, *spatial)
        return halves.transpose(1, 2).flatten(1, 2)

    def neutralize(self) -> float:
        """Raises InputError: whatever the parameters, the channels are shuffled."""
        raise InputError(
            "sa shuffles the channels, so it can't leave a trained network's function as it is; "
            "insert it with preserve=False and train"
        )

    def extra_repr(self) -> str:
        return f"{self.channels}, groups={self.groups}"
