"""Fused kernels for CPUs: each pass over memory does all that can be done in it.

Forward reads x from memory once and twice more from the cache, and writes y; backward reads x
and dy and writes dx. The statistics, and what they err, are those of `reference`; sums run in
float64 where they decide whether a constant map stays constant. csrc/ has the kernels,
docs/building.md tells how they get built.
"""

import functools
import itertools
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sgekit.ops import cpu_library
from sgekit.ops.cpu_library import DTYPES, INTERLEAVED, ISAS, NONE, PLANAR, Map, NativeCall
from sgekit.ops.library import Call
from sgekit.ops.reference import output_dtype


def can_run(call: Call) -> str | None:
    """None, or the reason why not."""
    if call.device.type != "cpu":
        return f"it runs on the CPU, not on {call.device.type}"
    for dtype in (call.dtype, call.residual_dtype):
        if dtype is not None and dtype not in DTYPES:
            return f"it computes in float32, too little for {dtype}"
    library = cpu_library.load()
    return library if isinstance(library, str) else None


FLOAT: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""What the kernels write, whatever the defaults of torch are."""


class _View(NamedTuple):
    """How the kernels see maps of one shape; both layouts take any strides between samples."""

    layout: int
    axis: int
    """That of the channels, from 0."""
    shape: torch.Size

    def strides(self, x: Tensor) -> tuple[int, int] | None:
        """`Map`'s sample and outer; None where the kernels can't take x as it lies."""
        return _strides(self.layout, self.axis, self.shape, x.stride())

    def empty(self, dtype: torch.dtype) -> Tensor:
        """A dense tensor of this layout."""
        to = len(self.shape) - 1 if self.layout == INTERLEAVED else 1
        sizes = list(self.shape)
        sizes.insert(to, sizes.pop(self.axis))
        return torch.empty(sizes, dtype=dtype, device="cpu").movedim(to, self.axis)

    def readable(self, x: Tensor) -> Tensor:
        """x itself, or a copy of it that the kernels can take."""
        return x if self.strides(x) is not None else self.empty(x.dtype).copy_(x)

    def writable(self, x: Tensor) -> Tensor:
        """x itself, or a stand-in to be copied into it."""
        return x if self.strides(x) is not None else self.empty(x.dtype)

    def map(self, x: Tensor) -> Map:
        """For a tensor that `strides` can take."""
        return Map(x.data_ptr(), *cast(tuple[int, int], self.strides(x)))


# Networks repeat a few shapes; looking one up takes a tenth of working it out.
@functools.lru_cache(4096)
def _strides(
    layout: int, axis: int, shape: torch.Size, strides: tuple[int, ...]
) -> tuple[int, int] | None:
    spatial = [k for k in range(1, len(shape)) if k != axis and shape[k] != 1]
    # The stride from position to position, where there is only one.
    step = strides[spatial[-1]] if spatial else 1
    for k, next_k in itertools.pairwise(spatial):
        if strides[k] != strides[next_k] * shape[next_k]:
            return None
    if layout == PLANAR:
        return (strides[0], strides[axis]) if step == 1 else None
    return (strides[0], step) if strides[axis] == 1 or shape[axis] == 1 else None


@functools.lru_cache(4096)
def _view(shape: torch.Size, strides: tuple[int, ...], channel_dim: int) -> _View:
    """Interleaved where the channels are adjacent, planar otherwise."""
    axis = channel_dim % len(shape)
    taken = strides[axis] == 1 and _strides(INTERLEAVED, axis, shape, strides) is not None
    # A single channel has no neighbours.
    alone = shape[axis] == 1 and _strides(PLANAR, axis, shape, strides) is not None
    return _View(INTERLEAVED if taken and not alone else PLANAR, axis, shape)


def _call(
    view: _View, x: Tensor, weight: Tensor, bias: Tensor, statistics: tuple[Tensor, ...],
    eps: float, relu: bool, isa: str,
) -> NativeCall:  # fmt: skip
    samples, channels, groups = x.shape[0], x.shape[view.axis], weight.shape[0]
    g, mean, std = (t.data_ptr() for t in statistics)
    return NativeCall(
        view.layout, DTYPES[x.dtype], ISAS.index(isa), cpu_library.threads(),
        samples, groups, channels // groups, x.numel() // (samples * channels),
        eps, relu, weight.data_ptr(), bias.data_ptr(), g, mean, std, view.map(x),
    )  # fmt: skip


def _flat(parameter: Tensor) -> Tensor:
    if parameter.dtype == torch.float32 and parameter.is_contiguous():
        return parameter
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
    y = torch.empty_like(x, dtype=output_dtype(x, residual))
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
    groups = weight.shape[0]
    samples, channels = x.shape[0], x.shape[channel_dim]
    make = partial(torch.empty if x.numel() else torch.zeros, **FLOAT)
    statistics = (
        make(samples, groups, channels // groups),
        make(samples, groups),
        make(samples, groups),
    )
    if x.numel() == 0:
        return statistics
    if x.dtype != y.dtype:
        x = x.to(y.dtype)
    view = _view(x.shape, x.stride(), channel_dim)
    x, weight, bias = view.readable(x), _flat(weight), _flat(bias)
    written = view.writable(y)
    kept = None if residual is None else view.readable(residual.to(y.dtype))
    call = _call(view, x, weight, bias, statistics, eps, activation == "relu", isa)
    call = call._replace(y=view.map(written), residual=NONE if kept is None else view.map(kept))
    cpu_library.run("forward", call)
    if written is not y:
        y.copy_(written)
    return statistics


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
    view = _view(x.shape, x.stride(), channel_dim)
    x, dy = view.readable(x), view.readable(dy)
    dx_written = view.writable(dx) if dx.dtype == x.dtype else view.empty(x.dtype)
    statistics = (g.contiguous(), mean.contiguous(), std.contiguous())
    call = _call(view, x, weight, bias, statistics, eps, y is not None, isa)
    call = call._replace(
        dy=view.map(dy),
        dx=view.map(dx_written),
        dweight=dweight.data_ptr(),
        dbias=dbias.data_ptr(),
    )
    dz_written = dz
    # Held until the kernels have run, as everything they read is.
    after = None if y is None else view.readable(y.to(dy.dtype))
    if after is not None:
        dz_written = view.writable(dz)
        call = call._replace(y=view.map(after), dz=view.map(dz_written))
    cpu_library.run("backward", call)
    if dx_written is not dx:
        dx.copy_(dx_written)
    if dz_written is not dz:
        dz.copy_(dz_written)
    return dx, dz, dweight, dbias
