"""Maps as the kernels of `triton` see them, and how a kernel is run on them."""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgekit.ops.triton_kernels.configuration import Tile


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

    def programs(self, tile: Tile, groups: int) -> int:
        """One for each block of groups of each sample."""
        return self.samples * tile.blocks(groups)

    def lies(self, tile: Tile, groups: int) -> dict[str, Any]:
        """What every kernel on tiles of these maps is compiled for."""
        return tile.lies(self.channels, groups, self.n, self.last)


class _Graphs(threading.local):
    built = False


_graphs = _Graphs()


@contextlib.contextmanager
def in_graphs() -> Iterator[None]:
    """Kernels launched in here become calls in the graph that PyTorch builds, if it builds one.

    Elsewhere that would cost a launch ten times its time, and some memory for good.
    """
    before, _graphs.built = _graphs.built, True
    try:
        yield
    finally:
        _graphs.built = before


def launch(kernel: Any, tile: Tile, programs: int, *args: Any, **meta: Any) -> None:
    """Run a kernel on so many programs, on the device of its tensors."""
    if _graphs.built and not interpreted():
        kernel = torch.library.wrap_triton(kernel)
    with _on(args[0].device):
        kernel[(programs,)](
            *args, **meta, GROUPS=tile.groups, DEPTH=tile.depth, num_warps=tile.warps
        )


def _on(device: torch.device) -> Any:
    if device.type == "cpu" or torch.get_device_module(device).device_count() < 2:
        return contextlib.nullcontext()
    return torch.get_device_module(device).device(device)


def floats(like: Tensor, *sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=torch.float32, device=like.device)
