"""The end of a residual block in one pass: BatchNorm, SGE, the shortcut's sum and ReLU.

    y = activation(SGE(norm(x)) + residual)

Training keeps x, y and a few numbers a group: what lies between is never written. With the
sample's mean m of each channel, norm(x) - mean(norm(x)) = scale * (x - m), so SGE's statistics
follow from those of x.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from sgekit.errors import InputError
from sgekit.ops import library
from sgekit.ops.api import compiled_for, first_that_runs, spatial_group_enhance, traced
from sgekit.ops.tail_library import (
    IMPLEMENTATIONS,
    batch_moments,
    norm_enhance,
    norm_enhance_,
    norm_enhance_backward,
)


def _current_forward_level() -> int:
    return torch.autograd.forward_ad._current_level


class Norm(NamedTuple):
    """What BatchNorm computes with: see torch.nn.functional.batch_norm."""

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    batch: bool
    """Whether the statistics are those of the batch, and the running ones follow it."""
    momentum: float
    eps: float


def fusible(
    x: Tensor, residual: Tensor, groups: Sequence[Tensor | None] = (),
    channels: Sequence[Tensor | None] = (),
) -> bool:  # fmt: skip
    """Whether one pass does it here; the function is the same anyhow.

    `groups` are the tensors with a number a group, `channels` those with one a channel.
    """
    plain = type(x) is Tensor and type(residual) is Tensor
    if not plain or x.dim() < 3 or x.shape != residual.shape or x.dtype != residual.dtype:
        return False
    for tensor in (residual, *groups, *channels):
        if tensor is not None and tensor.device != x.device:
            return False
    if any(t is not None and t.shape != (x.shape[1],) for t in channels):
        return False
    for tensor in groups:
        if tensor is not None and (tensor.numel() == 0 or x.shape[1] % tensor.numel() != 0):
            return False
    if _current_forward_level() >= 0:  # whose tangents the kernels don't carry
        return False
    if traced() and not torch.compiler.is_dynamo_compiling():
        return False
    sizes = [t.numel() for t in groups if t is not None]
    return implementation(x, min(sizes, default=x.shape[1])) is not None


def implementation(x: Tensor, groups: int) -> str | None:
    """The first whose kernels can take such a tail; None: there is none.

    In compiled networks on a GPU alone: on a CPU the compiler's own fusion is the faster one.
    """
    call = library.Call(x.device, x.dtype, tuple(x.shape), groups, 1, "relu", x.dtype)
    if torch.compiler.is_dynamo_compiling():
        return compiled_for(call, needs_grad=True)
    return first_that_runs(call, tuple(IMPLEMENTATIONS))


def residual_tail(
    x: Tensor,
    norm: Norm | None,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    eps: float = 1e-5,
    *,
    overwrite: bool = False,
) -> Tensor:
    """relu(SGE(norm(x)) + residual), with x and residual `(B, C, *spatial)`.

    `norm` None is none. Running statistics are updated as torch's BatchNorm does. `overwrite`
    permits to leave the result in x, which is done where nothing has to be differentiated.
    `fusible` must hold. Raises ValueError, as torch does, where the norm would take
    its statistics from one number a channel.
    """
    impl = implementation(x, weight.shape[0])
    if impl is None:
        raise InputError(f"no kernels take a tail like this: {x.dtype} on {x.device}")
    overwrite = overwrite and not torch.compiler.is_dynamo_compiling()
    args = (x, weight, bias, residual, *(() if norm is None else (norm.weight, norm.bias)))
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args)
    if norm is None:
        if needs_grad or not overwrite:
            return spatial_group_enhance(x, weight, bias, eps, 1, residual, "relu")
        library.enhance_(x, weight, bias, residual, eps, 1, "relu", impl)
        return x
    means, mean, invstd = _statistics(x.detach(), norm, impl)
    if needs_grad:
        y: Tensor = _Tail.apply(
            x, norm.weight, norm.bias, weight, bias, residual,
            means, mean, invstd, norm.batch, norm.eps, eps, impl,
        )[0]  # fmt: skip
        return y
    if overwrite and means is None:
        norm_enhance_(
            x, mean, invstd, norm.weight, norm.bias, weight, bias, residual, eps, 1, "relu", impl
        )
        return x
    given = (norm.weight, norm.bias, means, weight, bias, residual, eps, 1, "relu")
    out: Tensor = _run("norm_enhance", impl, x, mean, invstd, *given)[0]
    return out


def _run(name: str, impl: str, *args: Any) -> Any:
    """An operation of `tail_library`; of `triton_graph` where it becomes part of a graph."""
    if impl == "triton" and torch.compiler.is_dynamo_compiling():
        from sgekit.ops import triton_graph

        return getattr(triton_graph, name)(*args)
    return _OPERATIONS[name](*args, impl)


_OPERATIONS = {
    "batch_moments": batch_moments,
    "norm_enhance": norm_enhance,
    "norm_enhance_backward": norm_enhance_backward,
}


@torch.no_grad()
def _statistics(x: Tensor, norm: Norm, impl: str) -> tuple[Tensor | None, Tensor, Tensor]:
    """The sample's means where the batch is read for them; the norm's mean and 1 / deviation."""
    if not norm.batch:
        running_var = cast(Tensor, norm.running_var)
        # Copies: a later batch may move the norm's own before the backward pass comes.
        mean = cast(Tensor, norm.running_mean).to(torch.float64, copy=True)
        return None, mean, (running_var.double() + norm.eps).rsqrt()
    count = x.numel() // x.shape[1]
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.shape}"
        )
    means, mean, var = _run("batch_moments", impl, x, 1)
    if norm.running_mean is not None and norm.running_var is not None and count > 0:
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        unbiased = (var * (count / (count - 1))).to(norm.running_var.dtype)
        norm.running_var.lerp_(unbiased, norm.momentum)
    return means, mean, (var + norm.eps).rsqrt_()


class _Tail(torch.autograd.Function):
    """y; saves x, y and the statistics."""

    @staticmethod
    def forward(
        x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None,
        weight: Tensor, bias: Tensor, residual: Tensor,
        means: Tensor | None, mean: Tensor, invstd: Tensor, batch: bool, norm_eps: float,
        eps: float, impl: str,
    ) -> Any:  # fmt: skip
        return _run(
            "norm_enhance", impl, x, mean, invstd, norm_weight, norm_bias, means, weight, bias,
            residual, eps, 1, "relu",
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, norm_weight, norm_bias, weight, bias, _, given, mean, invstd, *rest = inputs
        y, taken, gate_mean, gate_std = output
        means = taken if given is None else given
        ctx.batch, ctx.norm_eps, ctx.eps, ctx.impl = rest
        ctx.mark_non_differentiable(taken, gate_mean, gate_std)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            x, y, norm_weight, norm_bias, weight, bias, mean, invstd, means, gate_mean, gate_std
        )

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> Any:
        if dy is None:
            return (None,) * 13
        x, y, norm_weight, norm_bias, weight, bias, mean, invstd, *of_groups = ctx.saved_tensors
        if torch.is_grad_enabled():  # under create_graph: gradients must be functions of x
            return (*_composed(ctx, dy, x, y, norm_weight, norm_bias, weight, bias, mean), *_NONE)
        dx, dz, dnorm_weight, dnorm_bias, dweight, dbias = _run(
            "norm_enhance_backward", ctx.impl, dy, x, y, mean, invstd, norm_weight, norm_bias,
            *of_groups, weight, bias, ctx.eps, 1, ctx.batch,
        )  # fmt: skip
        return (
            dx,
            None if norm_weight is None else dnorm_weight.to(norm_weight.dtype),
            None if norm_bias is None else dnorm_bias.to(norm_bias.dtype),
            dweight.sum(0).to(weight.dtype),
            dbias.sum(0).to(bias.dtype),
            dz,
            *_NONE,
        )


_NONE = (None,) * 7
"""The gradients of what is not differentiable."""


def _composed(
    ctx: Any, dy: Tensor, x: Tensor, y: Tensor, norm_weight: Tensor | None,
    norm_bias: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients as differentiable functions of their inputs."""
    dz = dy.masked_fill(y <= 0, 0)  # as torch's ReLU, through which a NaN's gradient passes
    inputs = (x, norm_weight, norm_bias, weight, bias)
    if ctx.batch:
        z = F.batch_norm(x, None, None, norm_weight, norm_bias, True, 0.0, ctx.norm_eps)
    else:
        var = ctx.saved_tensors[7].reciprocal().square() - ctx.norm_eps
        dtype = x.dtype if norm_weight is None else norm_weight.dtype
        constants = mean.to(dtype), var.to(dtype)
        z = F.batch_norm(x, *constants, norm_weight, norm_bias, False, 0.0, ctx.norm_eps)
    out = spatial_group_enhance(z, weight, bias, ctx.eps, impl="reference")
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    if not wanted:  # the shortcut alone learns
        return (*(None for _ in inputs), dz)
    found = iter(torch.autograd.grad(out, wanted, dz, create_graph=True))
    grads = (next(found) if t is not None and t.requires_grad else None for t in inputs)
    return (*grads, dz)
