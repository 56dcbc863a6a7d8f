"""Fused kernels for GPUs, in Triton: the counterpart of `cpu`.

A group is read from memory once and written once: what is needed of it again the chip or its
caches hold. The kernels are in triton_kernels, triton_steps runs them. With TRITON_INTERPRET=1
set before Triton is imported they take CPU tensors too, slowly, so that anyone can check them.
"""

import importlib.util
import math
import os
import warnings

import torch
from torch import Tensor

from sgekit.ops import triton_steps
from sgekit.ops.library import Call
from sgekit.ops.reference import output_dtype
from sgekit.ops.triton_kernels import configuration
from sgekit.ops.triton_maps import Maps, floats, interpreted, launch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def can_run(call: Call) -> str | None:
    """None, or the reason why not."""
    kind = call.device.type
    if kind not in (*configuration.GPUS, "cpu"):
        return f"it runs on a GPU, not on {kind}"
    if kind != "cpu" and os.environ.get("SGEKIT_TRITON") == "0":
        return "SGEKIT_TRITON=0 in the environment turns it off"
    if importlib.util.find_spec("triton") is None:
        return "it needs the package triton, which is not installed"
    if kind == "cpu" and not interpreted():
        return "it runs on a GPU, and on the CPU only with TRITON_INTERPRET=1 set before the start"
    for dtype in (call.dtype, call.residual_dtype):
        if dtype is not None and dtype not in DTYPES:
            return f"it computes in float32, which does not do for {dtype}"
    depth = call.shape[call.channel_dim] // max(call.groups, 1)
    if depth > configuration.DEEPEST:
        return f"groups have more than {configuration.DEEPEST:,} channels"
    if kind == "cpu":
        return None
    of_kind = torch.get_device_module(kind)
    if not of_kind.is_available():  # tensors without memory can be traced
        return None
    index = of_kind.current_device() if call.device.index is None else call.device.index
    reason = _unfit(kind, index, False)
    return _unfit(kind, index, True) if reason is None and _large(call, depth) else reason


def _large(call: Call, depth: int) -> bool:
    """Whether programs may take turns with a map, as it may lie."""
    n = math.prod(call.shape) // max(call.shape[0] * call.shape[call.channel_dim], 1)
    tile = configuration.tile(call.groups, depth, n, True, 2)
    return not tile.near(n, 2 * call.dtype.itemsize)


def _unfit(kind: str, index: int, large: bool) -> str | None:
    """Why this GPU can't, or not with large maps, found out once for each."""
    if (kind, index, large) not in _found:
        if kind == "cuda" and torch.cuda.is_current_stream_capturing():
            return "its first call can't be part of a CUDA graph; run once before the capture"
        _found[kind, index, large] = _find_out(kind, index, large)
    return _found[kind, index, large]


_found: dict[tuple[str, int, bool], str | None] = {}


def _find_out(kind: str, index: int, large: bool) -> str | None:
    if kind == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(index)
        if major < 8:
            return f"Triton needs compute capability 8.0, this GPU has {major}.{minor}"
    failure = trial(torch.device(kind, index), large)
    if failure is None:
        return None
    reason = f"a trial of the kernels on this GPU failed: {failure}"
    warnings.warn(
        f"{reason}; sgekit takes plain PyTorch operations, which are slower", stacklevel=2
    )
    return reason


def trial(device: torch.device, large: bool) -> str | None:
    """`triton_trial.trial`, which imports this module."""
    from sgekit.ops import triton_trial

    return triton_trial.trial(device, large)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, eps: float,
    channel_dim: int, activation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `eager.forward`."""
    y = torch.empty_like(x, dtype=output_dtype(x, residual))
    return y, *forward_into(y, x, weight, bias, residual, eps, channel_dim, activation)


def forward_into(
    y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, eps: float,
    channel_dim: int, activation: str | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """g, mean and std; the result is written to y, which may be x or the residual itself."""
    samples, channels, groups = x.shape[0], x.shape[channel_dim], weight.shape[0]
    g, mean, std = (
        floats(x, samples, groups, channels // groups), floats(x, samples, groups),
        floats(x, samples, groups),
    )  # fmt: skip
    if x.numel() == 0:
        return g.zero_(), mean.zero_(), std.zero_()
    maps = Maps.of(x, channel_dim)
    written = maps.writable(y)
    kept = None if residual is None else maps.readable(residual)
    triton_steps.enhance(
        maps, maps.readable(x), written, kept, weight, bias, g, mean, std, None, None, False, eps,
        activation,
    )  # fmt: skip
    maps.settle(y, written)
    return g, mean, std


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, g: Tensor, mean: Tensor, std: Tensor,
    y: Tensor | None, eps: float, channel_dim: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `eager.backward`."""
    from sgekit.ops.triton_kernels import backward as kernels

    groups = weight.shape[0]
    d = x.shape[channel_dim] // groups
    maps = Maps.of(x, channel_dim)
    dx = torch.empty_like(x)
    dx_written = maps.writable(dx)
    dweight, dbias = torch.empty_like(mean), torch.empty_like(mean)
    dz = dz_written = dy.new_empty(0)
    if y is not None:
        dz = torch.empty_like(y, dtype=dy.dtype)
        dz_written = maps.writable(dz)
    if x.numel() == 0:
        return dx, dz, dweight.zero_(), dbias.zero_()
    after = None if y is None else maps.readable(y)
    to_dz = None if y is None else dz_written
    weight, bias, g, mean, std = (t.contiguous() for t in (weight, bias, g, mean, std))
    dy, x = maps.readable(dy), maps.readable(x)
    tile = configuration.tile(groups, d, maps.n, maps.last, 2)
    if not tile.near(maps.n, 2 * x.element_size()):  # dy and x
        triton_steps.backward(
            maps, dy, x, after, weight, bias, g, mean, std, None, None, to_dz, dx_written,
            dweight, dbias, eps, False,
        )  # fmt: skip
    else:
        chunks = tile.chunks(maps.n)
        launch(
            kernels.whole, tile, maps.programs(tile, groups), dy, x, after, weight, bias, g, mean,
            std, dx_written, to_dz, dweight, dbias, groups, d, maps.n, tile.blocks(groups),
            chunks, eps, ONCE=chunks == 1, **maps.lies(tile, groups),
        )  # fmt: skip
    maps.settle(dx, dx_written)
    if y is not None:
        maps.settle(dz, dz_written)
    return dx, dz, dweight, dbias
