"""The public operation: validate, choose an implementation, call it."""

from typing import cast

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from sgekit.errors import InputError
from sgekit.ops import flops as _flops  # noqa: F401  (registers)
from sgekit.ops import library, reference
from sgekit.ops import processes as _processes  # noqa: F401  (notes forks)
from sgekit.ops.autograd import Enhance
from sgekit.ops.layout import Layout
from sgekit.ops.triton_kernels.configuration import DEEPEST, GPUS
from sgekit.ops.validation import validate, validate_switches

IMPLEMENTATIONS = ("cpu", "triton", library.REFERENCE)
"""In the order in which "auto" tries them."""


def spatial_group_enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    channel_dim: int = 1,
    residual: Tensor | None = None,
    activation: str | None = None,
    impl: str = "auto",
    *,
    normalize: bool = True,
    unbiased: bool = True,
) -> Tensor:
    """Spatial Group-wise Enhance (arXiv 1905.09646, section 3): `activation(x * gate + residual)`.

    `x` is `(B, C, *spatial)` with one or more spatial dimensions or, with `channel_dim=-1`,
    `(B, *spatial, C)`. `weight` and `bias` are `(G,)`, where G divides C; `residual` has
    the shape of `x`; `activation` is None or "relu". `sgekit.ops.reference` states the
    equations. The result is laid out in memory as `x` is, in the dtype of `x`, promoted
    with that of `residual`; statistics are taken in float32, or float64 for float64 `x`.

    A constant map, and a map of one position, has the gate sigmoid(bias); where std = 0 the
    gradient through std is taken as 0 and that through c - mean(c) stays, divided by eps.
    Empty batches and maps give empty results.

    For ablations: `unbiased=False` takes the deviation over n instead of n - 1;
    `normalize=False` leaves the normalisation out, its centring too, so that the gate is
    sigmoid(weight * c + bias), and `eps` and `unbiased` mean nothing. The latter is plain
    PyTorch always, the former runs on every implementation.

    `impl` is "auto", "reference" (plain PyTorch), "cpu" or "triton". One named explicitly
    runs or raises with the reason; `available` lists what would run. Under torch.compile,
    export and tracing "auto" and "reference" become plain PyTorch operations, but for "auto"
    in networks compiled for a GPU and in compiled inference on a CPU, which call the kernels.

    Differentiable once with only `x` and the statistics of each group saved (and the
    result, for a ReLU); twice, under torch.func and in forward mode by plain formulas.

    Raises InputError where shapes, devices, `eps`, `channel_dim`, `activation` or `impl`
    don't fit, and TypeError where a tensor is not floating-point or an option not a bool.
    """
    tensors = (x, weight, bias, residual)
    if has_torch_function(tensors):  # torch.fx's proxies among them
        overridden: Tensor = handle_torch_function(
            spatial_group_enhance,
            tensors,
            x,
            weight,
            bias,
            eps,
            channel_dim,
            residual,
            activation,
            impl,
            normalize=normalize,
            unbiased=unbiased,
        )
        return overridden
    validate(x, weight, bias, eps, channel_dim, residual, activation)
    validate_switches(normalize=normalize, unbiased=unbiased)
    residual_dtype = None if residual is None else residual.dtype
    call = library.Call(
        x.device, x.dtype, tuple(x.shape), weight.shape[0], channel_dim, activation, residual_dtype
    )
    needs_grad = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias, residual)
    )
    arguments = (x, weight, bias, residual, eps, channel_dim, activation)
    plain = impl == library.REFERENCE or not (normalize and unbiased)
    compiled = None if plain else compiled_for(call, needs_grad)
    if impl not in ("auto", compiled):
        compiled = None
    if compiled == "triton":
        from sgekit.ops import triton_graph

        return cast(Tensor, triton_graph.enhance(*arguments)[0])
    if compiled is not None:
        return cast(Tensor, library.enhance(*arguments, compiled)[0])
    chosen = _choose(call, impl, normalize)
    if not normalize or (chosen == library.REFERENCE and traced()):
        return reference.enhance(*arguments, normalize, unbiased)
    if not unbiased:
        weight, eps = _over_n(x, weight, eps, channel_dim)
    return cast(
        Tensor,
        Enhance.apply(x, weight, bias, residual, eps, channel_dim, activation, chosen)[0],
    )


def spatial_group_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    channel_dim: int = 1,
    *,
    normalize: bool = True,
    unbiased: bool = True,
) -> Tensor:
    """The attention map that `spatial_group_enhance` multiplies x with, `(B, G, *spatial)`.

    In the dtype of the statistics: float64 for float64, float32 for everything else.
    Differentiable, always by the plain formula. Raises as `spatial_group_enhance` does.
    """
    validate(x, weight, bias, eps, channel_dim)
    validate_switches(normalize=normalize, unbiased=unbiased)
    return reference.gate(x, weight, bias, eps, channel_dim, normalize, unbiased)


