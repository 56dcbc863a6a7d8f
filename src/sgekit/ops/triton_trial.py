"""The kernels of `triton` and `triton_tail` against plain PyTorch, once before a GPU uses them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from sgekit.ops import eager, reference, triton, triton_tail

Pair = tuple[str, Tensor, Tensor]
PRECISE = 1e-3, 1e-4
HALF = 2e-2, 2e-2
"""Relative and absolute tolerance."""


def trial(device: torch.device, large: bool) -> str | None:
    """None, or what went wrong with small maps, or with one so large that programs take turns.

    No GPU has run the kernels yet. What a compiler or driver makes of them must not end a user's
    training.
    """
    # A thread of its own has none of the caller's: a checkpoint's hooks on saved tensors, modes
    # (of tensors without memory, a default device, inference, autocast), torch.func.
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(compare, device, large).result()


def compare(device: torch.device, large: bool) -> str | None:
    """As `trial`, in this thread."""
    try:
        if large:
            return differing(device, (2, 16, 40, 40), torch.float32, last=True)
        return differing(device, (2, 16, 8, 8), torch.float32, last=True) or differing(
            device, (2, 16, 8, 8), torch.bfloat16, last=False
        )
    except Exception as error:  # whatever a compiler, its absence or a driver may raise
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def differing(
    device: torch.device, shape: tuple[int, int, int, int], dtype: torch.dtype, last: bool
) -> str | None:
    """Which of the results for a map of this shape is wrong, if one is."""
    made = torch.Generator("cpu").manual_seed(0)
    rand = partial(torch.randn, generator=made, device="cpu", dtype=torch.float32)
    laid = torch.channels_last if last else torch.contiguous_format
    x, dy = (rand(shape).to(dtype).contiguous(memory_format=laid) for _ in range(2))
    weight, bias = rand(4), rand(4)
    scale, shift = rand(shape[1]), rand(shape[1])
    relative, absolute = PRECISE if dtype == torch.float32 else HALF
    for pairs in (
        operation(device, x, dy, weight, bias),
        tail(device, x, dy, weight, bias, scale, shift),
    ):
        for name, ours, plain in pairs:
            close = torch.allclose(ours.cpu().float(), plain, rtol=relative, atol=absolute)
            if not close:
                return f"wrong numbers in {name} for {str(dtype).removeprefix('torch.')}"
    return None


# Plain PyTorch computes on the CPU, where autograd takes this thread. Of a GPU it would take the
# one that may be waiting for this one: the backward pass of a user's, with a first call in it.


def operation(
    device: torch.device, x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor
) -> Iterator[Pair]:
    """Each result of the operation with x as its residual and ReLU, ours and plain PyTorch's."""
    wide = x.float()
    y, g, mean, std = eager.forward(wide, weight, bias, wide, 1e-5, 1, "relu")
    there_x, there_dy, there_y = (t.to(device) for t in (x, dy, y.to(x.dtype)))
    there = weight.to(device), bias.to(device)
    ours = triton.forward(there_x, *there, there_x, 1e-5, 1, "relu")
    yield from zip(("y", "g", "mean", "std"), ours, (y, g, mean, std), strict=True)
    yield from zip(
        ("dx", "dz", "dweight", "dbias"),
        triton.backward(there_dy, there_x, *there, *ours[1:], there_y, 1e-5, 1),
        eager.backward(dy.float(), wide, weight, bias, g, mean, std, y, 1e-5, 1),
        strict=True,
    )


def tail(
    device: torch.device, x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor, scale: Tensor,
    shift: Tensor,
) -> Iterator[Pair]:  # fmt: skip
    """The same behind a batch norm."""
    leaves = [t.float().clone().requires_grad_() for t in (x, scale, shift, weight, bias)]
    z = F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], True, 0.0, 1e-5)
    plain = reference.enhance(z, leaves[3], leaves[4], x.float(), 1e-5, 1, "relu")
    grads = torch.autograd.grad(plain, leaves, dy.float())
    plain = plain.detach()
    x, dy, y, weight, bias, scale, shift = (
        t.detach().to(device) for t in (x, dy, plain.to(x.dtype), weight, bias, scale, shift)
    )
    means, mean, var = triton_tail.moments(x, 1)
    norm = mean, (var + 1e-5).rsqrt(), scale, shift
    ours, _, middle, spread = triton_tail.forward(x, *norm, means, weight, bias, x, 1e-5, 1, "relu")
    yield "y behind a norm", ours, plain
    dx, _, dscale, dshift, dweight, dbias = triton_tail.backward(
        dy, x, y, *norm, means, middle, spread, weight, bias, 1e-5, 1, True
    )
    names = ("dx", "dscale", "dshift", "dweight", "dbias")
    found = (dx, dscale, dshift, dweight.sum(0), dbias.sum(0))
    for name, mine, other in zip(names, found, grads, strict=True):
        yield f"{name} behind a norm", mine, other
