"""Fused kernels for CPUs: each pass over memory does all that can be done in it.

Forward reads x twice more from the cache than from memory and writes y; backward reads x and
dy and writes dx. The statistics, and what they err, are those of `reference`; sums run in
float64 where they decide whether a constant map stays constant. csrc/ has the kernels,
docs/building.md tells how they get built.
"""

import ctypes
from typing import NamedTuple, cast

import torch
from torch import Tensor

from sgekit.errors import InputError
from sgekit.ops import cpu_library
from sgekit.ops.cpu_library import DTYPES, INTERLEAVED, ISAS, NO_SUCH_ISA, PLANAR, Map, NativeCall
from sgekit.ops.library import Call


def can_run(call: Call) -> str | None:
    """None, or the reason why not."""
    if call.device.type != "cpu":
        return f"it runs on the CPU, not on {call.device.type}"
    for dtype in (call.dtype, call.residual_dtype):
        if dtype is not None and dtype not in DTYPES:
            return f"it computes in float32, too little for {dtype}"
    library = cpu_library.load()
    return library if isinstance(library, str) else None


class _Shape(NamedTuple):
    """How the kernels see a map; both layouts take any strides between samples."""

    layout: int
    channel_dim: int
    samples: int
    channels: int
    positions: int

    @classmethod
    def of(cls, x: Tensor, channel_dim: int) -> "_Shape":
        """That of `x`; interleaved where its channels are adjacent, planar otherwise."""
        samples, channels = x.shape[0], x.shape[channel_dim]
        positions = x.numel() // max(samples * channels, 1)
        shape = cls(INTERLEAVED, channel_dim, samples, channels, positions)
        if x.stride(channel_dim) == 1 and shape.strides(x) is not None:
            planar = shape._replace(layout=PLANAR)
            # Strides say nothing where there is one position: rows of channels are longer.
            return planar if channels == 1 and planar.strides(x) is not None else shape
        return shape._replace(layout=PLANAR)

    def strides(self, x: Tensor) -> tuple[int, int] | None:
        """`Map`'s sample and outer; None where the kernels can't take x as it lies."""
        axis = self.channel_dim % x.dim()
        spatial = [k for k in range(1, x.dim()) if k != axis]
        step = _step([x.shape[k] for k in spatial], [x.stride(k) for k in spatial])
        if self.layout == PLANAR:
            adjacent = step == 1 or self.positions == 1
            return (x.stride(0), x.stride(axis)) if adjacent else None
        if step is None or (x.stride(axis) != 1 and self.channels > 1):
            return None
        return x.stride(0), step

    def empty(self, like: Tensor) -> Tensor:
        """A dense tensor of this layout."""
        if self.layout == PLANAR and self.channel_dim == 1:
            return torch.empty(like.shape, dtype=like.dtype)
        if self.layout == INTERLEAVED and self.channel_dim == -1:
            return torch.empty(like.shape, dtype=like.dtype)
        axis = self.channel_dim % like.dim()
        to = -1 if self.layout == INTERLEAVED else 1
        shape = list(like.shape)
        shape.insert(to % like.dim(), shape.pop(axis))
        return torch.empty(shape, dtype=like.dtype).movedim(to, axis)

    def readable(self, x: Tensor) -> Tensor:
        """x itself, or a copy of it that the kernels can take."""
        return x if self.strides(x) is not None else self.empty(x).copy_(x)

    def map(self, x: Tensor) -> Map:
        """For a tensor that `strides` can take."""
        sample, outer = cast(tuple[int, int], self.strides(x))
        return Map(x.data_ptr(), sample, outer)


def _step(sizes: list[int], strides: list[int]) -> int | None:
    """The stride from position to position, if there is only one; 1 for a single position."""
    step, expected = None, 0
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size == 1:
            continue
        if step is None:
            step = stride
        elif stride != expected:
            return None
        expected = stride * size
    return 1 if step is None else step


def _native(
    shape: _Shape, x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool, isa: str
) -> NativeCall:
    groups = weight.shape[0]
    return NativeCall(
        layout=shape.layout,
        dtype=DTYPES[x.dtype],
        isa=ISAS.index(isa),
        threads=cpu_library.threads(),
        samples=shape.samples,
        groups=groups,
        depth=shape.channels // groups,
        positions=shape.positions,
        eps=eps,
        relu=relu,
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        x=shape.map(x),
    )


