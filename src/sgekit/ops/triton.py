"""Fused kernels for GPUs, in Triton: the counterpart of `cpu`.

A group that the caches hold is read from memory once and written once; a larger one is read three
times in forward: for the means of its channels, for the deviation, and to write. The kernels
are in triton_kernels. With TRITON_INTERPRET=1 set before Triton is imported they take CPU
tensors too, slowly, so that anyone can check them.
"""

import importlib.util
import warnings

import torch
from torch import Tensor

from sgekit.ops import eager
from sgekit.ops.library import Call
from sgekit.ops.reference import output_dtype
from sgekit.ops.triton_kernels import configuration
from sgekit.ops.triton_maps import Maps, floats, interpreted, launch
from sgekit.ops.triton_statistics import NO_NORM, Norm, means_of, scores_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cuda", "xpu")
"""Where Triton's kernels run; "cuda" is ROCm's name as well."""


def can_run(call: Call) -> str | None:
    """None, or the reason why not."""
    kind = call.device.type
    if kind not in (*DEVICES, "cpu"):
        return f"it runs on a GPU, not on {kind}"
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
    index = call.device.index
    return _unfit(kind, of_kind.current_device() if index is None else index)


def _unfit(kind: str, index: int) -> str | None:
    """Why this GPU can't, found out once for each."""
    if (kind, index) not in _found:
        if kind == "cuda" and torch.cuda.is_current_stream_capturing():
            return "its first call can't be part of a CUDA graph; run once before the capture"
        _found[kind, index] = _find_out(kind, index)
    return _found[kind, index]


_found: dict[tuple[str, int], str | None] = {}


def _find_out(kind: str, index: int) -> str | None:
    if kind == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(index)
        if major < 8:
            return f"Triton needs compute capability 8.0, this GPU has {major}.{minor}"
    failure = trial(torch.device(kind, index))
    if failure is None:
        return None
    reason = f"a trial of the kernels on this GPU failed: {failure}"
    warnings.warn(
        f"{reason}; sgekit takes plain PyTorch operations, which are slower", stacklevel=2
    )
    return reason


