"""The fused CPU kernels against the float64 transcription, on every instruction set here."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sgekit.errors import InputError
from sgekit.ops import available, cpu, cpu_library, library, spatial_group_enhance
from tests.ops import truth

pytestmark = pytest.mark.skipif(
    isinstance(cpu_library.load(), str), reason=f"no kernels: {cpu_library.load()}"
)


def runs(isa: str) -> bool:
    x, one = torch.ones(1, 1, 1), torch.ones(1)
    try:
        cpu.forward(x, one, one, None, 1e-5, 1, None, isa=isa)
    except InputError:
        return False
    return True


ISAS = ["baseline", "avx2", "avx512"]
BEST = max((isa for isa in ISAS if runs(isa)), key=ISAS.index, default="baseline")


def _marks(isa: str) -> list[pytest.MarkDecorator]:
    missing = pytest.mark.skipif(not runs(isa), reason=f"no {isa} here")
    # In the quick run the set that calls take here.
    return [missing] if isa == BEST else [missing, pytest.mark.slow]


every_isa = pytest.mark.parametrize("isa", [pytest.param(i, marks=_marks(i)) for i in ISAS])
both_layouts = pytest.mark.parametrize("layout", ["planar", "interleaved"])

# (samples, channels, *spatial), groups. Channels of a group: powers of two below, at and above
# the width of each instruction set's vectors, and numbers that fit none; positions: whole
# vectors, tiles of them, a number short of and beyond them, and one.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "d1": ((2, 21, 5, 5), 21),
    "d2": ((2, 38, 7, 7), 19),
    "d3": ((1, 15, 16, 4), 5),
    "d4": ((2, 72, 8, 8), 18),
    "d8": ((1, 136, 5, 3), 17),
    "d12": ((2, 36, 13, 5), 3),
    "d16": ((2, 272, 4, 4), 17),
    "d20": ((1, 60, 9, 7), 3),
    "d32": ((2, 544, 7, 7), 17),
    "d64": ((1, 128, 3, 6), 2),
    "d67": ((1, 67, 31, 2), 1),
    "one-position": ((3, 24, 1, 1), 4),
    "1d": ((2, 12, 129), 3),
    "3d": ((2, 16, 3, 5, 4), 4),
    "large": ((1, 8, 71, 67), 2),
}
TOLERANCE = {
    torch.float32: truth.Error(1e-6, 1e-6),
    torch.bfloat16: truth.Error(2**-8, 2**-8),
    torch.float16: truth.Error(2**-11, 2**-11),
}


def lay_out(x: Tensor, layout: str) -> Tensor:
    return x.contiguous() if layout == "planar" else x.movedim(1, -1).contiguous().movedim(-1, 1)


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dy: Tensor,
    residual: Tensor | None,
    relu: bool,
    **o: Any,
) -> dict[str, Tensor]:
    """The kernels' result, statistics and gradients."""
    activation = "relu" if relu else None
    y, g, mean, std = cpu.forward(x, weight, bias, residual, 1e-5, 1, activation, **o)
    dx, dz, dweight, dbias = cpu.backward(
        dy, x, weight, bias, g, mean, std, y if relu else None, 1e-5, 1, **o
    )
    out = {"y": y, "x": dx, "weight": dweight.sum(0), "bias": dbias.sum(0)}
    return out | ({"residual": dz} if relu else {})


def exact(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dy: Tensor,
    residual: Tensor | None,
    passes: Tensor | None,
) -> dict[str, Tensor]:
    """The same in float64; `passes` says where the ReLU let the kernels' result through."""
    leaves: Any = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    y = truth.enhance(*leaves)
    if residual is not None:
        y = y + residual.double()
    dz = dy.double()
    if passes is not None:
        # A result near 0 may round to it, and its gradient follows that.
        dz = dz * passes
        y_out = y.relu()
    else:
        y_out = y
    grads = torch.autograd.grad(y, leaves, dz)
    out = {"y": y_out, **dict(zip(("x", "weight", "bias"), grads, strict=True))}
    return out | ({} if passes is None else {"residual": dz})