def available(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> list[tuple[str, str | None]]:
    """Each implementation with None where it would run, or the reason why it wouldn't.

    In the order in which "auto" tries them, for ordinary 4-D maps of `dtype` on `device`.
    """
    call = _ordinary(device, dtype)
    kind = call.device.type
    absent = kind in GPUS and not torch.get_device_module(kind).is_available()
    reasons = [(impl, library.why_not(impl, call)) for impl in IMPLEMENTATIONS]
    return [
        (impl, f"there is no {kind} device" if absent and impl == "triton" else reason)
        for impl, reason in reasons
    ]


def automatic(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """What "auto" takes, for ordinary 4-D maps of `dtype` on `device`."""
    return first_that_runs(_ordinary(device, dtype)) or library.REFERENCE


def _ordinary(device: torch.device | str, dtype: torch.dtype) -> library.Call:
    return library.Call(torch.device(device), dtype, (8, 256, 56, 56), 64, 1, None)


def first_that_runs(call: library.Call, order: tuple[str, ...] = IMPLEMENTATIONS) -> str | None:
    """Of what "auto" tries. Triton's interpreter, which is for checking, nobody takes unasked."""
    on_cpu = call.device.type == "cpu"
    return next(
        (
            impl
            for impl in order
            if not (impl == "triton" and on_cpu) and library.why_not(impl, call) is None
        ),
        None,
    )


def compiled_for(call: library.Call, needs_grad: bool) -> str | None:
    """The implementation whose kernels the call becomes in a compiled graph; None: it has none.

    What torch.compile makes of the plain operations takes several passes over memory. Exported
    graphs hold nothing of ours. On a CPU kernels serve inference alone: in training the
    compiler's own fusion with what surrounds the operation is the faster one.
    """
    if not torch.compiler.is_dynamo_compiling() or torch.compiler.is_exporting():
        return None
    types = (torch.float32, torch.bfloat16, torch.float16)
    if call.dtype not in types or call.residual_dtype not in (*types, None):
        return None
    if call.device.type == "cpu":
        return "cpu" if not needs_grad and _cpu_kernels() else None
    fits = call.shape[call.channel_dim] // call.groups <= DEEPEST
    kind = call.device.type
    return "triton" if kind in GPUS and fits and _gpu_kernels(kind) else None


def _cpu_kernels() -> bool:
    """Whether there are any; when a graph is compiled, not when it runs."""
    call = library.Call(torch.device("cpu"), torch.float32, (1, 1, 1), 1, 1, None)
    return library.why_not("cpu", call) is None


def _gpu_kernels(kind: str) -> bool:
    # A map so large that kernels of every kind are tried.
    call = library.Call(torch.device(kind), torch.float32, (1, 64, 2**16), 1, 1, None)
    return library.why_not("triton", call) is None


# What torch.compiler.assume_constant_result does; calling that imports the compiler.
_cpu_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]
_gpu_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def traced() -> bool:
    """Whether the call becomes part of a graph, where plain operations fuse and export.

    Under torch.func too: what a custom function returns there can't be written in place.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _over_n(x: Tensor, weight: Tensor, eps: float, channel_dim: int) -> tuple[Tensor, float]:
    """The weight and eps with which the deviation over n - 1 gives the gate of that over n.

    With r = sqrt(n / (n - 1)): weight * c / (std / r + eps) = weight * r * c / (std + eps * r).
    """
    layout = Layout.of(x, weight.shape[0], channel_dim)
    n = layout.count(layout.split(x))
    if n < 2:  # t is 0 either way
        return weight, eps
    r = (n / (n - 1)) ** 0.5
    # Not rounded to half precision; autograd brings the gradient back to the weight's dtype.
    wide = weight if weight.dtype == torch.float64 else weight.float()
    return wide * r, eps * r


def _choose(call: library.Call, impl: str, normalize: bool) -> str:
    if impl == library.REFERENCE or (impl == "auto" and (traced() or not normalize)):
        return library.REFERENCE
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        allowed = ", ".join(f'"{name}"' for name in ("auto", *IMPLEMENTATIONS))
        raise InputError(f"impl must be one of {allowed}, not {impl!r}")
    if impl == "auto":
        return first_that_runs(call) or library.REFERENCE
    reason = library.why_not(impl, call) if normalize else "fused kernels always normalise"
    if reason is not None:
        raise InputError(f'impl="{impl}" cannot run here: {reason}; impl="auto" chooses what can')
    return impl
