"""The equations in plain PyTorch: the specification of every other implementation.

Spatial Group-wise Enhance, arXiv 1905.09646, section 3, with the unbiased deviation and
the eps outside the root of the released models. For each sample and each group of d
channels over n positions, with the vector x_i at position i:

1. g = mean of x_i (the group's global descriptor)
2. c_i = g . x_i (how much position i resembles the whole)
3. t_i = (c_i - mean(c)) / (std(c) + eps), std over n - 1
4. a_i = weight * t_i + bias
5. y_i = x_i * sigmoid(a_i), and with the options activation(y_i + residual_i)

Two options are there for ablations: `unbiased=False` takes std over n, as the paper's text
prints it, and `normalize=False` leaves equation 3 out whole, its subtraction as well as its
division, so that a_i = weight * c_i + bias.

Three departures change nothing in exact arithmetic and keep the digits in fp32 when the
mean is far larger than the deviation: c_i is taken from x_i - g; its mean, then only a
rounding error, is subtracted as well, and so is what that leaves; and g is exact on a
constant map. Where std = 0 (a constant map, or n = 1) t is 0, so that the gate is
sigmoid(bias), and nothing flows back through std itself.

Everything here is differentiable any number of times, traceable and exportable.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from sgekit.ops.layout import Layout


class Normalised(NamedTuple):
    """A split tensor after equations 1 to 3, each entry shaped to broadcast against it."""

    centred: Tensor
    """x - g."""
    t: Tensor
    g: Tensor
    mean: Tensor
    """The mean of the c that is taken from x - g."""
    std: Tensor


def statistics_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def output_dtype(x: Tensor, residual: Tensor | None) -> torch.dtype:
    """The dtype of y: that of x, promoted with the residual's where there is one."""
    return x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)


def degrees_of_freedom(n: int, unbiased: bool = True) -> int:
    """n - 1 (n where not `unbiased`), at least 1: one position has the deviation 0, not 0 / 0."""
    size: object = n
    lost = int(unbiased)
    if isinstance(size, Tensor):  # as sizes are under torch.jit.trace
        return cast(int, (size - lost).clamp(min=1))
    # Not max(): n may be symbolic, and max() would fix its value.
    return cast(int, torch.sym_max(n - lost, 1))


def descriptor(xs: Tensor, layout: Layout) -> Tensor:
    """g in the statistics' dtype; on a constant map exactly its value.

    The mean of equal numbers is rounded, and x - g would not be 0. So where the first and
    the last position are equal and the mean is a rounding error away, it is their value.
    """
    g = xs.mean(layout.positions, keepdim=True, dtype=statistics_dtype(xs))
    # Sums over one position, or over none in an empty map.
    first = layout.corner(xs, 0).to(g.dtype).sum(layout.positions, keepdim=True)
    last = layout.corner(xs, -1).to(g.dtype).sum(layout.positions, keepdim=True)
    offset = (first - g).detach()
    near = offset.abs() <= 8 * torch.finfo(g.dtype).eps * first.abs()
    # Detached: the derivative stays that of the mean.
    return g + torch.where(near & (first == last), offset, 0.0)


def centre(c: Tensor, layout: Layout) -> Tensor:
    """c without its mean, and without the mean that rounding leaves.

    The mean of equal numbers is rounded too; eps magnifies what one subtraction leaves.
    """
    c = c - c.mean(layout.positions, keepdim=True)
    return c - c.mean(layout.positions, keepdim=True)


def normalise(xs: Tensor, layout: Layout, eps: float, unbiased: bool = True) -> Normalised:
    """Equations 1 to 3 on a split tensor in the statistics' dtype."""
    g = descriptor(xs, layout)
    centred = xs - g
    c = (centred * g).sum(layout.channels, keepdim=True)
    mean = c.mean(layout.positions, keepdim=True)
    c = c - mean
    # As in `centre`, with both means kept.
    rest = c.mean(layout.positions, keepdim=True)
    c = c - rest
    freedom = degrees_of_freedom(layout.count(xs), unbiased)
    var = c.square().sum(layout.positions, keepdim=True) / freedom
    # The root of a stand-in where var = 0: its own slope there is infinite.
    std = torch.where(var > 0, torch.where(var > 0, var, 1.0).sqrt(), 0.0)
    return Normalised(centred, c / (std + eps), g, mean + rest, std)


def score(xs: Tensor, layout: Layout, eps: float, normalize: bool, unbiased: bool) -> Tensor:
    """What equation 4 scales: t, or c as equations 1 and 2 leave it where not `normalize`."""
    if normalize:
        return normalise(xs, layout, eps, unbiased).t
    return (xs * xs.mean(layout.positions, keepdim=True)).sum(layout.channels, keepdim=True)


def gate_of(t: Tensor, weight: Tensor, bias: Tensor, layout: Layout) -> Tensor:
    """Equation 4 and the sigmoid."""
    return torch.sigmoid(
        layout.per_group(weight.to(t.dtype)) * t + layout.per_group(bias.to(t.dtype))
    )


def gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    channel_dim: int,
    normalize: bool = True,
    unbiased: bool = True,
) -> Tensor:
    """sigmoid(a), the attention map, as `(B, G, *spatial)` in the statistics' dtype."""
    layout = Layout.of(x, weight.shape[0], channel_dim)
    t = score(layout.split(x.to(statistics_dtype(x))), layout, eps, normalize, unbiased)
    s = gate_of(t, weight, bias, layout).squeeze(layout.channels)
    return s if channel_dim == 1 else s.movedim(-1, 1)


def enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    eps: float,
    channel_dim: int,
    activation: str | None,
    normalize: bool = True,
    unbiased: bool = True,
) -> Tensor:
    """Equations 1 to 5; arguments as in `sgekit.spatial_group_enhance`, already validated."""
    layout = Layout.of(x, weight.shape[0], channel_dim)
    xs = layout.split(x.to(statistics_dtype(x)))
    t = score(xs, layout, eps, normalize, unbiased)
    y = layout.merge(xs * gate_of(t, weight, bias, layout))
    if residual is not None:
        y = y + residual
    if activation == "relu":
        y = torch.relu(y)
    return y.to(output_dtype(x, residual))
