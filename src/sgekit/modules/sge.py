"""Spatial Group-wise Enhance as a layer."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sgekit.modules.groups import DEFAULT_GROUPS, resolve_groups
from sgekit.ops.api import spatial_group_enhance, spatial_group_gate


class SpatialGroupEnhance(nn.Module):
    """Scales every position of every group of channels by how much it resembles the group's mean.

    From "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional
    Networks", arXiv 1905.09646, section 3; `sgekit.ops.reference` states the equations.
    Two parameters a group: `weight` starts at 0 and `bias` at 1, so that every gate starts
    at sigmoid(1) = 0.731 and the network first learns without attention.

    Takes and returns `(B, channels, *spatial)` with at least one spatial dimension, or
    `(B, *spatial, channels)` with `channel_dim=-1`. On a 1x1 or constant map the gate is
    sigmoid(bias). Raises InputError where `groups` doesn't divide `channels`;
    `groups="auto"` takes the divisor nearest to 64.

    State saved as `(1, G, 1, 1)`, as the released models have it, loads too.
    """

    def __init__(
        self,
        channels: int,
        groups: int | Literal["auto"] = DEFAULT_GROUPS,
        eps: float = 1e-5,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.groups = resolve_groups(channels, groups)
        self.eps = eps
        self.channel_dim = channel_dim
        self.weight = nn.Parameter(torch.empty(self.groups, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.groups, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight 0 and bias 1, the paper's start."""
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return spatial_group_enhance(x, self.weight, self.bias, self.eps, self.channel_dim)

    def gate(self, x: Tensor) -> Tensor:
        """The attention map, `(B, G, *spatial)` whatever `channel_dim` is, between 0 and 1.

        In float32 for half-precision x. Differentiable.
        """
        return spatial_group_gate(x, self.weight, self.bias, self.eps, self.channel_dim)

    def extra_repr(self) -> str:
        text = f"{self.channels}, groups={self.groups}, eps={self.eps}"
        return text if self.channel_dim == 1 else f"{text}, channel_dim={self.channel_dim}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("weight", "bias"):
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor) and value.shape == (1, self.groups, 1, 1):
                state_dict[prefix + name] = value.reshape(self.groups)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
