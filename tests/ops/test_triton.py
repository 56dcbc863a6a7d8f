"""The fused GPU kernels in Triton's interpreter against the float64 transcription."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sgekit.errors import InputError
from sgekit.ops import eager, library, spatial_group_enhance, triton, triton_maps
from sgekit.ops.triton_kernels import configuration
from tests.ops import truth
from tests.ops.test_cpu import assert_close, both_layouts, exact, lay_out

pytestmark = pytest.mark.skipif(
    triton.can_run(library.Call(torch.device("cpu"), torch.float32, (1, 4, 2), 1, 1, None))
    is not None,
    reason="Triton, or its interpreter, is not there",
)

# (samples, channels, *spatial), groups: one group a program and several, groups of any depth.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "d1": ((2, 21, 5, 5), 21),
    "d2": ((1, 8, 6, 5), 4),
    "d4-small": ((1, 8, 6, 6), 2),
    "d3": ((2, 15, 7, 7), 5),
    "d4": ((2, 32, 8, 8), 8),
    "d16": ((3, 32, 4, 4), 2),
    "d6": ((1, 12, 6, 6), 2),
    "d67": ((1, 67, 31, 2), 1),
    "one-position": ((3, 24, 1, 1), 4),
    "1d": ((2, 12, 129), 3),
    "3d": ((2, 16, 3, 5, 4), 4),
    "deep": ((2, 300, 5, 3), 1),
}


Cut = Callable[[int, int], None]


@pytest.fixture(params=["chunks", "parts"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Groups of d channels over n positions in several chunks: of one program, of many."""

    def apply(d: int, n: int) -> None:
        size = configuration.power(d) * max(configuration.power(n) // 4, 1)
        for sizes in ("ONE", "TWO", "FEW", "NARROW"):
            of = getattr(configuration, sizes)._replace(tile=size, once=size)
            monkeypatch.setattr(configuration, sizes, of)
        assert configuration.tile(2, d, n, False, 1).chunks(n) > 1
        if request.param == "parts":
            monkeypatch.setattr(configuration, "NEAR", 0)
            monkeypatch.setattr(configuration, "SET", 2 * d * n)

    return apply


def run(
    x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor, residual: Tensor | None, relu: bool
) -> dict[str, Tensor]:
    y, g, mean, std = triton.forward(x, weight, bias, residual, 1e-5, 1, "relu" if relu else None)
    dx, dz, dweight, dbias = triton.backward(
        dy, x, weight, bias, g, mean, std, y if relu else None, 1e-5, 1
    )
    assert y.stride() == dx.stride() == x.stride()
    out = {"y": y, "x": dx, "weight": dweight.sum(0), "bias": dbias.sum(0)}
    return out | ({"residual": dz} if relu else {})


# The interpreter takes a second a case.
QUICK = ("d6", "one-position", "1d", "3d")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SHAPES],
)
@both_layouts
def test_value_and_gradients(name: str, layout: str) -> None:
    check(name, layout)


def cut_shape(name: str, cut: Cut) -> tuple[tuple[int, ...], int]:
    shape, groups = SHAPES[name]
    cut(shape[1] // groups, math.prod(shape[2:]))
    return shape, groups


DEPTHS = (
    "d6",
    "d4-small",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("d1", "d2", "d3", "d4")),
)


@pytest.mark.parametrize("name", DEPTHS)
@both_layouts
def test_value_and_gradients_in_pieces(name: str, layout: str, cut: Cut) -> None:
    cut_shape(name, cut)
    check(name, layout)


def check(name: str, layout: str) -> None:
    shape, groups = SHAPES[name]
    torch.manual_seed(0)
    x, dy, residual = (lay_out(torch.randn(shape) + 0.5, layout) for _ in range(3))
    weight, bias = torch.randn(groups), torch.randn(groups)
    ours = run(x, weight, bias, dy, None, False)
    assert_close(ours, exact(x, weight, bias, dy, None, None), x.dtype)
    ours = run(x, weight, bias, dy, residual, True)
    assert_close(ours, exact(x, weight, bias, dy, residual, ours["y"] > 0), x.dtype)


# The interpreter cuts bfloat16 off where GPUs round: twice the error.
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("layout", ["interleaved", pytest.param("planar", marks=pytest.mark.slow)])
def test_narrow_types(layout: str, dtype: torch.dtype, limit: float, cut: Cut) -> None:
    shape, groups = SHAPES["d6"]
    cut(6, 36)
    torch.manual_seed(0)
    x, dy, residual = (lay_out((torch.randn(shape) + 0.5).to(dtype), layout) for _ in range(3))
    weight, bias = torch.randn(groups), torch.randn(groups)
    ours = run(x, weight, bias, dy, residual, True)
    expected = exact(x, weight, bias, dy, residual, ours["y"] > 0)
    for key, value in ours.items():
        assert value.dtype == (torch.float32 if key in ("weight", "bias") else dtype)
        assert truth.error(value, expected[key]).maximum <= limit, key


@pytest.mark.parametrize("mean", [pytest.param(0.0, marks=pytest.mark.slow), 1000.0])
@pytest.mark.parametrize("name", ["d6", "d2"])
@both_layouts
def test_constant_and_shifted_maps(name: str, mean: float, layout: str, cut: Cut) -> None:
    shape, groups = cut_shape(name, cut)
    torch.manual_seed(0)
    noise, dy = torch.randn(shape), lay_out(torch.randn(shape), layout)
    weight, bias = torch.randn(groups), torch.randn(groups)
    for values in (noise + mean, torch.full(shape, mean + 0.125)):
        x = lay_out(values, layout)
        ours = run(x, weight, bias, dy, None, False)
        assert_close(ours, exact(x, weight, bias, dy, None, None), x.dtype)


