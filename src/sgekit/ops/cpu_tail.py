"""Fused CPU kernels of a residual block's tail: batch norm, gate, sum and ReLU in one.

    z = weight * invstd * (x - mean) + bias,  y = relu(SGE(z) + residual)

z is never written, and backward takes x, y and statistics alone. The norm's statistics are in
float64: what float32 rounds off a mean is, where the mean is a thousand deviations, more than
float32 rounds off z. z itself is taken from x less its sample's mean, which keeps the digits.

`moments` reads x once; `forward` reads x from memory and once more from the cache, and writes
y; `backward` reads x, dy and y and writes dz, then reads x and dz and writes dx. In between it
sums the norm's gradients, on which dx depends where the statistics are those of the batch.
Every map has the dtype of x, one of `cpu_library.DTYPES`.
"""

import math
from functools import partial

import torch
from torch import Tensor

from sgekit.ops import cpu_library
from sgekit.ops.cpu import FLOAT, _flat, _View, _view
from sgekit.ops.cpu_library import DTYPES, ISAS, NONE, NativeCall, Norm


def moments(x: Tensor, channel_dim: int, *, isa: str = "best") -> tuple[Tensor, Tensor, Tensor]:
    """The means `(B, C)` of x, and its mean and biased variance `(C,)` over all else. float64."""
    samples, channels = x.shape[0], x.shape[channel_dim]
    means, mean, var = _wide(samples, channels), _wide(channels), _wide(channels)
    if x.numel() == 0:
        return means.zero_(), mean.zero_(), var.zero_()
    view = _view(x.shape, x.stride(), channel_dim)
    x = view.readable(x)
    norm = Norm(mean=mean.data_ptr(), var=var.data_ptr(), means=means.data_ptr())
    # Of no meaning here, but an item of work: some rows, that there be many items.
    groups = channels // math.gcd(channels, 32)
    cpu_library.run("moments", _call(view, x, groups, 0.0, False, isa)._replace(norm=norm))
    return means, mean, var


def forward(
    x: Tensor,
    norm_mean: Tensor,
    norm_invstd: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    means: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    eps: float,
    channel_dim: int,
    activation: str | None,
    *,
    y: Tensor | None = None,
    isa: str = "best",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the means `(B, C)` of x, and the mean and std `(B, G)` of c.

    Without `means` they are taken here. The result is written to `y` where it is given; it may
    be x or the residual itself, and shares memory with neither in another way.
    """
    samples, channels, groups = x.shape[0], x.shape[channel_dim], weight.shape[0]
    if y is None:
        y = torch.empty_like(x)
    make = partial(torch.empty if x.numel() else torch.zeros, **FLOAT)
    mean, std = make(samples, groups), make(samples, groups)
    given = means is not None
    means = _wide(samples, channels) if means is None else means.double().contiguous()
    if x.numel() == 0:
        return y, means if given else means.zero_(), mean, std
    view = _view(x.shape, x.stride(), channel_dim)
    x, weight, bias = view.readable(x), _flat(weight), _flat(bias)
    written = view.writable(y)
    kept = None if residual is None else view.readable(residual)
    # Held until the kernels have run, as everything they read is.
    held = _Held(norm_mean, norm_invstd, norm_weight, norm_bias)
    call = _call(view, x, groups, eps, activation == "relu", isa)
    call = call._replace(
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        mean=mean.data_ptr(),
        std=std.data_ptr(),
        residual=NONE if kept is None else view.map(kept),
        y=view.map(written),
        norm=held.norm()._replace(means=means.data_ptr(), given=given),
    )
    cpu_library.run("tail_forward", call)
    if written is not y:
        y.copy_(written)
    return y, means, mean, std


def backward(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    norm_mean: Tensor,
    norm_invstd: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    means: Tensor,
    mean: Tensor,
    std: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    channel_dim: int,
    batch: bool,
    *,
    isa: str = "best",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dx; dz, what arrives before the ReLU; the norm's gradients `(C,)`; SGE's `(B, G)`.

    `y` is the result after a ReLU; without it dz is dy and comes back empty. `batch` says that
    the norm's mean and deviation are those of x; without it they are constants.
    """
    channels, groups = x.shape[channel_dim], weight.shape[0]
    dx = torch.empty_like(x)
    dz = dy.new_empty(0) if y is None else torch.empty_like(y)
    dnorm_weight, dnorm_bias = torch.zeros(channels, **FLOAT), torch.zeros(channels, **FLOAT)
    dweight, dbias = torch.zeros_like(mean), torch.zeros_like(mean)
    if x.numel() == 0:
        return dx, dz, dnorm_weight, dnorm_bias, dweight, dbias
    view = _view(x.shape, x.stride(), channel_dim)
    x, dy = view.readable(x), view.readable(dy)
    dx_written, dz_written = view.writable(dx), dz
    weight, bias, means = _flat(weight), _flat(bias), means.double().contiguous()
    mean, std = mean.contiguous(), std.contiguous()
    held = _Held(norm_mean, norm_invstd, norm_weight, norm_bias)
    call = _call(view, x, groups, eps, y is not None, isa)
    call = call._replace(
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        mean=mean.data_ptr(),
        std=std.data_ptr(),
        dy=view.map(dy),
        dx=view.map(dx_written),
        dweight=dweight.data_ptr(),
        dbias=dbias.data_ptr(),
        norm=held.norm()._replace(
            means=means.data_ptr(),
            dweight=dnorm_weight.data_ptr(),
            dbias=dnorm_bias.data_ptr(),
            given=True,
            batch=batch,
        ),
    )
    after = None if y is None else view.readable(y)
    if after is not None:
        dz_written = view.writable(dz)
        call = call._replace(y=view.map(after), dz=view.map(dz_written))
    cpu_library.run("tail_backward", call)
    if dx_written is not dx:
        dx.copy_(dx_written)
    if dz_written is not dz:
        dz.copy_(dz_written)
    return dx, dz, dnorm_weight, dnorm_bias, dweight, dbias


class _Held:
    """The norm's parameters as the kernels read them, alive as long as this is."""

    def __init__(
        self, mean: Tensor, invstd: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> None:
        self.mean, self.invstd = mean.double().contiguous(), invstd.double().contiguous()
        self.weight = None if weight is None else _flat(weight)
        self.bias = None if bias is None else _flat(bias)

    def norm(self) -> Norm:
        return Norm(
            mean=self.mean.data_ptr(),
            invstd=self.invstd.data_ptr(),
            weight=0 if self.weight is None else self.weight.data_ptr(),
            bias=0 if self.bias is None else self.bias.data_ptr(),
        )


def _wide(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu")


def _call(view: _View, x: Tensor, groups: int, eps: float, relu: bool, isa: str) -> NativeCall:
    samples, channels = x.shape[0], x.shape[view.axis]
    return NativeCall(
        view.layout, DTYPES[x.dtype], ISAS.index(isa), cpu_library.threads(),
        samples, groups, channels // groups, x.numel() // (samples * channels),
        eps, relu, x=view.map(x),
    )  # fmt: skip
