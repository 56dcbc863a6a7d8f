"""Values and every gradient against the float64 transcription."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sgekit.ops import spatial_group_enhance, spatial_group_gate
from sgekit.ops.reference import enhance as plain
from tests.ops import truth

GROUPS = 4

# Odd sizes, fewer positions than channels, one channel a group, every number of dimensions.
SHAPES = {
    "2d": (3, 24, 7, 9),
    "2d-small": (2, 64, 1, 3),
    "2d-one-channel-a-group": (2, 4, 5, 5),
    "1d": (3, 12, 17),
    "3d": (2, 8, 3, 5, 4),
    "2d-large": (1, 8, 61, 67),
}
LAYOUTS = ["contiguous", "channels_last", "strided", "transposed"]

# fp32: a few roundings. Low precision: x is quantised before the float64 truth sees it, so
# that what remains is one rounding of the result and of each gradient.
TOLERANCE = {
    torch.float32: truth.Error(1e-6, 5e-7),
    torch.bfloat16: truth.Error(2**-8, 2**-9),
    torch.float16: truth.Error(2**-11, 2**-12),
}


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The numbers of `x` with other strides."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        return torch.stack([x, x], -1).flatten(-2)[..., ::2]
    if layout == "transposed":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x.contiguous()


def parameters(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(GROUPS, dtype=dtype), torch.randn(GROUPS, dtype=dtype)


def run_both(
    x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Result and gradients by sgekit and by the transcription, for one random dy."""
    leaves = [t.clone(memory_format=torch.preserve_format) for t in (x, weight, bias)]
    inputs: Any = [t.requires_grad_() for t in leaves]
    y = spatial_group_enhance(*inputs)
    dy = torch.randn_like(y)
    ours = dict(zip(("x", "weight", "bias"), torch.autograd.grad(y, inputs, dy), strict=True))
    exact: Any = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = truth.enhance(*exact)
    grads = torch.autograd.grad(expected, exact, dy.double())
    return {"y": y, **ours}, {"y": expected, **dict(zip(ours, grads, strict=True))}


