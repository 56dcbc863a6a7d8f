"""The operation as PyTorch knows it: schemas, fake kernels and vmap rules.

`sgekit::enhance` and `sgekit::enhance_backward` carry the name of the implementation that
runs them. Neither has an autograd formula; `autograd` holds that.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from sgekit.errors import InputError
from sgekit.ops import eager
from sgekit.ops.reference import output_dtype, statistics_dtype

REFERENCE = "reference"
FUSED = {"cpu": "sgekit.ops.cpu", "triton": "sgekit.ops.triton"}
"""Modules of fused kernels, by the name of the implementation; imported when first asked for."""


class Call(NamedTuple):
    """What an implementation must know to say whether it can run."""

    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    groups: int
    channel_dim: int
    activation: str | None
    residual_dtype: torch.dtype | None = None


class Backend(Protocol):
    """What a module of fused kernels offers; `eager` states what the functions take and return."""

    def can_run(self, call: Call) -> str | None:
        """None, or the reason why not."""

    forward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def why_not(impl: str, call: Call) -> str | None:
    """Why `impl`, one of "reference" and the keys of FUSED, can't run `call`; None if it can."""
    if impl == REFERENCE:
        return None
    backend = _fused(impl)
    return backend if isinstance(backend, str) else backend.can_run(call)


@functools.cache
def _fused(impl: str) -> Backend | str:
    """The module of the fused kernels, or the reason why there is none."""
    try:
        return cast(Backend, importlib.import_module(FUSED[impl]))
    except ModuleNotFoundError as error:
        if error.name == FUSED[impl]:
            return "this version of sgekit has no such kernels"
        return f"it needs the package {error.name}, which is not installed"


def _kernels(impl: str) -> Backend:
    if impl == REFERENCE:
        return cast(Backend, eager)
    backend = _fused(impl)
    if isinstance(backend, str):
        raise InputError(f"implementation {impl!r} cannot run here: {backend}")
    return backend


# Defined at this level and not by torch.library.custom_op, whose wrappers double the time
# of a small call and import the compiler at the first.
torch.library.define(
    "sgekit::enhance",
    "(Tensor x, Tensor weight, Tensor bias, Tensor? residual, float eps, int channel_dim, "
    "str? activation, str impl) -> (Tensor y, Tensor g, Tensor mean, Tensor std)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)
torch.library.define(
    "sgekit::enhance_backward",
    "(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor g, Tensor mean, Tensor std, "
    "Tensor? y, float eps, int channel_dim, str impl) "
    "-> (Tensor dx, Tensor dz, Tensor dweight, Tensor dbias)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "sgekit::enhance_",
    "(Tensor(a!) x, Tensor weight, Tensor bias, Tensor? residual, float eps, int channel_dim, "
    "str? activation, str impl) -> ()",
    tags=torch.Tag.pt2_compliant_tag,
)
enhance = torch.ops.sgekit.enhance.default
"""As `eager.forward`."""
enhance_backward = torch.ops.sgekit.enhance_backward.default
"""As `eager.backward`; dweight and dbias are those of each sample."""
enhance_ = torch.ops.sgekit.enhance_.default
"""As `enhance`, y written over x, by fused kernels alone; for inference, where fresh memory
costs as much as the work."""


@torch.library.impl("sgekit::enhance", "default")
def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _kernels(args[-1]).forward(*args[:-1])


@torch.library.impl("sgekit::enhance_", "default")
def _forward_over(x: Tensor, *args: Any) -> None:
    fused: Any = _fused(args[-1])
    fused.forward_into(x, x, *args[:-1])


@torch.library.impl("sgekit::enhance_backward", "default")
def _backward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _kernels(args[-1]).backward(*args[:-1])


@torch.library.register_fake("sgekit::enhance")  # type: ignore[untyped-decorator]
def _forward_shapes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    eps: float,
    channel_dim: int,
    activation: str | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples, groups = x.shape[0], weight.shape[0]
    dtype = statistics_dtype(x)
    return (
        torch.empty_like(x, dtype=output_dtype(x, residual)),
        x.new_empty((samples, groups, x.shape[channel_dim] // groups), dtype=dtype),
        x.new_empty((samples, groups), dtype=dtype),
        x.new_empty((samples, groups), dtype=dtype),
    )


@torch.library.register_fake("sgekit::enhance_")  # type: ignore[untyped-decorator]
def _forward_over_shapes(*args: Any) -> None:
    return None


@torch.library.register_fake("sgekit::enhance_backward")  # type: ignore[untyped-decorator]
def _backward_shapes(
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
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dz = dy.new_empty(0) if y is None else torch.empty_like(y, dtype=dy.dtype)
    return torch.empty_like(x), dz, torch.empty_like(mean), torch.empty_like(mean)


def _vmap(op: Callable[..., Any], parameters: tuple[int, ...]) -> Callable[..., Any]:
    """A vmap rule: fold the mapped axis into the samples, or loop where parameters are mapped.

    `parameters` are the positions of weight and bias, which have no axis of samples.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        if any(in_dims[k] is not None for k in parameters):
            outputs = [
                op(
                    *(
                        a if d is None else a.select(d, i)
                        for a, d in zip(args, in_dims, strict=True)
                    )
                )
                for i in range(size)
            ]
            return tuple(map(torch.stack, zip(*outputs, strict=True))), (0, 0, 0, 0)

        def fold(k: int, value: Any) -> Any:
            if not isinstance(value, Tensor) or k in parameters:
                return value
            dim = in_dims[k]
            mapped = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
            return mapped.flatten(0, 1)

        folded = op(*(fold(k, value) for k, value in enumerate(args)))
        # An empty dz has no samples to unfold.
        return tuple(
            out.new_empty((size, 0)) if out.shape == (0,) else out.unflatten(0, (size, -1))
            for out in folded
        ), (0, 0, 0, 0)

    return rule


torch.library.register_vmap("sgekit::enhance", _vmap(enhance, (1, 2)))
torch.library.register_vmap("sgekit::enhance_backward", _vmap(enhance_backward, (2, 3)))
