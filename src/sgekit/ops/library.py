"""The operation as PyTorch knows it: schemas, fake kernels, vmap, FLOPs, autograd.

`sgekit::enhance` and `sgekit::enhance_backward` carry the name of the implementation that
runs them. Neither has an autograd formula of its own: `Enhance` does, because a
`torch.library` formula does not compose with torch.func and an autograd.Function with
`setup_context` does.
"""

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sgekit.errors import InputError
from sgekit.ops import derivatives, eager
from sgekit.ops.reference import output_dtype, statistics_dtype

REFERENCE = "reference"
FUSED = {"cpu": "sgekit.ops.cpu", "triton": "sgekit.ops.triton"}
"""Modules of fused kernels, by the name of the implementation; imported when first asked for."""


class Call(NamedTuple):
    """What an implementation must know to say whether it can run."""

    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    groups: int
    channel_dim: int
    activation: str | None


class Backend(Protocol):
    """What a module of fused kernels offers; `eager` states what the functions take and return."""

    def can_run(self, call: Call) -> str | None:
        """None, or the reason why not."""

    forward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def why_not(impl: str, call: Call) -> str | None:
    """Why `impl`, one of "reference" and the keys of FUSED, can't run `call`; None if it can."""
    if impl == REFERENCE:
        return None
    backend = _fused(impl)
    return backend if isinstance(backend, str) else backend.can_run(call)


@functools.cache
def _fused(impl: str) -> Backend | str:
    """The module of the fused kernels, or the reason why there is none."""
    try:
        return cast(Backend, importlib.import_module(FUSED[impl]))
    except ModuleNotFoundError as error:
        if error.name == FUSED[impl]:
            return "this version of sgekit has no such kernels"
        return f"it needs the package {error.name}, which is not installed"


def _kernels(impl: str) -> Backend:
    if impl == REFERENCE:
        return cast(Backend, eager)
    backend = _fused(impl)
    if isinstance(backend, str):
        raise InputError(f"implementation {impl!r} cannot run here: {backend}")
    return backend


@torch.library.custom_op("sgekit::enhance", mutates_args=())
def enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    eps: float,
    channel_dim: int,
    activation: str | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, g, mean, std, as `eager.forward`."""
    return _kernels(impl).forward(x, weight, bias, residual, eps, channel_dim, activation)


@torch.library.custom_op("sgekit::enhance_backward", mutates_args=())
def enhance_backward(
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
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, dz, dweight and dbias of each sample, as `eager.backward`."""
    return _kernels(impl).backward(dy, x, weight, bias, g, mean, std, y, eps, channel_dim)


