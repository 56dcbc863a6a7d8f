"""The residual tail as PyTorch knows it: schemas, fake kernels, FLOPs.

Like `library`, for the operations of `tail`. Fused kernels alone run them; where there are
none, `tail` composes the same function of others.
"""

import importlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sgekit.ops.flops import operations

IMPLEMENTATIONS = {"cpu": "sgekit.ops.cpu_tail", "triton": "sgekit.ops.triton_tail"}
"""Modules of fused kernels, by the name of the implementation; the first that can run does."""

torch.library.define(
    "sgekit::batch_moments",
    "(Tensor x, int channel_dim, str impl) -> (Tensor means, Tensor mean, Tensor var)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sgekit::norm_enhance",
    "(Tensor x, Tensor norm_mean, Tensor norm_invstd, Tensor? norm_weight, Tensor? norm_bias, "
    "Tensor? means, Tensor weight, Tensor bias, Tensor? residual, float eps, int channel_dim, "
    "str? activation, str impl) -> (Tensor y, Tensor means, Tensor mean, Tensor std)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sgekit::norm_enhance_",
    "(Tensor(a!) x, Tensor norm_mean, Tensor norm_invstd, Tensor? norm_weight, "
    "Tensor? norm_bias, Tensor weight, Tensor bias, Tensor? residual, float eps, "
    "int channel_dim, str? activation, str impl) -> ()",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sgekit::norm_enhance_backward",
    "(Tensor dy, Tensor x, Tensor? y, Tensor norm_mean, Tensor norm_invstd, "
    "Tensor? norm_weight, Tensor? norm_bias, Tensor means, Tensor mean, Tensor std, "
    "Tensor weight, Tensor bias, float eps, int channel_dim, bool batch, str impl) "
    "-> (Tensor dx, Tensor dz, Tensor dnorm_weight, Tensor dnorm_bias, Tensor dweight, "
    "Tensor dbias)",
    tags=torch.Tag.pt2_compliant_tag,
)
batch_moments = torch.ops.sgekit.batch_moments.default
"""The means of each sample's channels (B, C); mean and biased variance of each channel (C).
All in float64."""
norm_enhance = torch.ops.sgekit.norm_enhance.default
"""activation(SGE(norm(x)) + residual), and the statistics that the backward takes.

`means` are those of `batch_moments`, or None where nobody has taken them yet; they come back
in the latter case alone."""
norm_enhance_ = torch.ops.sgekit.norm_enhance_.default
"""The same, written over x."""
norm_enhance_backward = torch.ops.sgekit.norm_enhance_backward.default
"""dx; dz, what arrives before the ReLU (empty without one); the parameters' gradients, those
of SGE for each sample. `batch`: the norm's mean and variance were those of x."""


def kernels(impl: str) -> Any:
    """The module of that implementation."""
    return importlib.import_module(IMPLEMENTATIONS[impl])


@torch.library.impl("sgekit::batch_moments", "default")
def _moments(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    moments: tuple[Tensor, Tensor, Tensor] = kernels(args[-1]).moments(*args[:-1])
    return moments


@torch.library.impl("sgekit::norm_enhance", "default")
def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, taken, mean, std = kernels(args[-1]).forward(*args[:-1])
    return y, args[5].new_empty((0, 0)) if args[5] is not None else taken, mean, std


@torch.library.impl("sgekit::norm_enhance_", "default")
def _forward_over(x: Tensor, *args: Any) -> None:
    norm, rest = args[:4], args[4:-1]
    kernels(args[-1]).forward(x, *norm, None, *rest, y=x)


@torch.library.impl("sgekit::norm_enhance_backward", "default")
def _backward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    out: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    out = kernels(args[-1]).backward(*args[:-1])
    return out


@torch.library.register_fake("sgekit::batch_moments")  # type: ignore[untyped-decorator]
def _moments_shapes(x: Tensor, channel_dim: int, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    samples, channels = x.shape[0], x.shape[channel_dim]
    return (
        x.new_empty((samples, channels), dtype=torch.float64),
        x.new_empty((channels,), dtype=torch.float64),
        x.new_empty((channels,), dtype=torch.float64),
    )


@torch.library.register_fake("sgekit::norm_enhance")  # type: ignore[untyped-decorator]
def _forward_shapes(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups, channel_dim = args[5].shape[0], args[9]
    samples = x.shape[0]
    taken = (samples, x.shape[channel_dim]) if args[4] is None else (0, 0)
    return (
        torch.empty_like(x),
        x.new_empty(taken, dtype=torch.float64),
        x.new_empty((samples, groups), dtype=torch.float32),
        x.new_empty((samples, groups), dtype=torch.float32),
    )


@torch.library.register_fake("sgekit::norm_enhance_")  # type: ignore[untyped-decorator]
def _forward_over_shapes(*args: Any) -> None:
    return None


@torch.library.register_fake("sgekit::norm_enhance_backward")  # type: ignore[untyped-decorator]
def _backward_shapes(
    dy: Tensor, x: Tensor, y: Tensor | None, norm_mean: Tensor, *args: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    mean = args[4]
    return (
        torch.empty_like(x),
        dy.new_empty(0) if y is None else torch.empty_like(y),
        torch.empty_like(norm_mean, dtype=torch.float32),
        torch.empty_like(norm_mean, dtype=torch.float32),
        torch.empty_like(mean),
        torch.empty_like(mean),
    )


@register_flop_formula((torch.ops.sgekit.norm_enhance, torch.ops.sgekit.norm_enhance_))
def _forward_flops(x: Any, *args: Any, **_: Any) -> int:
    # The weight is the first of one dimension that is not the norm's.
    in_place = len(args) < 12  # without `means`
    weight, channel_dim = (args[4], args[8]) if in_place else (args[5], args[9])
    return operations(tuple(x), weight[0], channel_dim)


@register_flop_formula(torch.ops.sgekit.norm_enhance_backward)
def _backward_flops(dy: Any, x: Any, *args: Any, **_: Any) -> int:
    # SGE's alone, as in forward: PyTorch counts no batch norm either.
    (_, channels), (_, groups) = args[5], args[6]  # those of `means` and `mean`
    numbers = math.prod(x)
    return int(11 * numbers + 16 * (numbers // channels * groups))
