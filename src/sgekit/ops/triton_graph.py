"""The GPU kernels as torch.compile sees them: operations that become kernel calls in a graph.

In eager mode the operations of `library` and `tail_library` call the same functions, at a
fraction of what calling these costs. Importing this imports the compiler's machinery, which is
there when it is needed.
"""

from typing import Any

from torch import Tensor
from torch.library import triton_op

from sgekit.ops import triton, triton_tail
from sgekit.ops.triton_maps import in_graphs


@triton_op("sgekit::gpu_enhance", mutates_args=())
def enhance(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, eps: float,
    channel_dim: int, activation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `eager.forward`; differentiable once."""
    with in_graphs():
        return triton.forward(x, weight, bias, residual, eps, channel_dim, activation)


@triton_op("sgekit::gpu_enhance_backward", mutates_args=())
def enhance_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, g: Tensor, mean: Tensor, std: Tensor,
    y: Tensor | None, eps: float, channel_dim: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `eager.backward`."""
    with in_graphs():
        return triton.backward(dy, x, weight, bias, g, mean, std, y, eps, channel_dim)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, residual, ctx.eps, ctx.channel_dim, activation = inputs
    y, g, mean, std = output
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.relu = activation == "relu"
    ctx.save_for_backward(x, weight, bias, g, mean, std, *((y,) if ctx.relu else ()))


def _backward(ctx: Any, dy: Tensor, *_: Any) -> Any:
    x, weight, bias, g, mean, std, *after = ctx.saved_tensors
    y = after[0] if ctx.relu else None
    dx, dz, dweight, dbias = enhance_backward(
        dy, x, weight, bias, g, mean, std, y, ctx.eps, ctx.channel_dim
    )
    dz = dy if y is None else dz
    dresidual = None if ctx.residual_dtype is None else dz.to(ctx.residual_dtype)
    of_weight, of_bias = dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype)
    return dx, of_weight, of_bias, dresidual, None, None, None


enhance.register_autograd(_backward, setup_context=_keep)


@triton_op("sgekit::gpu_batch_moments", mutates_args=())
def batch_moments(x: Tensor, channel_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `tail_library.batch_moments`."""
    with in_graphs():
        means, mean, var = triton_tail.moments(x, channel_dim)
    return means.clone(), mean, var


@triton_op("sgekit::gpu_norm_enhance", mutates_args=())
def norm_enhance(
    x: Tensor, norm_mean: Tensor, norm_invstd: Tensor, norm_weight: Tensor | None,
    norm_bias: Tensor | None, means: Tensor | None, weight: Tensor, bias: Tensor,
    residual: Tensor | None, eps: float, channel_dim: int, activation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `tail_library.norm_enhance`."""
    with in_graphs():
        y, taken, mean, std = triton_tail.forward(
            x, norm_mean, norm_invstd, norm_weight, norm_bias, means, weight, bias, residual, eps,
            channel_dim, activation,
        )  # fmt: skip
    return y, taken if means is None else taken.new_empty((0, 0)), mean, std


@triton_op("sgekit::gpu_norm_enhance_backward", mutates_args=())
def norm_enhance_backward(
    dy: Tensor, x: Tensor, y: Tensor | None, norm_mean: Tensor, norm_invstd: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None, means: Tensor, mean: Tensor,
    std: Tensor, weight: Tensor, bias: Tensor, eps: float, channel_dim: int, batch: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `tail_library.norm_enhance_backward`."""
    with in_graphs():
        return triton_tail.backward(
            dy, x, y, norm_mean, norm_invstd, norm_weight, norm_bias, means, mean, std, weight,
            bias, eps, channel_dim, batch,
        )  # fmt: skip