def assert_close(ours: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    assert ours.keys() == expected.keys()
    for name, value in ours.items():
        # The parameters' gradients are sums in float32 and never rounded to the dtype of x.
        limit = truth.Error(3e-6, 3e-6) if name in ("weight", "bias") else TOLERANCE[dtype]
        error = truth.error(value, expected[name])
        assert error.maximum <= limit.maximum, (name, error)
        assert error.rms <= limit.rms, (name, error)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
@both_layouts
@every_isa
def test_value_and_gradients(
    case: tuple[tuple[int, ...], int], layout: str, dtype: torch.dtype, isa: str
) -> None:
    shape, groups = case
    torch.manual_seed(0)
    # Away from 0: where a group's mean vanishes the gradient has a condition of its own.
    x, dy, residual = (lay_out((torch.randn(shape) + 0.5).to(dtype), layout) for _ in range(3))
    weight, bias = torch.randn(groups), torch.randn(groups)
    ours = run(x, weight, bias, dy, None, False, isa=isa)
    assert ours["y"].stride() == ours["x"].stride() == x.stride()
    assert_close(ours, exact(x, weight, bias, dy, None, None), dtype)
    ours = run(x, weight, bias, dy, residual, True, isa=isa)
    assert_close(ours, exact(x, weight, bias, dy, residual, ours["y"] > 0), dtype)


@both_layouts
@every_isa
def test_two_positions(layout: str, isa: str) -> None:
    # da - mean(da) is a multiple of t here: all but eps / std of the gradient through t cancels.
    torch.manual_seed(0)
    x, dy = (lay_out(torch.randn(3, 24, 1, 2) + 0.5, layout) for _ in range(2))
    weight, bias = torch.randn(4), torch.randn(4)
    ours = run(x, weight, bias, dy, None, False, isa=isa)
    for name, value in exact(x, weight, bias, dy, None, None).items():
        assert truth.error(ours[name], value).maximum <= 1e-5, name


@pytest.mark.parametrize(("mean", "std"), [(50, 1), (100, 0.1), (1000, 1), (1e-3, 1e-6)], ids=str)
@pytest.mark.parametrize("shape", [(2, 32, 13, 14), (2, 64, 7, 7)], ids=str)
@both_layouts
@every_isa
def test_digits_survive_a_large_mean(
    shape: tuple[int, ...], layout: str, mean: float, std: float, isa: str
) -> None:
    torch.manual_seed(0)
    x, dy = lay_out(torch.randn(shape) * std + mean, layout), lay_out(torch.randn(shape), layout)
    weight, bias = torch.randn(4), torch.randn(4)
    ours = run(x, weight, bias, dy, None, False, isa=isa)
    for name, value in exact(x, weight, bias, dy, None, None).items():
        assert truth.error(ours[name], value).maximum <= 1e-6, name


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1, -1000.3, 12345.678])
@pytest.mark.parametrize(("d", "size"), [(1, (31, 37)), (4, (56, 56)), (16, (7, 7)), (3, (1, 5))])
@both_layouts
@every_isa
def test_a_constant_map_is_gated_by_the_bias(
    value: float, d: int, size: tuple[int, int], layout: str, isa: str
) -> None:
    torch.manual_seed(0)
    x = lay_out((torch.rand(2, 4 * d, 1, 1) * value).expand(-1, -1, *size), layout)
    weight, bias = torch.randn(4), torch.randn(4)
    y, g, mean, std = cpu.forward(x, weight, bias, None, 1e-5, 1, None, isa=isa)
    assert torch.equal(g.reshape(2, -1), x[:, :, 0, 0])
    assert torch.equal(mean, torch.zeros(2, 4))
    assert torch.equal(std, torch.zeros(2, 4))
    s = bias.double().sigmoid().repeat_interleave(d)[:, None, None]
    assert truth.error(y, x.double() * s).maximum <= 3e-7
    # dy is constant, so that da is, and nothing but dy * s may reach x.
    dy = lay_out(torch.ones(x.shape), layout)
    dx, _, dweight, _ = cpu.backward(dy, x, weight, bias, g, mean, std, None, 1e-5, 1, isa=isa)
    assert truth.error(dx, s.expand(x.shape)).maximum <= 3e-7
    assert torch.equal(dweight, torch.zeros(2, 4))


@every_isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_number_converts_as_pytorch_does(dtype: torch.dtype, isa: str) -> None:
    # One position each: y = x * sigmoid(bias), here x itself, subnormals and infinities too.
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    one = torch.ones(1)
    y = cpu.forward(x.view(-1, 1, 1), one, 90 * one, None, 1e-5, 1, None, isa=isa)[0].flatten()
    # An infinity minus itself is no number.
    finite = x.isfinite()
    assert torch.equal(y[finite], x[finite])
    assert bool(y[~finite].isnan().all())


