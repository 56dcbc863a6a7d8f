"""The kernels of `triton` and `triton_tail` against plain PyTorch, once before a GPU uses them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from sgekit.ops import eager, reference, triton, triton_tail

Pair = tuple[str, Tensor, Tensor]


def trial(device: torch.device, large: bool) -> str | None:
    """None, or what went wrong with a small map, or with one so large that programs take turns.

    No GPU has run the kernels yet. What a compiler or driver makes of them must not end a user's
    training.
    """
    shape = (2, 40, 40, 16) if large else (2, 8, 8, 16)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        made = torch.Generator().manual_seed(0)
        x, dy = (torch.randn(shape, generator=made).to(device).movedim(-1, 1) for _ in range(2))
        weight, bias = (torch.randn(4, generator=made).to(device) for _ in range(2))
        scale, shift = (torch.randn(16, generator=made).to(device) for _ in range(2))
        try:
            for pairs in (
                operation(x, dy, weight, bias),
                tail(x, dy, weight, bias, scale, shift),
            ):
                for name, ours, plain in pairs:
                    if not torch.allclose(ours, plain, rtol=1e-3, atol=1e-4):
                        return f"wrong numbers in {name}"
        except Exception as error:  # whatever a compiler, its absence or a driver may raise
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


def operation(x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor) -> Iterator[Pair]:
    """Each result of the operation with x as its residual and ReLU, ours and plain PyTorch's."""
    y, g, mean, std = eager.forward(x, weight, bias, x, 1e-5, 1, "relu")
    ours = triton.forward(x, weight, bias, x, 1e-5, 1, "relu")
    yield from zip(("y", "g", "mean", "std"), ours, (y, g, mean, std), strict=True)
    yield from zip(
        ("dx", "dz", "dweight", "dbias"),
        triton.backward(dy, x, weight, bias, *ours[1:], y, 1e-5, 1),
        eager.backward(dy, x, weight, bias, g, mean, std, y, 1e-5, 1),
        strict=True,
    )


def tail(
    x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor
) -> Iterator[Pair]:
    """The same behind a batch norm."""
    with torch.enable_grad():
        leaves = [t.clone().requires_grad_() for t in (x, scale, shift, weight, bias)]
        z = F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], True, 0.0, 1e-5)
        plain = reference.enhance(z, leaves[3], leaves[4], x, 1e-5, 1, "relu")
        grads = torch.autograd.grad(plain, leaves, dy)
    means, mean, var = triton_tail.moments(x, 1)
    norm = mean, (var + 1e-5).rsqrt(), scale, shift
    y, _, middle, spread = triton_tail.forward(x, *norm, means, weight, bias, x, 1e-5, 1, "relu")
    yield "y behind a norm", y, plain
    dx, _, dscale, dshift, dweight, dbias = triton_tail.backward(
        dy, x, plain.detach(), *norm, means, middle, spread, weight, bias, 1e-5, 1, True
    )
    names = ("dx", "dscale", "dshift", "dweight", "dbias")
    found = (dx, dscale, dshift, dweight.sum(0), dbias.sum(0))
    for name, ours, other in zip(names, found, grads, strict=True):
        yield f"{name} behind a norm", ours, other