def _run(name: str, call: NativeCall) -> None:
    library = cpu_library.load()
    if isinstance(library, str):
        raise InputError(f'impl="cpu" cannot run here: {library}')
    size = getattr(library, f"sgekit_{name}_workspace")(ctypes.byref(call))
    if size == NO_SUCH_ISA:
        raise InputError(
            f"this processor, or this build, has no {ISAS[call.isa]}; "
            f"the best here is {ISAS[library.sgekit_best_isa()]}"
        )
    if size < 0:
        raise RuntimeError(f"sgekit_{name}_workspace refused a call with code {size}")
    workspace = torch.empty(size + 64, dtype=torch.uint8)
    call.workspace = -(-workspace.data_ptr() // 64) * 64
    call.workspace_bytes = size
    code = getattr(library, f"sgekit_{name}")(ctypes.byref(call))
    if code != 0:
        raise RuntimeError(f"sgekit_{name} refused a call with code {code}")


def _flat(parameter: Tensor) -> Tensor:
    return parameter.detach().to(torch.float32).contiguous()


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    eps: float,
    channel_dim: int,
    activation: str | None,
    *,
    isa: str = "best",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `eager.forward`. `isa` is one of ISAS; a test compares them."""
    out = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    y = torch.empty_like(x, dtype=out)
    return y, *forward_into(y, x, weight, bias, residual, eps, channel_dim, activation, isa=isa)


def forward_into(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    eps: float,
    channel_dim: int,
    activation: str | None,
    *,
    isa: str = "best",
) -> tuple[Tensor, Tensor, Tensor]:
    """g, mean and std; the result is written to y, which may be x or the residual itself.

    For inference, where fresh memory costs as much as the work. y has the shape of x and the
    dtype that `forward` gives. What it shares with x or the residual in another way than
    being the same tensor is undefined.
    """
    x, weight, bias = x.detach(), _flat(weight), _flat(bias)
    if x.dtype != y.dtype:
        x = x.to(y.dtype)
    shape = _Shape.of(x, channel_dim)
    groups = weight.shape[0]
    g = torch.zeros(shape.samples, groups, shape.channels // groups)
    mean, std = torch.zeros(shape.samples, groups), torch.zeros(shape.samples, groups)
    if x.numel() == 0:
        return g, mean, std
    x = shape.readable(x)
    written = y if shape.strides(y) is not None else shape.empty(y)
    call = _native(shape, x, weight, bias, eps, activation == "relu", isa)
    call.g, call.mean, call.std = g.data_ptr(), mean.data_ptr(), std.data_ptr()
    call.y = shape.map(written)
    if residual is not None:
        residual = shape.readable(residual.detach().to(y.dtype))
        call.residual = shape.map(residual)
    _run("forward", call)
    if written is not y:
        y.copy_(written)
    return g, mean, std


def backward(
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
    *,
    isa: str = "best",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `eager.backward`."""
    dx = torch.empty_like(x)
    dz = dy.new_empty(0) if y is None else torch.empty_like(y, dtype=dy.dtype)
    dweight, dbias = torch.zeros_like(mean), torch.zeros_like(mean)
    if x.numel() == 0:
        return dx, dz, dweight, dbias
    x, weight, bias = x.to(dy.dtype), _flat(weight), _flat(bias)
    shape = _Shape.of(x, channel_dim)
    x, dy = shape.readable(x), shape.readable(dy)
    direct = dx.dtype == x.dtype and shape.strides(dx) is not None
    dx_written = dx if direct else shape.empty(x)
    g, mean, std = g.contiguous(), mean.contiguous(), std.contiguous()
    call = _native(shape, x, weight, bias, eps, y is not None, isa)
    call.g, call.mean, call.std = g.data_ptr(), mean.data_ptr(), std.data_ptr()
    call.dweight, call.dbias = dweight.data_ptr(), dbias.data_ptr()
    call.dy, call.dx = shape.map(dy), shape.map(dx_written)
    dz_written = dz
    if y is not None:
        y = shape.readable(y.to(dy.dtype))
        dz_written = dz if shape.strides(dz) is not None else shape.empty(dz)
        call.y, call.dz = shape.map(y), shape.map(dz_written)
    _run("backward", call)
    if dx_written is not dx:
        dx.copy_(dx_written)
    if dz_written is not dz:
        dz.copy_(dz_written)
    return dx, dz, dweight, dbias