def trial(device: torch.device) -> str | None:
    """Compare small results with those of plain PyTorch; None, or what went wrong.

    No GPU has run the kernels yet. What a compiler or driver makes of them must not end a user's
    training.
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        made = torch.Generator().manual_seed(0)
        x, dy = (torch.randn(2, 16, 8, 8, generator=made).to(device) for _ in range(2))
        weight, bias = (torch.randn(4, generator=made).to(device) for _ in range(2))
        given = weight, bias, x, 1e-5, 1, "relu"
        plain = eager.forward(x, *given)
        wanted = *plain, *eager.backward(dy, x, weight, bias, *plain[1:], plain[0], 1e-5, 1)
        try:
            y, g, mean, std = forward(x, *given)
            back = backward(dy, x, weight, bias, g, mean, std, plain[0], 1e-5, 1)
        except Exception as error:  # whatever a compiler, its absence or a driver may raise
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        names = ("y", "g", "mean", "std", "dx", "dz", "dweight", "dbias")
        found = y, g, mean, std, *back
        for name, ours, theirs in zip(names, found, wanted, strict=True):
            if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
                return f"wrong numbers in {name}"
    return None


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
    from sgekit.ops.triton_kernels import forward as kernels

    samples, channels, groups = x.shape[0], x.shape[channel_dim], weight.shape[0]
    d = channels // groups
    g, mean, std = (
        floats(x, samples, groups, d), floats(x, samples, groups), floats(x, samples, groups)
    )  # fmt: skip
    if x.numel() == 0:
        return g.zero_(), mean.zero_(), std.zero_()
    maps = Maps.of(x, channel_dim)
    xs = maps.readable(x)
    kept = None if residual is None else maps.readable(residual)
    written = maps.writable(y)
    tile = configuration.tile(groups, d, maps.n, maps.last)
    chunks, whole = tile.chunks(maps.n), tile.near(maps.n, xs.element_size())
    if not whole:
        g.copy_(means_of(xs, maps)[0].view(g.shape))
        mean, std = scores_of(xs, maps, groups, tile, g, None, None)
    launch(
        kernels.enhance, tile, maps, groups, xs, written, kept, weight.contiguous(),
        bias.contiguous(), g, mean, std, *(None,) * 5, groups, d, maps.n, tile.blocks(groups),
        chunks, eps, WHOLE=whole, ONCE=whole and chunks == 1, GIVEN=False,
        RELU=activation == "relu", **maps.lies(tile, groups), programs=1 if whole else chunks,
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
    tile = configuration.tile(groups, d, maps.n, maps.last)
    if tile.near(maps.n, 2 * x.element_size()):  # x and dy
        launch(
            kernels.whole, tile, maps, groups, dy, x, after, weight, bias, g, mean, std,
            dx_written, to_dz, dweight, dbias, groups, d, maps.n, tile.blocks(groups),
            tile.chunks(maps.n), eps, ONCE=tile.chunks(maps.n) == 1, **maps.lies(tile, groups),
            programs=1,
        )  # fmt: skip
    else:
        in_parts(
            maps, dy, x, after, weight, bias, g, mean, std, None, None, to_dz, dx_written,
            dweight, dbias, eps, None,
        )  # fmt: skip
    maps.settle(dx, dx_written)
    if y is not None:
        maps.settle(dz, dz_written)
    return dx, dz, dweight, dbias


def in_parts(
    maps: Maps, dy: Tensor, x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor,
    g: Tensor | None, mean: Tensor, std: Tensor, means: Tensor | None, norm: Norm | None,
    dz: Tensor | None, dx: Tensor, dweight: Tensor, dbias: Tensor, eps: float,
    batch: bool | None,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """Backward in two readings: writes dz where there is one, dx, dweight and dbias.

    Returns the gradients of the norm's weight and bias where there is a norm; `batch` says
    that its statistics were those of x.
    """
    from sgekit.ops.triton_kernels import backward as kernels

    groups, n, samples = weight.shape[0], maps.n, maps.samples
    d = maps.channels // groups
    tile = configuration.tile(groups, d, n, maps.last)
    blocks, chunks = tile.blocks(groups), tile.chunks(n)
    of_groups = floats(x, 2, chunks, samples, groups)
    of_channels = floats(x, 2 if norm is None else 4, chunks, samples, maps.channels)
    h = floats(x, samples, maps.channels)
    of_norm = None if norm is None else floats(x, 2, samples, maps.channels)
    with_norm = (means, *(norm or NO_NORM))
    lies = maps.lies(tile, groups)
    launch(
        kernels.sums, tile, maps, groups, dy, x, y, weight, bias, g, mean, std, *with_norm, dz,
        of_groups, of_channels, samples, groups, d, n, blocks, chunks, eps, **lies,
        programs=chunks,
    )  # fmt: skip
    launch(
        kernels.finish, tile, maps, groups, of_groups, of_channels, weight, std, *with_norm,
        dweight, dbias, h, of_norm, samples, groups, d, n, blocks, chunks, eps, programs=1,
    )  # fmt: skip
    of_weight = of_bias = None
    if norm is not None and of_norm is not None:
        of_bias, of_weight = of_norm.sum(1, dtype=torch.float64).unbind()
        of_weight = of_weight * norm.invstd
        of_weight, of_bias = of_weight.float(), of_bias.float()
    over_batch = (of_weight, of_bias) if batch else (None, None)
    launch(
        kernels.apply, tile, maps, groups, dy if dz is None else dz, x, weight, bias, g, mean,
        std, dweight, dbias, h, *with_norm, *over_batch, dx, groups, d, n, blocks, chunks,
        samples * n, eps, **lies, programs=chunks,
    )  # fmt: skip
    return None if of_weight is None or of_bias is None else (of_weight, of_bias)
