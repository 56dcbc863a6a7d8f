"""Any shape, layout and dtype: the CPU kernels give what float64 gives, and what PyTorch gives."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgekit.ops import cpu, cpu_library, spatial_group_enhance
from tests.ops import truth

pytestmark = pytest.mark.skipif(
    isinstance(cpu_library.load(), str), reason=f"no kernels: {cpu_library.load()}"
)

EPS = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of one call, and with what layout, threads and instruction set to make it."""
    samples, groups = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    depth = draw(st.one_of(st.integers(1, 9), st.sampled_from([12, 16, 31, 32, 33])))
    spatial = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    best = cpu_library.load().sgekit_best_isa()  # type: ignore[union-attr]
    return {
        "shape": (samples, groups * depth, *spatial),
        "groups": groups,
        "dtype": draw(st.sampled_from(list(EPS))),
        "layout": draw(st.sampled_from(["planar", "interleaved", "channel_dim=-1"])),
        "with_residual": draw(st.booleans()),
        "relu": draw(st.booleans()),
        "mean": draw(st.sampled_from([0.5, 1.0, 30.0])),
        "seed": draw(st.integers(0, 99)),
        "threads": draw(st.sampled_from([1, 3])),
        "isa": draw(st.sampled_from(cpu_library.ISAS[1 : best + 1])),
    }


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(calls())
def test_any_call(call: dict[str, Any]) -> None:
    torch.manual_seed(call["seed"])
    dtype, relu, channel_dim = call["dtype"], call["relu"], 1
    x, dy, r = ((torch.randn(call["shape"]) + call["mean"]).to(dtype) for _ in range(3))
    weight, bias = torch.randn(call["groups"]), torch.randn(call["groups"])
    plain = x, dy, r
    if call["layout"] != "planar":
        x, dy, r = (t.movedim(1, -1).contiguous() for t in (x, dy, r))
        channel_dim = -1
    if call["layout"] == "interleaved":
        x, dy, r = (t.movedim(-1, 1) for t in (x, dy, r))
        channel_dim = 1
    residual = r if call["with_residual"] else None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(call["threads"])
        y, g, mean, std = cpu.forward(
            x, weight, bias, residual, 1e-5, channel_dim, "relu" if relu else None, isa=call["isa"]
        )
        dx, dz, dweight, dbias = cpu.backward(
            dy, x, weight, bias, g, mean, std, y if relu else None, 1e-5, channel_dim,
            isa=call["isa"],
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    assert y.stride() == dx.stride() == x.stride()
    y, dx, dz = (t if channel_dim == 1 or t.numel() == 0 else t.movedim(-1, 1) for t in (y, dx, dz))
    x, dy, r = plain

    leaves: Any = [t.double().requires_grad_() for t in (x, weight, bias)]
    exact = truth.enhance(*leaves) + (r.double() if residual is not None else 0)
    up = dy.double() * (y > 0) if relu else dy.double()
    grads = torch.autograd.grad(exact, leaves, up)
    assert truth.error(y, exact.relu() if relu else exact).maximum <= EPS[dtype]
    if relu:
        assert torch.equal(dz.double(), up)
    # Where few positions, or one channel, leave little of a gradient, what is left of its
    # terms has their rounding errors; ten times what float32 makes of ordinary maps.
    hard = 10 if x[0, 0].numel() <= 4 or x.shape[1] == call["groups"] else 1
    assert truth.error(dx, grads[0]).maximum <= max(EPS[dtype], hard * 2e-6)
    assert truth.error(dweight.sum(0), grads[1]).maximum <= hard * 3e-6
    assert truth.error(dbias.sum(0), grads[2]).maximum <= 3e-6


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=3, max_size=5),
    order=st.permutations([0, 1, 2, 3, 4]),
    steps=st.lists(st.integers(1, 3), min_size=5, max_size=5),
    channel_dim=st.sampled_from([1, -1]),
)
def test_any_strides(
    sizes: list[int], order: list[int], steps: list[int], channel_dim: int
) -> None:
    torch.manual_seed(0)
    order = [k for k in order if k < len(sizes)]
    whole = torch.randn([sizes[k] * steps[k] for k in order]) + 0.5
    x = whole[tuple(slice(None, None, steps[k]) for k in order)]
    x = x.permute([order.index(k) for k in range(len(sizes))])
    assert list(x.shape) == sizes
    one = torch.ones(x.shape[channel_dim])
    ours = spatial_group_enhance(x, one, one, channel_dim=channel_dim, impl="cpu")
    theirs = spatial_group_enhance(x, one, one, channel_dim=channel_dim, impl="reference")
    assert ours.stride() == theirs.stride()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
