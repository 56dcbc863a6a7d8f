"""`normalize=False` and `unbiased=False`: values, gradients, transforms, and who runs them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from sgekit.errors import InputError
from sgekit.ops import spatial_group_enhance, spatial_group_gate
from sgekit.ops.api import IMPLEMENTATIONS
from sgekit.ops.reference import enhance as plain
from tests.ops import truth

GROUPS = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "over-n": {"unbiased": False},
    "not-normalised": {"normalize": False},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
# As for the defaults: a few roundings, or one of the result and of each gradient.
LIMIT = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def inputs(*shape: int, dtype: torch.dtype = torch.float32, groups: int = GROUPS) -> list[Tensor]:
    """x, weight and bias; small enough that an unnormalised gate is not shut or wide open."""
    torch.manual_seed(0)
    parameter = torch.float64 if dtype == torch.float64 else torch.float32
    made = [torch.randn(shape).to(dtype), *(torch.randn(groups, dtype=parameter) for _ in "wb")]
    return [tensor.requires_grad_() for tensor in made]


def specification(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return plain(x, weight, bias, None, 1e-5, 1, None, **options)


def assert_exact(function: Callable[..., Tensor], leaves: list[Tensor], **options: Any) -> None:
    """Result and gradients are those of the float64 transcription, for one random dy."""
    y = function(*leaves, **options)
    dy = torch.randn_like(y)
    ours = (y, *torch.autograd.grad(y, leaves, dy))
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = truth.enhance(exact[0], exact[1], exact[2], **options)
    wanted = (expected, *torch.autograd.grad(expected, exact, dy.double()))
    for name, mine, true in zip(("y", "x", "weight", "bias"), ours, wanted, strict=True):
        of = leaves[0] if name in ("y", "x") else leaves[1]
        assert mine.dtype == of.dtype
        # The parameters' gradients are sums in float32, never rounded to the dtype of x.
        limit = LIMIT[of.dtype] if name in ("y", "x") else 3e-6
        assert truth.error(mine, true).maximum <= limit, (name, truth.error(mine, true))
    assert y.stride() == ours[1].stride() == leaves[0].stride()


@pytest.mark.parametrize("dtype", LIMIT, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "function", [spatial_group_enhance, specification], ids=["public", "plain"]
)
@each_option
def test_value_and_gradients(
    options: dict[str, Any],
    function: Callable[..., Tensor],
    layout: torch.memory_format,
    dtype: torch.dtype,
) -> None:
    for shape in ((3, 24, 7, 9), (2, 4, 5, 1), (2, 8, 1, 2)):
        x, *parameters = inputs(*shape, dtype=dtype)
        x = x.detach().contiguous(memory_format=layout).requires_grad_()
        assert_exact(function, [x, *parameters], **options)


@pytest.mark.parametrize("shape", [(3, 12, 17), (2, 8, 3, 5, 4), (2, 8, 1, 1)], ids=str)
@each_option
def test_other_numbers_of_dimensions(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_exact(spatial_group_enhance, inputs(*shape), **options)


@pytest.mark.parametrize(("mean", "std"), [(50, 1), (100, 0.1), (1000, 1), (1e-3, 1e-6)], ids=str)
def test_digits_survive_a_large_mean_over_n(mean: float, std: float) -> None:
    x, *parameters = inputs(2, 32, 13, 14)
    x = (x.detach() * std + mean).requires_grad_()
    for function in (spatial_group_enhance, specification):
        assert_exact(function, [x, *parameters], unbiased=False)


def test_over_n_differs_where_positions_are_few() -> None:
    x, weight, bias = inputs(2, 8, 1, 2)
    over_n = spatial_group_gate(x, weight, bias, unbiased=False)
    # Of two positions t is 1 and -1 over n, and 1 / sqrt(2) of that over n - 1.
    a = (over_n.logit() - bias[:, None, None]) / weight[:, None, None]
    torch.testing.assert_close(a.abs(), torch.ones_like(a), rtol=1e-3, atol=0)
    usual = (spatial_group_gate(x, weight, bias).logit() - bias[:, None, None]) / weight[
        :, None, None
    ]
    torch.testing.assert_close(usual.abs(), torch.full_like(a, 0.5**0.5), rtol=1e-3, atol=0)


def test_one_position_and_constants_over_n_have_the_gate_of_the_bias() -> None:
    x, weight, bias = inputs(2, 8, 1, 1)
    gate = bias.sigmoid().repeat_interleave(2)[:, None, None]
    for size in (1, 7):
        given = x.expand(-1, -1, size, size)
        for function in (spatial_group_enhance, specification):
            y = function(given, weight, bias, unbiased=False)
            torch.testing.assert_close(y, given * gate, rtol=1e-6, atol=0)
            assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (x, weight, bias)))


@each_option
def test_first_and_second_derivatives(options: dict[str, Any]) -> None:
    for shape, channel_dim in (((2, 4, 1, 3), 1), ((1, 4, 4), -1), ((2, 2, 1, 1), 1)):
        leaves = inputs(*shape, dtype=torch.float64, groups=2)

        def f(x: Tensor, weight: Tensor, bias: Tensor, at: int = channel_dim) -> Tensor:
            return spatial_group_enhance(
                x, weight, bias, channel_dim=at, residual=x, activation="relu", **options
            )

        assert gradcheck(f, leaves, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(f, leaves, check_fwd_over_rev=True)


@each_option
def test_functional_transforms_agree_with_the_plain_formula(options: dict[str, Any]) -> None:
    arguments = [t.detach() for t in inputs(2, 6, 2, 3, dtype=torch.float64, groups=3)]

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return spatial_group_enhance(x, weight, bias, **options)

    def formula(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return specification(x, weight, bias, **options)

    def square(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *a: f(*a).square().sum()

    for argnums in (0, 1, 2):
        expected = grad(square(formula), argnums)(*arguments)
        torch.testing.assert_close(grad(square(ours), argnums)(*arguments), expected)
    torch.testing.assert_close(jacrev(ours)(*arguments), jacrev(formula)(*arguments))
    torch.testing.assert_close(jacfwd(ours)(*arguments), jacrev(formula)(*arguments))
    torch.testing.assert_close(
        hessian(square(ours), 1)(*arguments), hessian(square(formula), 1)(*arguments)
    )
    several = torch.stack([arguments[0], 2 * arguments[0]])
    mapped = vmap(ours, (0, None, None))(several, *arguments[1:])
    torch.testing.assert_close(mapped[1], formula(several[1], *arguments[1:]))


class Layer(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.bias = (nn.Parameter(torch.randn(GROUPS)) for _ in "wb")
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return spatial_group_enhance(x, self.weight, self.bias, **self.options)


@pytest.mark.slow
@each_option
def test_one_graph_and_an_export_of_plain_operations(options: dict[str, Any]) -> None:
    layer = Layer(options)
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height")}
    program = torch.export.export(layer, (torch.randn(2, 8, 6, 3),), dynamic_shapes=(sizes,))
    assert "sgekit" not in str(program.graph)
    for shape in ((2, 8, 6, 3), (3, 8, 4, 3), (1, 8, 1, 3)):
        x = torch.randn(shape, requires_grad=True)
        both = [(y, *torch.autograd.grad(y.sum(), x)) for y in (compiled(x), layer(x))]
        torch.testing.assert_close(*both)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_option
def test_half_precision_keeps_fp32_statistics(options: dict[str, Any], dtype: torch.dtype) -> None:
    x = (torch.randn(2, 8, 16, 16) * 1000).to(dtype).requires_grad_()
    weight, bias = (torch.full((2,), 1e-7, dtype=dtype, requires_grad=True) for _ in "wb")
    with torch.autocast("cpu", dtype):
        y = spatial_group_enhance(x, weight, bias, **options)
    y.sum().backward()  # type: ignore[no-untyped-call]
    exact = truth.enhance(x.detach(), weight.detach(), bias.detach(), **options)
    assert truth.error(y, exact).maximum <= LIMIT[dtype]
    for tensor in (x, weight, bias):
        assert tensor.grad is not None
        assert tensor.grad.dtype == dtype
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 8, 3, 3), (2, 8, 0, 3)], ids=str)
@each_option
def test_empty_input(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    x, weight, bias = inputs(*shape)
    y = spatial_group_enhance(x, weight, bias, **options)
    assert y.shape == shape
    dx, dweight, dbias = torch.autograd.grad(y.sum(), (x, weight, bias))
    assert dx.shape == shape
    assert torch.equal(dweight, torch.zeros(GROUPS))
    assert torch.equal(dbias, torch.zeros(GROUPS))


@pytest.mark.parametrize("channel_dim", [1, -1])
@each_option
def test_gate_is_what_x_is_multiplied_with(options: dict[str, Any], channel_dim: int) -> None:
    x, weight, bias = inputs(2, 8, 5, 3)
    given = x if channel_dim == 1 else x.movedim(1, -1)
    gate = spatial_group_gate(given, weight, bias, channel_dim=channel_dim, **options)
    product = x * gate.repeat_interleave(2, 1)
    torch.testing.assert_close(product, truth.enhance(x, weight, bias, **options).float())


def test_named_kernels_refuse_what_they_cannot_do() -> None:
    x, weight, bias = inputs(2, 8, 3, 5)
    for impl in set(IMPLEMENTATIONS) - {"reference"}:
        with pytest.raises(InputError, match=f'impl="{impl}" .* always normalise; impl="auto"'):
            spatial_group_enhance(x, weight, bias, impl=impl, normalize=False)
    named = spatial_group_enhance(x, weight, bias, impl="reference", normalize=False)
    assert torch.equal(named, spatial_group_enhance(x, weight, bias, normalize=False))
    with pytest.raises(InputError, match="impl must be one of"):
        spatial_group_enhance(x, weight, bias, impl="cuda", normalize=False)


@pytest.mark.parametrize("function", [spatial_group_enhance, spatial_group_gate])
@pytest.mark.parametrize("name", ["normalize", "unbiased"])
def test_options_are_switches(function: Callable[..., Tensor], name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, not 'no'"):
        function(*inputs(2, 8, 3, 5), **{name: "no"})
