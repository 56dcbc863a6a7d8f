"""The equations without autograd, in as little memory as PyTorch's own kernels allow.

Same results as `reference` and `derivatives`, whose docstrings state them; what runs
eagerly wherever no fused kernel does. Two tensors of the size of x are alive at a time
beside the results.
"""

import torch
from torch import Tensor

from sgekit.ops.layout import Layout
from sgekit.ops.reference import (
    degrees_of_freedom,
    descriptor,
    gate_of,
    output_dtype,
    statistics_dtype,
)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    eps: float,
    channel_dim: int,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, and the statistics that `backward` takes: g `(B, G, d)`, mean and std of c `(B, G)`."""
    layout = Layout.of(x, weight.shape[0], channel_dim)
    dtype = statistics_dtype(x)
    xs = layout.split(x)
    g = descriptor(xs, layout)
    c = torch.sub(xs, g).mul_(g).sum(layout.channels, keepdim=True)
    mean = c.mean(layout.positions, keepdim=True)
    c -= mean
    rest = c.mean(layout.positions, keepdim=True)
    c -= rest
    mean += rest
    var = c.square().sum(layout.positions, keepdim=True)
    std = var.div_(degrees_of_freedom(layout.count(xs))).sqrt_()
    s = gate_of(c.div_(std + eps), weight, bias, layout)

    out = output_dtype(x, residual)
    y = torch.empty_like(x, dtype=out)
    # One rounding: the sum and the ReLU are taken in the statistics' dtype.
    wide = torch.promote_types(dtype, out)
    work = y if out == wide else torch.empty_like(x, dtype=wide)
    torch.mul(xs, s, out=layout.split(work))
    if residual is not None:
        work += residual
    if activation == "relu":
        work.relu_()
    if work is not y:
        y.copy_(work)
    return y, layout.pack(g), layout.pack(mean), layout.pack(std)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    g: Tensor,
    mean: Tensor,
    std: Tensor,
    y: Tensor | None,
    eps: float,
    channel_dim: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx; dz, what arrives before the ReLU; dweight and dbias of each sample, `(B, G)`.

    `y` is given after a ReLU; without it dz is dy and comes back empty.
    """
    layout = Layout.of(x, weight.shape[0], channel_dim)
    dtype = statistics_dtype(x)
    if y is None:
        dz, source = dy.new_empty(0), dy
    else:
        # As torch's ReLU, through which the gradient of a NaN passes.
        dz = torch.empty_like(y, dtype=dy.dtype).copy_(dy)
        source = dz.masked_fill_(y <= 0, 0)
    if source.dtype == torch.float64:  # from a float64 residual, beside narrower x
        source = source.to(dtype)
    xs, dzs = layout.split(x), layout.split(source)
    g, mean, std = layout.unpack(g), layout.unpack(mean), layout.unpack(std)
    deviation = std + eps

    centred = torch.sub(xs, g)
    t = (centred * g).sum(layout.channels, keepdim=True).sub_(mean).div_(deviation)
    s = gate_of(t, weight, bias, layout)
    da = (xs.to(dtype) * dzs).sum(layout.channels, keepdim=True).mul_(s).mul_(1 - s)
    dbias = da.sum(layout.positions, keepdim=True)
    da -= dbias / layout.count(xs)
    da -= da.mean(layout.positions, keepdim=True)
    dweight = (da * t).sum(layout.positions, keepdim=True)
    freedom = degrees_of_freedom(layout.count(xs))
    kappa = torch.where(std > 0, dweight * deviation / (freedom * std), 0.0)
    dc = da.sub_(t.mul_(kappa))
    dc.mul_(layout.per_group(weight.to(dtype)) / deviation)
    h = centred.mul_(dc).mean(layout.positions, keepdim=True)
    del centred

    dx = torch.empty_like(x)
    work = dx if dx.dtype == dtype else torch.empty_like(x, dtype=dtype)
    torch.mul(dzs, s, out=layout.split(work))
    layout.split(work).addcmul_(dc, g).add_(h)
    if work is not dx:
        dx.copy_(work)
    return dx, dz, layout.pack(dweight), layout.pack(dbias)
