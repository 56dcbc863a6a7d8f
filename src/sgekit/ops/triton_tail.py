"""The kernels of `triton` around a batch norm: the counterpart of `cpu_tail`.

Forward reads x for the norm's statistics and once more to write y. Backward reads dy, x and y and
writes dz, then reads dz and x and writes dx.
"""

import torch
from torch import Tensor

from sgekit.ops import triton_steps
from sgekit.ops.triton_maps import Maps
from sgekit.ops.triton_statistics import Norm, means_of


def moments(x: Tensor, channel_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The means `(B, C)` of x, and its mean and biased variance `(C,)` over all else. float64."""
    if x.numel() == 0:
        zeros = x.new_zeros((x.shape[0], x.shape[channel_dim]), dtype=torch.float64)
        per_channel = x.new_zeros((x.shape[channel_dim],), dtype=torch.float64)
        return zeros, per_channel, per_channel.clone()
    maps = Maps.of(x, channel_dim)
    means, squares = means_of(maps.readable(x), maps)
    var, mean = torch.var_mean(means, 0, correction=0)
    within = squares.sum(0, dtype=torch.float64)
    return means, mean, var.add_(within, alpha=1 / (maps.samples * maps.n))


def forward(
    x: Tensor, norm_mean: Tensor, norm_invstd: Tensor, norm_weight: Tensor | None,
    norm_bias: Tensor | None, means: Tensor | None, weight: Tensor, bias: Tensor,
    residual: Tensor | None, eps: float, channel_dim: int, activation: str | None, *,
    y: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `cpu_tail.forward`."""
    samples, channels, groups = x.shape[0], x.shape[channel_dim], weight.shape[0]
    if y is None:
        y = torch.empty_like(x)
    mean, std = (x.new_empty((samples, groups), dtype=torch.float32) for _ in range(2))
    given = means is not None
    if means is None:
        means = x.new_empty((samples, channels), dtype=torch.float64)
    means = means.double().contiguous()
    if x.numel() == 0:
        return y, means if given else means.zero_(), mean.zero_(), std.zero_()
    maps = Maps.of(x, channel_dim)
    xs = maps.readable(x)
    kept = None if residual is None else maps.readable(residual)
    written = maps.writable(y)
    norm = _norm(norm_mean, norm_invstd, norm_weight, norm_bias)
    triton_steps.enhance(
        maps, xs, written, kept, weight, bias, None, mean, std, means, norm, given, eps,
        activation,
    )  # fmt: skip
    return maps.settle(y, written), means, mean, std


def backward(
    dy: Tensor, x: Tensor, y: Tensor | None, norm_mean: Tensor, norm_invstd: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None, means: Tensor, mean: Tensor,
    std: Tensor, weight: Tensor, bias: Tensor, eps: float, channel_dim: int, batch: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `cpu_tail.backward`."""
    maps = Maps.of(x, channel_dim)
    dx = torch.empty_like(x)
    dx_written = maps.writable(dx)
    dweight, dbias = torch.empty_like(mean), torch.empty_like(mean)
    dz = dz_written = dy.new_empty(0)
    if y is not None:
        dz = torch.empty_like(y)
        dz_written = maps.writable(dz)
    if x.numel() == 0:
        none = x.new_zeros((maps.channels,), dtype=torch.float32)
        return dx, dz, none, none.clone(), dweight.zero_(), dbias.zero_()
    after = None if y is None else maps.readable(y)
    to_dz = None if y is None else dz_written
    of_norm = triton_steps.backward(
        maps, maps.readable(dy), maps.readable(x), after, weight.contiguous(),
        bias.contiguous(), None, mean.contiguous(), std.contiguous(),
        means.double().contiguous(), _norm(norm_mean, norm_invstd, norm_weight, norm_bias),
        to_dz, dx_written, dweight, dbias, eps, batch,
    )  # fmt: skip
    if of_norm is None:
        raise AssertionError("a norm has gradients")
    maps.settle(dx, dx_written)
    if y is not None:
        maps.settle(dz, dz_written)
    return dx, dz, *of_norm, dweight, dbias


def _norm(mean: Tensor, invstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> Norm:
    return Norm(
        mean.double().contiguous(),
        invstd.double().contiguous(),
        None if weight is None else weight.contiguous(),
        None if bias is None else bias.contiguous(),
    )
