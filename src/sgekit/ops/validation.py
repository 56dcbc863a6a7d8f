"""What the operation accepts, and the messages for what it doesn't."""

import math

from torch import Tensor

from sgekit.errors import InputError


def validate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    channel_dim: int,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> None:
    """Raise InputError or TypeError, naming the argument, for anything the operation can't take."""
    tensors = {"x": x, "weight": weight, "bias": bias}
    if residual is not None:
        tensors["residual"] = residual
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, not {tensor.dtype}")
        if tensor.device != x.device:
            raise InputError(f"{name} is on {tensor.device} and x on {x.device}; move one of them")
    validate_eps(eps)
    if channel_dim not in (1, -1):
        raise InputError(f"channel_dim must be 1 or -1 (channels last), not {channel_dim}")
    if activation not in (None, "relu"):
        raise InputError(f'activation must be None or "relu", not {activation!r}')
    if x.dim() < 3:
        wanted = "(B, C, *spatial)" if channel_dim == 1 else "(B, *spatial, C)"
        raise InputError(
            f"x must be {wanted} with at least one spatial dimension; its shape is {tuple(x.shape)}"
        )
    if weight.dim() != 1 or weight.shape != bias.shape:
        raise InputError(
            "weight and bias must both be (G,), one number a group; "
            f"their shapes are {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    channels, groups = x.shape[channel_dim], weight.shape[0]
    if groups == 0 or channels == 0 or channels % groups != 0:
        raise InputError(
            f"{groups} groups do not divide the {channels} channels of x (shape {tuple(x.shape)}, "
            f"channel_dim {channel_dim}); pass a weight and a bias whose length does"
        )
    if residual is not None and residual.shape != x.shape:
        raise InputError(
            f"residual must have the shape of x, {tuple(x.shape)}, not {tuple(residual.shape)}"
        )


LEAST_EPS = 2.0**-126
"""The smallest normal float32, in which statistics are taken."""


def validate_eps(eps: float) -> None:
    """Raise InputError for anything but a number above 0: without it a constant map is 0 by 0."""
    if not 0 < eps < math.inf:
        raise InputError(f"eps must be a number above 0, not {eps}; usual is 1e-5")
    if eps < LEAST_EPS:
        raise InputError(f"eps {eps} is 0 in float32, from {LEAST_EPS:.1e} on it is not")


def validate_switches(**switches: bool) -> None:
    """Raise TypeError, naming the option, for anything but True and False."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {value!r}")