def assert_close(ours: dict[str, Tensor], exact: dict[str, Tensor], tolerance: truth.Error) -> None:
    for name, value in ours.items():
        error = truth.error(value, exact[name])
        assert error.maximum <= tolerance.maximum, (name, error)
        assert error.rms <= tolerance.rms, (name, error)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_value_and_gradients(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = lay_out(torch.randn(shape).to(dtype), layout)
    weight, bias = parameters()
    ours, exact = run_both(x, weight, bias)
    assert ours["y"].dtype == ours["x"].dtype == dtype
    assert ours["weight"].dtype == ours["bias"].dtype == torch.float32
    tolerance = TOLERANCE[dtype]
    low = {"y", "x"} if dtype != torch.float32 else set(ours)
    assert_close({k: v for k, v in ours.items() if k in low}, exact, tolerance)
    # The parameters' gradients are sums in fp32 and never rounded to the dtype of x.
    rest = {k: v for k, v in ours.items() if k not in low}
    assert_close(rest, exact, truth.Error(3e-6, 2e-6))


@pytest.mark.parametrize(
    ("mean", "std"), [(0, 1), (50, 1), (100, 0.1), (1000, 1), (1e-3, 1e-6)], ids=str
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_digits_survive_a_large_mean(layout: str, mean: float, std: float) -> None:
    torch.manual_seed(0)
    x = lay_out(torch.randn(2, 32, 13, 14) * std + mean, layout)
    ours, exact = run_both(x, *parameters())
    assert_close(ours, exact, truth.Error(1e-6, 1e-6))


@pytest.mark.parametrize("value", [0.0, 3.0, 50.0, 0.1, -1000.3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_constant_map_has_the_gate_of_the_bias(layout: str, value: float) -> None:
    torch.manual_seed(0)
    x = lay_out(torch.full((2, 8, 7, 5), value), layout).requires_grad_()
    weight, bias = (p.requires_grad_() for p in parameters())
    y = spatial_group_enhance(x, weight, bias)
    expected = torch.sigmoid(bias.detach()).repeat_interleave(2)[:, None, None] * x.detach()
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=0)
    dy = torch.randn_like(y)
    dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), dy)
    # With t = 0 only the slope of the gate at the bias remains, taken from the mean.
    s = torch.sigmoid(bias.detach().double())
    slope = (s * (1 - s))[:, None, None]
    da = (dy.double() * x.detach()).reshape(2, GROUPS, 2, 7, 5).sum(2) * slope
    dc = weight.detach().double()[:, None, None] / 1e-5 * (da - da.mean((2, 3), keepdim=True))
    exact_dx = dy * s.repeat_interleave(2)[:, None, None] + dc.repeat_interleave(2, 1) * x.detach()
    assert truth.error(dx, exact_dx).maximum <= 1e-5
    assert truth.error(dbias, da.sum((0, 2, 3))).maximum <= 1e-5
    # t is a rounding error of a rounding error: what reaches weight is nothing beside da.
    assert dweight.abs().max() <= 1e-3 * da.abs().sum((0, 2, 3)).max() + 1e-30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("function", [spatial_group_enhance, plain], ids=["eager", "plain"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("d", [1, 4, 8])
@pytest.mark.parametrize(
    ("size", "scale"), [((28, 28), 100), ((56, 56), 1000), ((31, 37), 12345)], ids=str
)
def test_large_constants_leave_no_rounding_in_the_gate(
    size: tuple[int, int], scale: float, d: int, layout: str, function: Any, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    value = (torch.randn(2, GROUPS * d, 1, 1) * scale).to(dtype)
    x = lay_out(value.expand(-1, -1, *size), layout).requires_grad_()
    weight, bias = parameters()
    if function is plain:
        y = plain(x, weight, bias, None, 1e-5, 1, None)
    else:
        y = spatial_group_enhance(x, weight, bias, impl="reference")
    gate = spatial_group_gate(x, weight, bias).detach()
    assert float((gate - bias.sigmoid()[:, None, None]).abs().max()) <= 1e-6
    s = bias.double().sigmoid().repeat_interleave(d)[:, None, None]
    assert truth.error(y, x.double() * s).maximum <= TOLERANCE[dtype].maximum
    # da is constant, so that dc is 0 and dx = s, but for how da's sum over d is rounded.
    (dx,) = torch.autograd.grad(y.sum(), x)
    error = (dx.double() - s).abs().amax((2, 3))
    terms = value.double().abs().reshape(2, GROUPS, d)
    da = terms.sum(2, keepdim=True) / 4 * (2**-23 if d > 1 else 0)
    rounding = (da * weight.double().abs()[:, None] / 1e-5 * terms).flatten(1)
    assert bool((error <= TOLERANCE[dtype].maximum + rounding).all())


@pytest.mark.parametrize("shape", [(3, 8, 1, 1), (3, 8, 1), (1, 4, 1, 1, 1)], ids=str)
def test_single_position_has_the_gate_of_the_bias(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours, exact = run_both(torch.randn(shape), *parameters())
    assert torch.equal(ours.pop("weight"), torch.zeros(GROUPS))
    assert_close(ours, exact, TOLERANCE[torch.float32])


@pytest.mark.parametrize("shape", [(0, 8, 3, 3), (2, 8, 0, 3), (2, 8, 0), (0, 8, 0)], ids=str)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_empty_input(shape: tuple[int, ...], activation: str | None) -> None:
    x = torch.randn(shape, requires_grad=True)
    weight, bias = (p.requires_grad_() for p in parameters())
    y = spatial_group_enhance(x, weight, bias, residual=x, activation=activation)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert y.shape == shape
    assert x.grad is not None
    assert x.grad.shape == shape
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(GROUPS))
    assert bias.grad is not None
    assert torch.equal(bias.grad, torch.zeros(GROUPS))


@pytest.mark.parametrize("shape", [(2, 9, 8), (2, 5, 6, 8), (2, 3, 2, 4, 8)], ids=str)
def test_channels_at_the_end(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    weight, bias = (p.requires_grad_() for p in parameters())
    y = spatial_group_enhance(x, weight, bias, channel_dim=-1)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, weight, bias), dy)
    moved = spatial_group_enhance(x.movedim(-1, 1), weight, bias)
    expected = torch.autograd.grad(moved, (x, weight, bias), dy.movedim(-1, 1))
    torch.testing.assert_close(y, moved.movedim(1, -1))
    torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_residual_and_activation(
    dtype: torch.dtype, with_residual: bool, activation: str | None
) -> None:
    torch.manual_seed(0)
    x, r = (torch.randn(2, 8, 6, 5).to(dtype) for _ in range(2))
    weight, bias = parameters()
    ours: Any = [t.clone().requires_grad_() for t in (x, weight, bias, r)]
    options: Any = {"residual": ours[3] if with_residual else None, "activation": activation}
    y = spatial_group_enhance(ours[0], ours[1], ours[2], **options)
    exact: Any = [t.double().requires_grad_() for t in (x, weight, bias, r)]
    expected = truth.enhance(*exact[:3])
    if with_residual:
        expected = expected + exact[3]
    if activation == "relu":
        expected = expected.relu()
    wanted = 4 if with_residual else 3
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, ours[:wanted], dy)
    exact_grads = torch.autograd.grad(expected, exact[:wanted], dy.double())
    limit = truth.Error(1e-6, 1e-6) if dtype == torch.float32 else truth.Error(2**-8, 2**-8)
    names = ("y", "x", "weight", "bias", "residual")
    assert_close(
        dict(zip(names, (y, *grads), strict=False)),
        dict(zip(names, (expected, *exact_grads), strict=False)),
        limit,
    )


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_gate_is_what_x_is_multiplied_with(channel_dim: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 3)
    weight, bias = parameters()
    given = x if channel_dim == 1 else x.movedim(1, -1)
    gate = spatial_group_gate(given, weight, bias, channel_dim=channel_dim)
    assert gate.shape == (2, GROUPS, 5, 3)
    product = x * gate.repeat_interleave(2, 1)
    torch.testing.assert_close(product, truth.enhance(x, weight, bias).float())


def test_the_specification_passes_gradcheck() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def f(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return plain(x, weight, bias, None, 1e-5, 1, None)

    assert torch.autograd.gradcheck(f, (x, weight, bias))
    torch.testing.assert_close(f(x, weight, bias), truth.enhance(x, weight, bias))
