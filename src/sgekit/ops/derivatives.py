"""Gradient and tangent of the operation in plain PyTorch, themselves differentiable.

With D = std + eps, s the gate and dz what arrives at x * s:

    da = (dz . x) * s * (1 - s)
    kappa = sum(da * t) * D / ((n - 1) * std), 0 where std = 0
    dc = (weight / D) * (da - mean(da) - kappa * t)
    dx = dz * s + dc * g + mean(dc_j * (x_j - g) over j)
    dweight = sum(da * t), dbias = sum(da)

dc sums to 0, so that x_j and x_j - g give the same last term of dx; the latter keeps the
digits. t sums to 0 as well, and sum(da * t) is taken from da - mean(da). The eager backward
computes the same from saved statistics; this one serves double backward and torch.func,
for which the statistics must stay functions of x.
"""

import torch
from torch import Tensor

from sgekit.ops.layout import Layout
from sgekit.ops.reference import (
    centre,
    degrees_of_freedom,
    gate_of,
    normalise,
    statistics_dtype,
)


def gradients(
    dz: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, channel_dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """dx in x's dtype; dweight and dbias, `(G,)`, in the dtypes of weight and bias."""
    layout = Layout.of(x, weight.shape[0], channel_dim)
    dtype = statistics_dtype(x)
    xs, dzs = layout.split(x.to(dtype)), layout.split(dz.to(dtype))
    centred, t, g, _, std = normalise(xs, layout, eps)
    s = gate_of(t, weight, bias, layout)
    da = (dzs * xs).sum(layout.channels, keepdim=True) * s * (1 - s)
    dbias = layout.pack(da.sum(layout.positions, keepdim=True)).sum(0)
    da = centre(da, layout)
    dt = (da * t).sum(layout.positions, keepdim=True)
    some = std > 0
    freedom = degrees_of_freedom(layout.count(xs))
    # Divided by a stand-in where std = 0, so that no infinity enters a second derivative.
    kappa = torch.where(some, dt * (std + eps) / (freedom * torch.where(some, std, 1.0)), 0.0)
    slope = layout.per_group(weight.to(dtype)) / (std + eps)
    dc = slope * (da - kappa * t)
    dx = dzs * s + dc * g + (dc * centred).mean(layout.positions, keepdim=True)
    dweight = layout.pack(dt).sum(0)
    return layout.merge(dx).to(x.dtype), dweight.to(weight.dtype), dbias.to(bias.dtype)


def tangent(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    eps: float,
    channel_dim: int,
) -> Tensor:
    """The tangent of x * s, shaped as x and in the statistics' dtype; None is a zero tangent."""
    layout = Layout.of(x, weight.shape[0], channel_dim)
    dtype = statistics_dtype(x)
    xs = layout.split(x.to(dtype))
    centred, t, g, _, std = normalise(xs, layout, eps)
    s = gate_of(t, weight, bias, layout)
    a_tangent = torch.zeros_like(t)
    if weight_tangent is not None:
        a_tangent = a_tangent + layout.per_group(weight_tangent.to(dtype)) * t
    if bias_tangent is not None:
        a_tangent = a_tangent + layout.per_group(bias_tangent.to(dtype))
    if x_tangent is None:
        return layout.merge(xs * s * (1 - s) * a_tangent)
    v = layout.split(x_tangent.to(dtype))
    v_mean = v.mean(layout.positions, keepdim=True)
    c_tangent = ((v - v_mean) * g + centred * v_mean).sum(layout.channels, keepdim=True)
    c_tangent = centre(c_tangent, layout)
    some = std > 0
    along = (t * c_tangent).sum(layout.positions, keepdim=True) * (std + eps)
    freedom = degrees_of_freedom(layout.count(xs))
    std_tangent = torch.where(some, along / (freedom * torch.where(some, std, 1.0)), 0.0)
    t_tangent = (c_tangent - t * std_tangent) / (std + eps)
    a_tangent = a_tangent + layout.per_group(weight.to(dtype)) * t_tangent
    return layout.merge(v * s + xs * s * (1 - s) * a_tangent)