def test_channels_that_cancel(cut: Cut) -> None:
    """A likeness that hardly varies though its channels do: products of channels would not tell."""
    cut(2, 400)
    torch.manual_seed(0)
    a, noise = torch.randn(1, 1, 20, 20) / 4, torch.randn(1, 1, 20, 20)
    x = torch.cat((1 + a, 1 - a + 1e-3 * noise), 1)
    weight, bias = torch.ones(1), torch.zeros(1)
    y = triton.forward(x, weight, bias, None, 1e-5, 1, None)[0]
    wide = eager.forward(x.double(), weight.double(), bias.double(), None, 1e-5, 1, None)[0]
    plain = eager.forward(x, weight, bias, None, 1e-5, 1, None)[0]
    assert (y - wide).abs().max() <= 3 * (plain - wide).abs().max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["d6", "d2"])
def test_one_bad_number_touches_one_group(name: str, bad: float, cut: Cut) -> None:
    (_, *rest), groups = cut_shape(name, cut)
    shape = (2, *rest)
    x = torch.randn(shape)
    x[0, 0, 0, 0] = bad
    ours = run(x, torch.randn(groups), torch.randn(groups), torch.randn(shape), None, False)
    depth = shape[1] // groups
    for value in (ours["y"], ours["x"]):
        assert not value[0, :depth].isfinite().all()
        assert value[0, depth:].isfinite().all()
        assert value[1:].isfinite().all()


def test_in_place_and_strange_strides() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(4), torch.randn(4)
    x = torch.randn(2, 8, 5, 6)
    expected = triton.forward(x, weight, bias, x, 1e-5, 1, "relu")[0]
    again = x.clone()
    triton.forward_into(again, again, weight, bias, again, 1e-5, 1, "relu")
    assert torch.equal(again, expected)
    views = {
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "sliced": torch.randn(2, 16, 5, 6)[:, ::2],
        "strip": torch.randn(2, 8, 5, 9)[..., :6],
    }
    for name, view in views.items():
        out = triton.forward(view, weight, bias, view, 1e-5, 1, "relu")[0]
        plain = triton.forward(view.contiguous(), weight, bias, view.contiguous(), 1e-5, 1, "relu")
        torch.testing.assert_close(out, plain[0], msg=name)
        assert out.stride() == torch.empty_like(view).stride()
    # What sum().backward() hands in: one number everywhere.
    dy = torch.ones(1, 1, 1, 1).expand(2, 8, 5, 6)
    saved = triton.forward(x, weight, bias, None, 1e-5, 1, None)[1:]
    ours = triton.backward(dy, x, weight, bias, *saved, None, 1e-5, 1)
    dense = triton.backward(dy.contiguous(), x, weight, bias, *saved, None, 1e-5, 1)
    for one, other in zip(ours, dense, strict=True):
        assert torch.equal(one, other)


def test_empty() -> None:
    weight, bias = torch.ones(2), torch.ones(2)
    for shape in ((0, 4, 3, 3), (2, 4, 0, 3)):
        x = torch.empty(shape)
        y, g, mean, std = triton.forward(x, weight, bias, None, 1e-5, 1, None)
        dx, _, dweight, _ = triton.backward(y, x, weight, bias, g, mean, std, None, 1e-5, 1)
        assert y.shape == dx.shape == shape
        assert dweight.eq(0).all()


def test_through_the_public_function() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 5, 6, 8), torch.randn(4), torch.randn(4), torch.randn(2, 5, 6, 8)]
    results: list[Any] = []
    for impl in ("triton", "reference"):
        x, weight, bias, residual = (t.clone().requires_grad_() for t in leaves)
        y = spatial_group_enhance(x, weight, bias, 1e-5, -1, residual, "relu", impl)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, weight, bias, residual))))
    torch.testing.assert_close(*results)


def test_launches_outside_graphs_are_the_kernels_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through PyTorch's wrapper one takes ten times its time and keeps some memory for good."""
    called = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, **meta: called.append(grid)

    monkeypatch.setattr(triton_maps, "interpreted", lambda: False)
    wrapped: list[Any] = []

    def wrap(kernel: Any) -> Any:
        wrapped.append(kernel)
        return kernel

    monkeypatch.setattr(torch.library, "wrap_triton", wrap)
    tile = configuration.tile(4, 4, 36, False, 1)
    kernel = Kernel()
    triton_maps.launch(kernel, tile, 3, torch.ones(1))
    assert (called, wrapped) == ([(3,)], [])
    with triton_maps.in_graphs():
        triton_maps.launch(kernel, tile, 3, torch.ones(1))
    assert (called, wrapped) == ([(3,)] * 2, [kernel])
    triton_maps.launch(kernel, tile, 3, torch.ones(1))
    assert len(wrapped) == 1


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_unfit", lambda kind, index, large: None)
    call = library.Call(torch.device("cuda", 0), torch.float32, (1, 4, 2), 1, 1, None)
    assert triton.can_run(call) is None
    monkeypatch.setenv("SGEKIT_TRITON", "0")
    assert "turns it off" in str(triton.can_run(call))
    # In the interpreter nobody takes it unasked.
    assert triton.can_run(call._replace(device=torch.device("cpu"))) is None


def test_what_it_cannot_take() -> None:
    one = torch.ones(1)
    with pytest.raises(InputError, match="does not do for"):
        spatial_group_enhance(torch.ones(1, 4, 2).double(), one, one, impl="triton")
    with pytest.raises(InputError, match="4,096 channels"):
        spatial_group_enhance(torch.ones(1, 5000, 2), one, one, impl="triton")
