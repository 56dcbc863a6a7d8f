"""The public operation: validate, choose an implementation, call it."""

from torch import Tensor

from sgekit.errors import InputError
from sgekit.ops import reference

_CHANNEL_DIMS = (1, -1)
_ACTIVATIONS = (None, "relu")


def spatial_group_enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    channel_dim: int = 1,
    residual: Tensor | None = None,
    activation: str | None = None,
    impl: str = "auto",
) -> Tensor:
    """SGE."""
    validate(x, weight, bias, channel_dim, residual, activation)
    return reference.enhance(x, weight, bias, residual, eps, channel_dim, activation)


def spatial_group_gate(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, channel_dim: int = 1
) -> Tensor:
    """The attention map that `spatial_group_enhance` multiplies x with, `(B, G, *spatial)`.

    In the dtype of the statistics: float64 for float64, float32 for everything else.
    Differentiable, always by the plain formula. Raises as `spatial_group_enhance` does.
    """
    validate(x, weight, bias, channel_dim)
    return reference.gate(x, weight, bias, eps, channel_dim)


def validate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    channel_dim: int,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> None:
    """Raise InputError or TypeError, naming the argument, for anything the operation can't take."""
    for name, tensor in (
        ("x", x),
        ("weight", weight),
        ("bias", bias),
        ("residual", residual),
    ):
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(
                f"{name} must be a floating-point tensor, not {tensor.dtype}"
            )
    if channel_dim not in _CHANNEL_DIMS:
        raise InputError(
            f"channel_dim must be 1 or -1 (channels last), not {channel_dim}"
        )
    if activation not in _ACTIVATIONS:
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
    if groups == 0 or channels % groups != 0:
        raise InputError(
            f"{groups} groups do not divide the {channels} channels of x (shape {tuple(x.shape)}, "
            f"channel_dim {channel_dim}); pass weight and bias of a length that does"
        )
    if residual is not None and residual.shape != x.shape:
        raise InputError(
            f"residual must have the shape of x, {tuple(x.shape)}, not {tuple(residual.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias), ("residual", residual)):
        if tensor is not None and tensor.device != x.device:
            raise InputError(
                f"{name} is on {tensor.device} and x on {x.device}; move one of them"
            )