@every_isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_to_16_bits_is_pytorchs(dtype: torch.dtype, isa: str) -> None:
    torch.manual_seed(0)
    # x is 0, so that y is the residual; ties, overflows and subnormals among them.
    exponents = torch.randint(-30, 18, (4096,))
    values = torch.cat([torch.randn(4096) * 2.0**exponents, torch.tensor([65519.9, 65520.0, 1e30])])
    low = values.to(dtype)
    residual = torch.cat([low, (low.float() * (1 + 2**-8)).to(dtype), -low])
    x = torch.zeros(1, 1, residual.numel(), dtype=dtype)
    one = torch.ones(1)
    y = cpu.forward(x, one, one, residual.view(1, 1, -1), 1e-5, 1, None, isa=isa)[0]
    assert torch.equal(y.flatten(), residual)
    # x * s is no 16-bit number: float32's product, rounded.
    x = low[low.isfinite()].view(-1, 1, 1)
    y = cpu.forward(x, one, 0 * one, None, 1e-5, 1, None, isa=isa)[0]
    assert torch.equal(y, (x.float() * 0.5).to(dtype))


@both_layouts
@every_isa
def test_results_do_not_depend_on_threads(layout: str, isa: str) -> None:
    torch.manual_seed(0)
    # Cut into items, into narrower items, and into ranges of positions.
    for shape, groups in (((8, 128, 14, 14), 32), ((1, 256, 28, 28), 8), ((1, 4, 200, 201), 1)):
        x, dy = (lay_out(torch.randn(shape) + 0.5, layout) for _ in range(2))
        weight, bias = torch.randn(groups), torch.randn(groups)
        before = torch.get_num_threads()
        try:
            results = []
            for threads in (1, 2, 7):
                torch.set_num_threads(threads)
                results.append(run(x, weight, bias, dy, None, False, isa=isa))
        finally:
            torch.set_num_threads(before)
        expected = exact(x, weight, bias, dy, None, None)
        for result in results:
            assert_close(result, expected, torch.float32)


@both_layouts
def test_a_nan_stays_in_its_group(layout: str) -> None:
    torch.manual_seed(0)
    x, dy = (torch.randn(2, 24, 7, 9) for _ in range(2))
    weight, bias = torch.randn(8), torch.randn(8)
    clean = run(lay_out(x, layout), weight, bias, lay_out(dy, layout), None, False)
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoilt = x.clone()
        spoilt[1, 10, 3, 4] = bad  # group 3
        ours = run(lay_out(spoilt, layout), weight, bias, lay_out(dy, layout), None, False)
        for name in ("y", "x"):
            kept = torch.ones(2, 24, dtype=torch.bool)
            kept[1, 9:12] = False
            assert torch.equal(ours[name][kept], clean[name][kept]), name
            assert bool(ours[name][1, 10].isnan().any()), name
        others = torch.arange(8) != 3
        assert torch.equal(ours["weight"][others], clean["weight"][others])
        assert bool(ours["weight"][3].isnan())


@pytest.mark.parametrize("layout", ["planar", "interleaved"])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(layout: str, activation: str | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, residual = (lay_out(torch.randn(2, 8, 3, 5).to(dtype), layout) for _ in range(2))
    weight, bias = torch.randn(4), torch.randn(4)
    forward: Any = (x, weight, bias, residual, 1e-5, 1, activation, "cpu")
    torch.library.opcheck(library.enhance, forward)
    y, g, mean, std = library.enhance(*forward)
    after = y if activation else None
    backward = (torch.randn_like(y), x, weight, bias, g, mean, std, after, 1e-5, 1, "cpu")
    torch.library.opcheck(library.enhance_backward, backward)


def test_auto_takes_the_kernels_and_says_when_not() -> None:
    assert dict(available("cpu"))["cpu"] is None
    assert "float64" in (dict(available("cpu", torch.float64))["cpu"] or "")
    assert "meta" in (dict(available("meta"))["cpu"] or "")
    x = torch.randn(2, 8, 3, 5)
    one = torch.ones(4)
    ours = spatial_group_enhance(x, one, one)
    assert torch.equal(ours, spatial_group_enhance(x, one, one, impl="cpu"))
    with pytest.raises(InputError, match=r"too little for torch\.float64"):
        spatial_group_enhance(x, one, one, residual=x.double(), impl="cpu")
    assert spatial_group_enhance(x, one, one, residual=x.double()).dtype == torch.float64
