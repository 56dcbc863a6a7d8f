"""The exact gradient around `sgekit::enhance`.

An autograd.Function with `setup_context`, because an autograd formula registered through
torch.library does not compose with torch.func.
"""

from typing import Any

import torch
from torch import Tensor

from sgekit.ops import derivatives
from sgekit.ops.library import enhance, enhance_backward


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
            dz = dy if y is None else dy.masked_fill(y <= 0, 0)
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
            out = out.masked_fill(y <= 0, 0)
        dtype = x.dtype
        if ctx.residual_dtype is not None:
            dtype = torch.promote_types(dtype, ctx.residual_dtype)
        return out.to(dtype), None, None, None
