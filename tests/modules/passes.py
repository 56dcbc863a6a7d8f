"""How much memory traffic a forward pass makes, counted operator by operator."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MOVE_NOTHING = {"_unsafe_view", "detach", "empty", "empty_like", "lift_fresh", "new_empty"}


class Passes(NamedTuple):
    """Numbers moved, in multiples of the numbers in x."""

    read: float
    written: float


def passes(function: Callable[[Tensor], Any], x: Tensor) -> Passes:
    """What `function(x)` moves where every operator reads its operands and writes its result once.

    That is how PyTorch runs plain operators; views move nothing, and a broadcast operand is
    read once. Nothing is computed where x is on the meta device.
    """
    counter = _Counter()
    with torch.no_grad(), counter:
        function(x)
    return Passes(counter.read / x.numel(), counter.written / x.numel())


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read = self.written = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.__name__.split(".")[0] not in _MOVE_NOTHING:
            self.read += _numbers(args)
            self.written += _numbers(out)
        return out


def _numbers(values: Any) -> int:
    """Numbers in all tensors, those that broadcasting repeats counted once."""
    return sum(
        math.prod(n for n, step in zip(t.shape, t.stride(), strict=True) if step)
        for t in tree_leaves(values)
        if isinstance(t, Tensor)
    )
