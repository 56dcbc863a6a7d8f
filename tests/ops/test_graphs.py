"""What compiled, exported and traced graphs hold; all give the same numbers."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from sgekit.ops import cpu_library, spatial_group_enhance


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return spatial_group_enhance(x, self.weight, self.bias, residual=x, activation="relu")


def value_and_gradients(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    return y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))


def test_compile_makes_one_graph() -> None:
    layer = Layer()
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((2, 8, 3, 5), (3, 8, 4, 7)):
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        ours, eager = value_and_gradients(compiled, x), value_and_gradients(layer, x)
        torch.testing.assert_close(ours, eager)
        assert ours[0].stride() == x.stride()


@pytest.mark.skipif(isinstance(cpu_library.load(), str), reason="no kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_inference_calls_the_kernels(dtype: torch.dtype) -> None:
    layer, targets = Layer().to(dtype), list[str]()

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled: Any = torch.compile(layer, fullgraph=True, backend=keep, dynamic=True)
    for shape in ((2, 8, 3, 5), (3, 8, 4, 7)):
        x = torch.randn(shape, dtype=dtype)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), layer(x))
    assert targets.count("sgekit.enhance.default") == 1
    weight, bias = torch.ones(4), torch.ones(4)
    named: Any = torch.compile(spatial_group_enhance, fullgraph=True, backend=keep)
    with torch.no_grad():
        named(x, weight, bias, impl="cpu")
    assert targets.count("sgekit.enhance.default") == 2
    wide = torch.randn(2, 8, 3, 5, dtype=torch.float64)  # which the kernels can't
    with torch.no_grad():
        torch.testing.assert_close(compiled(wide), layer(wide))
    assert targets.count("sgekit.enhance.default") == 2


@pytest.mark.slow
def test_inductor_calls_the_kernels_on_its_own_layouts() -> None:
    layer = nn.Sequential(nn.Conv2d(3, 8, 3), Layer(), nn.Conv2d(8, 4, 1)).eval()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 3, 9, 9).contiguous(memory_format=layout)
        with torch.no_grad(), torch._inductor.config.patch(freezing=True):
            compiled: Any = torch.compile(layer, fullgraph=True)
            torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_inductor_fuses_it() -> None:
    layer = Layer()
    x = torch.randn(2, 8, 6, 5)
    compiled: Any = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(value_and_gradients(compiled, x), value_and_gradients(layer, x))


def test_export_has_plain_operations_and_dynamic_sizes() -> None:
    layer = Layer()
    sizes = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    program = torch.export.export(layer, (torch.randn(2, 8, 6, 7),), dynamic_shapes=(sizes,))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("sigmoid" in target for target in targets)
    assert not any("sgekit" in target for target in targets)
    for shape in ((1, 8, 1, 1), (5, 8, 9, 4), (1, 8, 2, 1)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), layer(x))


def test_trace_has_dynamic_sizes() -> None:
    layer = Layer()
    with warnings.catch_warnings():
        # Validation compares sizes, which a trace can't record and needn't.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(layer, torch.randn(2, 8, 6, 7))  # type: ignore[no-untyped-call]
    x = torch.randn(3, 8, 5, 9)
    torch.testing.assert_close(traced(x), layer(x))


def test_fx_takes_it_as_one_operation() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Layer())
    traced = torch.fx.symbolic_trace(network)
    assert spatial_group_enhance in [node.target for node in traced.graph.nodes]
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(traced(x), network(x))


def test_what_vmap_returns_can_be_written_in_place() -> None:
    layer, x = Layer(), torch.randn(2, 8, 3, 3)
    mapped = torch.vmap(lambda one: layer(one[None]).add_(1)[0])(x)
    torch.testing.assert_close(mapped, layer(x) + 1)
