"""Fused kernels for GPUs, in Triton: the counterpart of `cpu`.

A group that the caches hold is read from memory once and written once; a larger one is read three
times in forward: for the means of its channels, for the deviation, and to write. The kernels
are in triton_kernels. With TRITON_INTERPRET=1 set before Triton is imported they take CPU
tensors too, slowly, so that anyone can check them.
"""

import contextlib
import functools
import importlib.util
import math
import os
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgekit.ops import eager
from sgekit.ops.library import Call
from sgekit.ops.reference import output_dtype
from sgekit.ops.triton_kernels import configuration
from sgekit.ops.triton_kernels.configuration import Tile

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
        x, dy = (torch.randn(2, 32, 9, 7, generator=made).to(device) for _ in range(2))
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


@functools.cache
def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, as they do if it was asked for in time."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return False
    from triton.runtime.interpreter import InterpretedFunction

    from sgekit.ops.triton_kernels import forward as kernels

    return isinstance(kernels.enhance, InterpretedFunction)


class Maps(NamedTuple):
    """How the kernels see maps of one shape."""

    samples: int
    channels: int
    n: int
    axis: int
    """That of the channels."""
    last: bool
    """Whether they are adjacent in memory."""

    @classmethod
    def of(cls, x: Tensor, channel_dim: int) -> "Maps":
        """As x lies; where that is in neither way, as `(B, C, n)`."""
        moved = x.movedim(channel_dim, 1)
        last = not moved.is_contiguous() and moved.movedim(1, -1).is_contiguous()
        samples, channels, *spatial = moved.shape
        return cls(samples, channels, math.prod(spatial), channel_dim % x.dim(), last)

    def _ordered(self, x: Tensor) -> Tensor:
        """x with its axes in the order in which the kernels go over memory."""
        moved = x.movedim(self.axis, 1)
        return moved.movedim(1, -1) if self.last else moved

    def _flat(self, ordered: Tensor) -> Tensor:
        return ordered.flatten(1, -2) if self.last else ordered.flatten(2)

    def readable(self, x: Tensor) -> Tensor:
        """x as `(B, C, n)` or `(B, n, C)`, a copy where it lies in another way."""
        return self._flat(self._ordered(x).contiguous())

    def writable(self, y: Tensor) -> Tensor:
        """The map that the kernels write for y: y itself, or what `settle` copies into it."""
        ordered = self._ordered(y)
        if ordered.is_contiguous():
            return self._flat(ordered)
        return self._flat(torch.empty(ordered.shape, dtype=y.dtype, device=y.device))

    def settle(self, y: Tensor, written: Tensor) -> Tensor:
        """y with what the kernels wrote."""
        ordered = self._ordered(y)
        if not ordered.is_contiguous():
            ordered.copy_(written.view(ordered.shape))
        return y

    def lies(self, tile: Tile) -> dict[str, Any]:
        """What every kernel on tiles of these maps is compiled for."""
        wide = tile.wide(self.channels, self.n, self.last)
        return {"LAST": self.last, "WIDE": wide, "POSITIONS": tile.positions}


def launch(
    kernel: Any, tile: Tile, maps: Maps, groups: int, *args: Any, programs: int, **meta: Any
) -> None:
    """Run a kernel, on the device of its tensors, with a program for each block of groups of
    each sample, so many times."""
    grid = (maps.samples * tile.blocks(groups) * programs,)
    if not interpreted():
        kernel = torch.library.wrap_triton(kernel)  # itself, but for in a graph
    with _on(args[0].device):
        kernel[grid](*args, **meta, GROUPS=tile.groups, DEPTH=tile.depth, num_warps=tile.warps)


def _on(device: torch.device) -> Any:
    if device.type != "cuda" or torch.cuda.device_count() < 2:
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def _float(like: Tensor, *sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=torch.float32, device=like.device)


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
        _float(x, samples, groups, d), _float(x, samples, groups), _float(x, samples, groups)
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
        chunks, eps, WHOLE=whole, GIVEN=False, RELU=activation == "relu", **maps.lies(tile),
        programs=1 if whole else chunks,
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
            tile.chunks(maps.n), eps, **maps.lies(tile), programs=1,
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


class Norm(NamedTuple):
    """A norm's numbers a channel: mean and 1 / deviation in float64, weight and bias."""

    mean: Tensor
    invstd: Tensor
    weight: Tensor | None
    bias: Tensor | None


NO_NORM = (None,) * 4


def means_of(x: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
    """Mean, float64, and sum of squared deviations of each sample's channels, `(B, C)`."""
    from sgekit.ops.triton_kernels import forward as kernels

    channels, n = maps.channels, maps.n
    # A channel is a group of its own here.
    tile = configuration.tile(channels, 1, n, maps.last)
    chunks = tile.chunks(n)
    sizes = chunks, maps.samples, channels
    means = torch.empty(sizes, dtype=torch.float64, device=x.device)
    squares = _float(x, *sizes)
    launch(
        kernels.moments, tile, maps, channels, x, means, squares, maps.samples, channels, 1, n,
        tile.blocks(channels), chunks, **maps.lies(tile), programs=chunks,
    )  # fmt: skip
    return _merged(means, squares, n, tile.positions)


def scores_of(
    x: Tensor, maps: Maps, groups: int, tile: Tile, g: Tensor | None, means: Tensor | None,
    norm: Norm | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean and deviation of the likeness c, `(B, G)`."""
    from sgekit.ops.triton_kernels import forward as kernels

    n, chunks = maps.n, tile.chunks(maps.n)
    means_of_c, squares_of_c = (_float(x, chunks, maps.samples, groups) for _ in range(2))
    launch(
        kernels.scores, tile, maps, groups, x, g, means, *(norm or NO_NORM), means_of_c,
        squares_of_c, maps.samples, groups, maps.channels // groups, n, tile.blocks(groups), chunks,
        **maps.lies(tile), programs=chunks,
    )  # fmt: skip
    mean, squares = _merged(means_of_c, squares_of_c, n, tile.positions)
    return mean.float(), (squares.double() / max(n - 1, 1)).sqrt_().float()


def _merged(means: Tensor, squares: Tensor, n: int, positions: int) -> tuple[Tensor, Tensor]:
    """Chan's merge over the first axis, of chunks of so many positions and a last of the rest."""
    chunks = means.shape[0]
    if chunks == 1:
        return means[0], squares[0]
    counts = torch.full((chunks, 1, 1), float(positions), dtype=torch.float64, device=means.device)
    counts[-1] = n - (chunks - 1) * positions
    wide = means.double()
    mean = (wide * counts).sum(0) / n
    between = ((wide - mean).square_() * counts).sum(0)
    return mean, squares.double().sum(0) + between


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
    of_groups = _float(x, 2, chunks, samples, groups)
    of_channels = _float(x, 2 if norm is None else 4, chunks, samples, maps.channels)
    h = _float(x, samples, maps.channels)
    of_norm = None if norm is None else _float(x, 2, samples, maps.channels)
    with_norm = (means, *(norm or NO_NORM))
    lies = maps.lies(tile)
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