@enhance.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    eps: float,
    channel_dim: int,
    activation: str | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples, groups = x.shape[0], weight.shape[0]
    dtype = statistics_dtype(x)
    return (
        torch.empty_like(x, dtype=output_dtype(x, residual)),
        x.new_empty((samples, groups, x.shape[channel_dim] // groups), dtype=dtype),
        x.new_empty((samples, groups), dtype=dtype),
        x.new_empty((samples, groups), dtype=dtype),
    )


@enhance_backward.register_fake
def _(
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
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dz = dy.new_empty(0) if y is None else torch.empty_like(y, dtype=dy.dtype)
    return torch.empty_like(x), dz, torch.empty_like(mean), torch.empty_like(mean)


def _vmap(op: Callable[..., Any], parameters: tuple[int, ...]) -> Callable[..., Any]:
    """A vmap rule: fold the mapped axis into the samples, or loop where parameters are mapped.

    `parameters` are the positions of weight and bias, which have no axis of samples.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        if any(in_dims[k] is not None for k in parameters):
            outputs = [
                op(
                    *(
                        a if d is None else a.select(d, i)
                        for a, d in zip(args, in_dims, strict=True)
                    )
                )
                for i in range(size)
            ]
            return tuple(map(torch.stack, zip(*outputs, strict=True))), (0, 0, 0, 0)

        def fold(k: int, value: Any) -> Any:
            if not isinstance(value, Tensor) or k in parameters:
                return value
            dim = in_dims[k]
            mapped = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
            return mapped.flatten(0, 1)

        folded = op(*(fold(k, value) for k, value in enumerate(args)))
        # An empty dz has no samples to unfold.
        return tuple(
            out.new_empty((size, 0)) if out.shape == (0,) else out.unflatten(0, (size, -1))
            for out in folded
        ), (0, 0, 0, 0)

    return rule


enhance.register_vmap(_vmap(enhance, (1, 2)))
enhance_backward.register_vmap(_vmap(enhance_backward, (2, 3)))


def operations(shape: tuple[int, ...], groups: int, channel_dim: int) -> int:
    """Elementary operations of one forward pass; each sum, product or function value is one.

    For each of the C * n numbers of a sample 5 (mean, centring, product and sum of the dot
    product, gate), for each of its G * n positions 8 (mean, centring, square, sum, division,
    weight, bias, sigmoid), for each channel 1 and for each group 4 (what their sums are
    divided by, root, eps).
    """
    samples, channels = shape[0], shape[channel_dim]
    n = math.prod(shape) // max(samples * channels, 1)
    return samples * (5 * channels * n + 8 * groups * n + channels + 4 * groups)


@register_flop_formula(torch.ops.sgekit.enhance)
def _forward_flops(
    x: Any, weight: Any, bias: Any, residual: Any, eps: float, channel_dim: int, *_: Any, **__: Any
) -> int:
    return operations(tuple(x), weight[0], channel_dim)


@register_flop_formula(torch.ops.sgekit.enhance_backward)
def _backward_flops(dy: Any, x: Any, weight: Any, bias: Any, g: Any, *_: Any, **__: Any) -> int:
    # As the formula in `derivatives` has them: 11 for each number of x, 16 for each position.
    numbers = math.prod(x)
    return int(11 * numbers + 16 * (numbers // g[2]))


class Enhance(torch.autograd.Function):
    """y and, not differentiable, the statistics; saves x, the statistics and, for a ReLU, y."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return enhance(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, bias, residual, ctx.eps, ctx.channel_dim, activation, ctx.impl = inputs
        y, g, mean, std = output
        ctx.residual_dtype = None if residual is None else residual.dtype
        mask = y if activation == "relu" else None
        ctx.mark_non_differentiable(g, mean, std)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, g, mean, std, mask)
        ctx.save_for_forward(x, weight, bias, g, mean, std, mask)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> Any:
        if dy is None:
            return (None,) * 8
        x, weight, bias, g, mean, std, y = ctx.saved_tensors
        # Grad mode is on in here exactly under create_graph and torch.func: what is
        # returned must then be a function of x, so the saved statistics won't do.
        if torch.is_grad_enabled():
            dz = dy if y is None else dy * (y > 0)
            dx, dweight, dbias = derivatives.gradients(
                dz, x, weight, bias, ctx.eps, ctx.channel_dim
            )
        else:
            dx, dz, dweights, dbiases = enhance_backward(
                dy, x, weight, bias, g, mean, std, y, ctx.eps, ctx.channel_dim, ctx.impl
            )
            dz = dy if y is None else dz
            dweight = dweights.sum(0).to(weight.dtype)
            dbias = dbiases.sum(0).to(bias.dtype)
        dresidual = None if ctx.residual_dtype is None else dz.to(ctx.residual_dtype)
        return dx, dweight, dbias, dresidual, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        x, weight, bias, _, _, _, y = ctx.saved_tensors
        dx, dweight, dbias, dresidual = tangents[:4]
        out = derivatives.tangent(x, weight, bias, dx, dweight, dbias, ctx.eps, ctx.channel_dim)
        if dresidual is not None:
            out = out + dresidual
        if y is not None:
            out = out * (y > 0)
        dtype = x.dtype
        if ctx.residual_dtype is not None:
            dtype = torch.promote_types(dtype, ctx.residual_dtype)
        return out.to(dtype), None, None, None
