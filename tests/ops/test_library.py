"""The operation as PyTorch's transforms see it: schemas, autograd, vmap, forward mode, autocast."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torch.utils.flop_counter import FlopCounterMode

from sgekit.ops import library, reference, spatial_group_enhance
from sgekit.ops.reference import enhance as plain
from tests.ops import truth

F64 = torch.float64


def leaves(*shape: int, groups: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shapes = (shape, (groups,), (groups,), shape)
    x, weight, bias, residual = (torch.randn(s, dtype=F64, requires_grad=True) for s in shapes)
    return x, weight, bias, residual


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_opcheck(layout: torch.memory_format, activation: str | None) -> None:
    x, residual = (torch.randn(2, 8, 3, 5).contiguous(memory_format=layout) for _ in range(2))
    weight, bias = torch.randn(4), torch.randn(4)
    forward: Any = (x, weight, bias, residual, 1e-5, 1, activation, "reference")
    torch.library.opcheck(library.enhance, forward)
    y, g, mean, std = library.enhance(*forward)
    after = y if activation else None
    backward = (torch.randn_like(y), x, weight, bias, g, mean, std, after, 1e-5, 1, "reference")
    torch.library.opcheck(library.enhance_backward, backward)


CASES: dict[str, tuple[tuple[int, ...], int, bool, str | None]] = {
    "2d": ((2, 4, 1, 3), 1, False, None),
    "2d-residual-relu": ((1, 4, 2, 2), 1, True, "relu"),
    "tokens-residual": ((1, 4, 4), -1, True, None),
    "one-position": ((2, 2, 1, 1), 1, False, None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_first_and_second_derivatives(
    case: tuple[tuple[int, ...], int, bool, str | None],
) -> None:
    shape, channel_dim, with_residual, activation = case
    x, weight, bias, residual = leaves(*shape, groups=2)

    def f(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return spatial_group_enhance(
            x,
            weight,
            bias,
            channel_dim=channel_dim,
            residual=residual if with_residual else None,
            activation=activation,
        )

    inputs = (x, weight, bias, residual)
    assert gradcheck(f, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, inputs, check_fwd_over_rev=True)


def test_a_constant_map_has_finite_second_derivatives() -> None:
    x = torch.full((1, 4, 3, 3), 2.0, dtype=F64, requires_grad=True)
    weight, bias = (torch.randn(2, dtype=F64, requires_grad=True) for _ in range(2))
    y = spatial_group_enhance(x, weight, bias)
    first = torch.autograd.grad(y.square().sum(), (x, weight, bias), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight, bias))  # type: ignore[arg-type]
    assert all(torch.isfinite(g).all() for g in second)


def test_only_x_and_the_statistics_are_saved() -> None:
    x = torch.randn(2, 64, 16, 16, requires_grad=True)
    weight, bias = torch.zeros(8, requires_grad=True), torch.ones(8, requires_grad=True)
    saved: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        spatial_group_enhance(x, weight, bias)
    assert saved.pop(x.data_ptr()) == x.numel()
    assert sum(saved.values()) <= 2 * (64 + 8 + 8) + 16


def _square(impl: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, weight, bias: impl(x, weight, bias).square().sum()


def _plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return plain(x, weight, bias, None, 1e-5, 1, None)


def test_functional_transforms_agree_with_the_plain_formula() -> None:
    x, weight, bias = (t.detach() for t in leaves(2, 6, 2, 3)[:3])
    for argnums in (0, 1, 2):
        ours = grad(_square(spatial_group_enhance), argnums)(x, weight, bias)
        torch.testing.assert_close(ours, grad(_square(_plain), argnums)(x, weight, bias))
    reverse = jacrev(spatial_group_enhance)(x, weight, bias)
    torch.testing.assert_close(reverse, jacrev(_plain)(x, weight, bias))
    torch.testing.assert_close(jacfwd(spatial_group_enhance)(x, weight, bias), reverse)
    torch.testing.assert_close(
        hessian(_square(spatial_group_enhance))(x[:1], weight, bias),
        hessian(_square(_plain))(x[:1], weight, bias),
    )


@pytest.mark.parametrize("in_dims", [(0, None, None), (2, None, None), (0, 0, None), (None, 0, 0)])
def test_vmap(in_dims: tuple[int | None, ...]) -> None:
    torch.manual_seed(0)
    shapes: list[tuple[int, ...]] = [(2, 6, 2, 3), (3,), (3,)]
    inputs: Any = [
        torch.randn(shape) if dim is None else torch.randn(5, *shape).movedim(0, dim)
        for shape, dim in zip(shapes, in_dims, strict=True)
    ]
    torch.testing.assert_close(
        vmap(spatial_group_enhance, in_dims)(*inputs), vmap(_plain, in_dims)(*inputs)
    )
    for argnums in (0, 1):
        torch.testing.assert_close(
            vmap(grad(_square(spatial_group_enhance), argnums), in_dims)(*inputs),
            vmap(grad(_square(_plain), argnums), in_dims)(*inputs),
        )


def test_vmap_over_an_ordinary_backward() -> None:
    x, weight, bias, residual = leaves(2, 6, 2, 3)
    y = spatial_group_enhance(x, weight, bias, residual=residual, activation="relu")
    directions = torch.randn(4, *y.shape, dtype=F64)
    inputs = (x, weight, bias, residual)
    batched = torch.autograd.grad(y, inputs, directions, is_grads_batched=True, retain_graph=True)
    for k, direction in enumerate(directions):
        single = torch.autograd.grad(y, inputs, direction, retain_graph=True)
        torch.testing.assert_close(tuple(g[k] for g in batched), single)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_statistics_in_fp32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 8, 3)
    weight, bias = (torch.randn(4, requires_grad=True) for _ in range(2))
    with torch.autocast("cpu", dtype):
        x = convolution(torch.randn(2, 3, 9, 9))
        y = spatial_group_enhance(x, weight, bias)
        loss = y.float().square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.dtype == y.dtype == dtype
    exact = _plain(x.detach().double(), weight.detach().double(), bias.detach().double())
    assert truth.error(y, exact).maximum <= torch.finfo(dtype).eps / 2
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.isfinite().all()


def test_float16_does_not_overflow() -> None:
    x = (torch.randn(2, 8, 16, 16) * 1000).half().requires_grad_()
    weight, bias = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    y = spatial_group_enhance(x, weight, bias)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_flop_counter_sees_the_operation(channel_dim: int) -> None:
    x = torch.randn((2, 8, 3, 5) if channel_dim == 1 else (2, 3, 5, 8))
    with FlopCounterMode(display=False) as counter:
        spatial_group_enhance(x, torch.randn(4), torch.randn(4), channel_dim=channel_dim)
    numbers, positions = 2 * 8 * 15, 2 * 4 * 15
    assert counter.get_total_flops() == 5 * numbers + 8 * positions + 2 * 8 + 4 * 2 * 4


def test_statistics_dtype() -> None:
    wide = {d: reference.statistics_dtype(torch.empty(0, dtype=d)) for d in (F64, torch.half)}
    assert wide == {F64: F64, torch.half: torch.float32}
