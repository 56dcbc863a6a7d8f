"""Spatial Group-wise Enhance as a layer."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.modules.groups import DEFAULT_GROUPS, LEAST_CHANNELS, divisors, resolve_groups
from sgekit.ops.api import spatial_group_enhance, spatial_group_gate
from sgekit.ops.validation import validate_eps, validate_switches


class SpatialGroupEnhance(nn.Module):
    """Scales every position of every group of channels by how much it resembles the group's mean.

    From "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional
    Networks", arXiv 1905.09646, section 3; `sgekit.ops.reference` states the equations.
    Two parameters a group: `weight` starts at 0 and `bias` at 1, so that every gate starts
    at sigmoid(1) = 0.731 and the network first learns without attention.

    Takes and returns `(B, channels, *spatial)` with at least one spatial dimension, or
    `(B, *spatial, channels)` with `channel_dim=-1`. On a 1x1 or constant map the gate is
    sigmoid(bias). Raises InputError where `groups` doesn't divide `channels`;
    `groups="auto"` takes the divisor nearest to 64 that leaves four
    channels a group. `group_channels` sets the channels of a
    group instead; `groups` must then be left at 64, be "auto" or mean the same.

    The rest serves ablations: other starts of the parameters, no normalisation (equation 3
    is left out whole) and the deviation over n instead of n - 1.

    State saved as `(1, G, 1, 1)`, as the released models have it, loads too.
    """

    placement: ClassVar[str] = "norm"
    dims: ClassVar[tuple[int, ...] | None] = None

    def __init__(
        self,
        channels: int,
        groups: int | Literal["auto"] = DEFAULT_GROUPS,
        eps: float = 1e-5,
        channel_dim: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        group_channels: int | None = None,
        weight_init: float = 0.0,
        bias_init: float = 1.0,
        normalize: bool = True,
        unbiased: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("weight_init", weight_init), ("bias_init", bias_init)):
            if not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, not {value}")
        validate_eps(eps)
        validate_switches(normalize=normalize, unbiased=unbiased)
        if group_channels is not None:
            groups = _groups_of(channels, group_channels, groups)
        self.channels = channels
        self.groups = resolve_groups(channels, groups, least=LEAST_CHANNELS)
        self.eps = eps
        self.channel_dim = channel_dim
        self.weight_init = weight_init
        self.bias_init = bias_init
        self.normalize = normalize
        self.unbiased = unbiased
        self.weight = nn.Parameter(torch.empty(self.groups, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.groups, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """`weight_init` and `bias_init`: unless told otherwise 0 and 1, the paper's start."""
        nn.init.constant_(self.weight, self.weight_init)
        nn.init.constant_(self.bias, self.bias_init)

    def neutralize(self) -> float:
        """Make every gate one constant for now, whatever the input; returns that constant.

        Where all weights are 0 and all biases equal, as at the start, nothing is changed.
        Else the weights become 0 and the biases `bias_init`. The weights' gradients are those
        of a fresh layer, so training moves it on from there.
        """
        weight, bias = self.weight.detach(), self.bias.detach()
        # A meta tensor holds no numbers to look at.
        flat = not bias.is_meta and bool((weight == 0).all() and (bias == bias[0]).all())
        if not flat:
            weight.zero_()
            bias.fill_(self.bias_init)
        constant = bias[0] if flat else torch.tensor(self.bias_init, dtype=bias.dtype)
        return float(constant.double().sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return spatial_group_enhance(
            x,
            self.weight,
            self.bias,
            self.eps,
            self.channel_dim,
            normalize=self.normalize,
            unbiased=self.unbiased,
        )

    def gate(self, x: Tensor) -> Tensor:
        """The attention map, `(B, G, *spatial)` whatever `channel_dim` is, between 0 and 1.

        In float32 for half-precision x. Differentiable.
        """
        return spatial_group_gate(
            x,
            self.weight,
            self.bias,
            self.eps,
            self.channel_dim,
            normalize=self.normalize,
            unbiased=self.unbiased,
        )

    def extra_repr(self) -> str:
        usual = {
            "channel_dim": 1,
            "weight_init": 0.0,
            "bias_init": 1.0,
            "normalize": True,
            "unbiased": True,
        }
        unusual = "".join(
            f", {name}={getattr(self, name)}"
            for name, value in usual.items()
            if getattr(self, name) != value
        )
        return f"{self.channels}, groups={self.groups}, eps={self.eps}{unusual}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("weight", "bias"):
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor) and value.shape == (1, self.groups, 1, 1):
                state_dict[prefix + name] = value.reshape(self.groups)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _groups_of(channels: int, group_channels: int, groups: int | Literal["auto"]) -> int:
    """How many groups of `group_channels`; `groups` may be the default, "auto" or the same."""
    if isinstance(group_channels, bool) or not isinstance(group_channels, int):
        raise TypeError(f"group_channels must be a whole number, not {group_channels!r}")
    if group_channels < 1 or channels % group_channels != 0:
        near = sorted(divisors(channels), key=lambda k: abs(k - group_channels))[:8]
        raise InputError(
            f"{channels} channels do not split into groups of {group_channels}; "
            f"group_channels may be {', '.join(map(str, sorted(near)))}"
        )
    resolved = channels // group_channels
    if groups not in (DEFAULT_GROUPS, "auto", resolved):
        raise InputError(
            f"groups {groups!r} contradicts group_channels {group_channels}, which makes "
            f"{resolved} groups of {channels} channels; give one of the two"
        )
    return resolved
