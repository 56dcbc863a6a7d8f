"""The fused GPU kernels of batch norm, gate, sum and ReLU, in Triton's interpreter."""

from typing import Any

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from sgekit.models.insertion.tails import FusedTail, set_tails
from sgekit.modules import SpatialGroupEnhance
from sgekit.ops import library, tail_library, triton, triton_tail
from tests.ops import test_cpu_tail as of_cpu
from tests.ops.test_cpu import both_layouts, lay_out
from tests.ops.test_triton import Cut
from tests.ops.test_triton import cut as cut_fixture

cut = cut_fixture

pytestmark = pytest.mark.skipif(
    triton.can_run(library.Call(torch.device("cpu"), torch.float32, (1, 4, 2), 1, 1, None))
    is not None,
    reason="Triton, or its interpreter, is not there",
)

SHAPES: dict[str, tuple[int, ...]] = {
    "d1": (2, 21, 1, 5, 5),
    "d3": (2, 5, 3, 7, 7),
    "d4": (2, 8, 4, 8, 8),
    "d4-small": (1, 2, 4, 6, 6),
    "d6": (2, 1, 6, 6, 6),
    "one-position": (3, 4, 8, 1, 1),
    "1d": (2, 3, 4, 129),
}
LIMITS = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-7}


class Kernels:
    """`cpu_tail`'s interface, whose `isa` has no meaning here."""

    @staticmethod
    def moments(*args: Any, isa: str) -> Any:
        return triton_tail.moments(*args)

    @staticmethod
    def forward(*args: Any, y: Tensor | None, isa: str) -> Any:
        return triton_tail.forward(*args, y=y)

    @staticmethod
    def backward(*args: Any, isa: str) -> Any:
        return triton_tail.backward(*args)


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_cpu, "cpu_tail", Kernels)
    monkeypatch.setattr(of_cpu, "LIMITS", LIMITS)


frozen_or_not = pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])


# The interpreter takes a second a case.
QUICK = ("d6", "one-position", "1d")


@frozen_or_not
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, shape in SHAPES.items()
    ],
)
@both_layouts
def test_value_and_gradients(shape: tuple[int, ...], layout: str, frozen: bool) -> None:
    of_cpu.check(of_cpu.make(shape, torch.float32, layout, frozen=frozen))


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("d6", False),
        ("d4-small", True),
        pytest.param("d6", True, marks=pytest.mark.slow),
        pytest.param("d4-small", False, marks=pytest.mark.slow),
    ],
)
@both_layouts
def test_value_and_gradients_in_pieces(name: str, layout: str, frozen: bool, cut: Cut) -> None:
    depth, positions = SHAPES[name][2], SHAPES[name][3] * SHAPES[name][4]
    cut(depth, positions)
    of_cpu.check(of_cpu.make(SHAPES[name], torch.float32, layout, frozen=frozen))


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_narrow_types(dtype: torch.dtype, cut: Cut) -> None:
    cut(6, 36)
    of_cpu.check(of_cpu.make(SHAPES["d6"], dtype, "interleaved"))


@both_layouts
def test_a_mean_of_a_thousand_deviations(layout: str, cut: Cut) -> None:
    cut(6, 36)
    of_cpu.check(of_cpu.make(SHAPES["d6"], torch.float32, layout, mean=1000.0))


@pytest.mark.parametrize("without", ["affine", "residual", "relu"])
def test_without(without: str) -> None:
    of_cpu.check(of_cpu.make(SHAPES["d4"], **{without: False}))  # type: ignore[arg-type]


def test_in_place() -> None:
    tail = of_cpu.make(SHAPES["d4"], frozen=True)
    given = tail.norm_mean, tail.norm_var, tail.norm_weight, tail.norm_bias
    rest = None, tail.weight, tail.bias, tail.residual, 1e-5, 1, "relu"
    expected = triton_tail.forward(tail.x, *given, *rest)[0]  # type: ignore[arg-type]
    triton_tail.forward(tail.x, *given, *rest, y=tail.x)  # type: ignore[arg-type]
    assert torch.equal(tail.x, expected)


@both_layouts
def test_a_block_trains_with_them(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: block, autograd function, operations, kernels; running statistics too."""
    torch.manual_seed(0)
    block: Any = BasicBlock(16, 16)
    block.se = SpatialGroupEnhance(16, groups=4)
    nn.init.normal_(block.se.weight)
    norm: Any = block.bn2
    net = nn.Sequential(block)
    set_tails(net)
    x = lay_out(torch.randn(3, 16, 6, 6), layout)
    results = []
    for impl in ("triton", None):
        monkeypatch.setattr("sgekit.ops.tail.implementation", lambda *_, impl=impl: impl)
        assert isinstance(block, FusedTail)
        net.zero_grad()
        norm.reset_running_stats()
        y = net(x)
        y.square().sum().backward()
        grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        results.append((y.detach(), grads, norm.running_mean.clone(),
                        norm.running_var.clone()))  # fmt: skip
        assert any(name.startswith("_Tail") for name in names(y)) == (impl is not None)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    assert list(tail_library.IMPLEMENTATIONS) == ["cpu", "triton"]


def names(y: Tensor) -> list[str]:
    """Of the functions that autograd would call."""
    found, waiting = [], [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None:
            found.append(node.name())
            waiting += [following for following, _ in node.next_functions]
    return found
