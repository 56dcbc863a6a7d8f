"""How much arithmetic a model does, the parts that usual counters leave out included."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sgekit.modules import ATTENTION

_aten = torch.ops.aten

# Two operations each, a product and a sum, by the shapes of their tensors.
_MULTIPLY_ADDS = {_aten.convolution, _aten.addmm, _aten.mm, _aten.bmm, _aten.baddbmm}

_FREE = {
    "_to_copy", "_unsafe_view", "arange", "cat", "clone", "constant_pad_nd", "copy_", "detach",
    "empty", "empty_like", "fill_", "full", "index", "lift_fresh", "new_empty", "new_ones",
    "new_zeros", "ones", "ones_like", "promote_types", "reflection_pad2d", "replication_pad2d",
    "stack", "upsample_nearest2d", "zero_", "zeros", "zeros_like",
}  # fmt: skip
"""Operations that only move or make numbers; views are free as well."""

_REDUCTIONS = {"amax", "amin", "max", "mean", "min", "prod", "sum"}


@dataclass(frozen=True)
class Operations:
    """The operations of one forward pass in evaluation mode.

    Most counters, the paper's among them, report `multiply_adds` and little else; for an
    attention layer that is next to nothing, because what it does is elementwise.
    """

    multiply_adds: int
    """Multiply-adds (MAC) of convolutions and linear layers, without their biases."""
    other: int
    """All the rest: each sum, product, comparison or function value is one."""
    attention: int
    """What the attention layers take in all; a multiply-add is two."""
    uncounted: tuple[str, ...] = ()
    """Operators that met no rule and count as nothing; empty for every network of the zoo."""


def count_operations(model: nn.Module, input_size: tuple[int, ...]) -> Operations:
    """Count the forward pass of `model` for an input `(B, C, H, W)`, or `(C, H, W)` for B = 1.

    Nothing is computed and nothing allocated: shapes alone are propagated. `model` is left
    as it was. BatchNorm counts as in evaluation: one product and one sum a number. Of a
    maximum pool, each comparison within a window counts; of a mean, each sum and the division.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    size = input_size if len(input_size) > 3 else (1, *input_size)
    counter = _Counter()
    handles = [
        handle
        for layer in _attention_layers(model)
        for handle in (
            layer.register_forward_pre_hook(counter.enter),
            layer.register_forward_hook(counter.leave),
        )
    ]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), counter:
            functional_call(model, shapes, (torch.empty(size, dtype=dtype, device="meta"),))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return Operations(
        counter.multiply_adds, counter.other, counter.attention, tuple(sorted(counter.uncounted))
    )


def _attention_layers(model: nn.Module) -> list[nn.Module]:
    ours = tuple(cls for name, cls in ATTENTION.items() if name != "none")
    # timm's name for the attention of a block, ours or its own.
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, ours) or name.rpartition(".")[2] == "se"
    ]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds = self.other = self.attention = self.depth = 0
        self.uncounted: set[str] = set()

    def enter(self, *_: Any) -> None:
        self.depth += 1

    def leave(self, *_: Any) -> None:
        self.depth -= 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in _MULTIPLY_ADDS:
            macs = flop_registry[packet](*args, **(kwargs or {}), out_val=out) // 2
            self.multiply_adds += macs
            self._add(_bias(packet, args, out), 2 * macs)
        elif packet is torch.ops.sgekit.enhance:
            self._add(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
        elif not func.is_view and func.__name__.split(".")[0] not in _FREE:
            self._add(self._elementwise(func, args, out))
        return out

    def _add(self, other: int, macs_twice: int = 0) -> None:
        self.other += other
        if self.depth:
            self.attention += other + macs_twice

    def _elementwise(self, func: Any, args: Any, out: Any) -> int:
        name = func.__name__.split(".")[0]
        result = out[0] if isinstance(out, tuple | list) else out
        if name in _RULES:
            return _RULES[name](args, result)
        if name in _REDUCTIONS:
            # A mean divides each of its results as well.
            return int(args[0].numel()) + (int(result.numel()) if name == "mean" else 0)
        if torch.Tag.pointwise in func.tags and isinstance(result, Tensor):
            return int(result.numel())
        self.uncounted.add(str(func))
        return 0


def _bias(packet: Any, args: Any, out: Tensor) -> int:
    if packet is _aten.convolution:
        biased = args[2] is not None
    else:
        biased = packet in (_aten.addmm, _aten.baddbmm)
    return out.numel() if biased else 0


def _window(args: Any, out: Tensor) -> int:
    kernel = args[1] if len(args[1]) > 1 else [args[1][0]] * 2
    return int(math.prod(kernel)) * out.numel()


_RULES: dict[str, Callable[[Any, Tensor], int]] = {
    "native_batch_norm": lambda args, out: 2 * out.numel(),
    "_native_batch_norm_legit_no_training": lambda args, out: 2 * out.numel(),
    "cudnn_batch_norm": lambda args, out: 2 * out.numel(),
    "native_group_norm": lambda args, out: 7 * out.numel(),
    "native_layer_norm": lambda args, out: 7 * out.numel(),
    "max_pool2d_with_indices": _window,
    "avg_pool2d": _window,
    "_adaptive_avg_pool2d": lambda args, out: args[0].numel() + out.numel(),
    "_softmax": lambda args, out: 4 * out.numel(),
    "hardswish": lambda args, out: out.numel(),
    # Mean, centring, square and sum; the two divisions and the root.
    "std_mean": lambda args, out: 4 * args[0].numel() + 3 * out.numel(),
}
