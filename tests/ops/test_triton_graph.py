"""The GPU kernels in graphs: differentiable operations, and what torch.compile holds of them."""

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from sgekit.models.insertion.tails import set_tails
from sgekit.modules import SpatialGroupEnhance
from sgekit.ops import cpu_library, library, spatial_group_enhance, triton, triton_graph

interpreted = pytest.mark.skipif(
    triton.can_run(library.Call(torch.device("cpu"), torch.float32, (1, 4, 2), 1, 1, None))
    is not None,
    reason="Triton, or its interpreter, is not there",
)


@interpreted
@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradients(activation: str | None) -> None:
    torch.manual_seed(0)
    numbers = [torch.randn(2, 8, 5, 3), torch.randn(4), torch.randn(4), torch.randn(2, 8, 5, 3)]
    results: list[Any] = []
    for graph in (True, False):
        x, weight, bias, residual = (t.clone().requires_grad_() for t in numbers)
        if graph:
            y = triton_graph.enhance(x, weight, bias, residual, 1e-5, 1, activation)[0]
        else:
            y = spatial_group_enhance(
                x, weight, bias, 1e-5, 1, residual, activation, impl="reference"
            )
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, weight, bias, residual))))
    torch.testing.assert_close(*results)


IN_A_GRAPH = """
import sys, torch, triton, sgekit
from triton.backends.compiler import GPUTarget
from torch._functorch.aot_autograd import aot_module_simplified
from torch._subclasses.fake_tensor import FakeTensorMode
from sgekit.ops import triton_graph as ops

class Driver:  # with a target torch can tell what a kernel writes
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_active_torch_device(self): return torch.device("cuda", 0)

triton.runtime.driver.set_active(Driver())
dynamic = sys.argv[1] == "dynamic"

def graph(f, *args):
    held, graphs = [], []
    def keep(module, inputs):
        held.extend(str(node.target) for node in module.graph.nodes)
        graphs.append(module)
        return module.forward
    compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend=lambda m, i:
        aot_module_simplified(m, i, fw_compiler=keep, bw_compiler=keep))
    with torch.no_grad():
        compiled(*args)
        if dynamic:  # one graph for every number of samples
            compiled(*(torch.cat([a, a]) if a.shape[0] == 6 else a for a in args))
    assert len(graphs) == 1, len(graphs)
    for node in graphs[0].graph.nodes:
        if "triton_kernel_wrapper" in str(node.target):
            read = {"dy", "x", "residual", "weight", "bias"}
            read |= {"y"} if "dx" in node.kwargs["kwargs"] else set()
            written = set(node.kwargs["tensors_to_clone"])
            assert written and not written & read, written
    assert not any("sgekit" in name for name in held), held
    return sum("triton_kernel_wrapper" in name for name in held)

with FakeTensorMode():
    x = torch.empty(6, 256, 14, 14, device="cuda")
    w, c = torch.empty(64, device="cuda"), torch.empty(256, device="cuda")
    g, m = torch.empty(6, 64, 4, device="cuda"), torch.empty(6, 64, device="cuda")
    wide, means = c.double(), torch.empty(6, 256, device="cuda", dtype=torch.float64)
    layer = lambda x, w: sgekit.spatial_group_enhance(x, w, w, residual=x, activation="relu")
    print(graph(layer, x, w))
    named = lambda x, w: sgekit.spatial_group_enhance(x, w, w, impl="triton")
    print(graph(named, x, w))
    back = lambda x, w, g, m: ops.enhance_backward(x, x, w, w, g, m, m, x, 1e-5, 1)
    print(graph(back, x, w, g, m))
    print(graph(lambda x: ops.batch_moments(x, 1), x))
    tail = lambda x, n, c, w: ops.norm_enhance(x, n, n, c, c, None, w, w, x, 1e-5, 1, "relu")
    print(graph(tail, x, wide, c, w))
    behind = lambda x, n, c, means, m, w: ops.norm_enhance_backward(
        x, x, x, n, n, c, c, means, m, m, w, w, 1e-5, 1, True)
    print(graph(behind, x, wide, c, means, m, w))
    large = torch.empty(6, 256, 80, 80, device="cuda")  # programs take turns
    print(graph(layer, large, w))
    print(graph(back, large, w, g, m))
    if dynamic:  # one graph for sizes of the same kind
        made = []
        def count(module, inputs):
            made.append(module)
            return module.forward
        compiled = torch.compile(layer, dynamic=True, backend=lambda m, i:
            aot_module_simplified(m, i, fw_compiler=count, bw_compiler=count))
        with torch.no_grad():
            for size in ((6, 256, 80, 84), (5, 256, 76, 88)):
                compiled(torch.empty(size, device="cuda"), w)
        assert len(made) == 1, len(made)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shapes", ["static", "dynamic"])
def test_compiled_graphs_hold_the_kernels(shapes: str) -> None:
    """On tensors without memory, as no GPU is needed for them."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_GRAPH, shapes],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["1", "1", "1", "1", "1", "3", "1", "1"]


@pytest.mark.skipif(isinstance(cpu_library.load(), str), reason="no kernels")
@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_block_takes_the_tail(monkeypatch: pytest.MonkeyPatch, training: bool) -> None:
    """As on a GPU, with the CPU's kernels in the place of its."""
    torch.manual_seed(0)
    block: Any = BasicBlock(16, 16)
    block.se = SpatialGroupEnhance(16, groups=4)
    nn.init.normal_(block.se.weight)
    net = nn.Sequential(block).train(training)
    set_tails(net)
    eager = copy.deepcopy(net)
    monkeypatch.setattr("sgekit.ops.tail.compiled_for", lambda call, needs_grad: "cpu")
    targets = list[str]()

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    x = torch.randn(3, 16, 6, 6)
    compiled: Any = torch.compile(net, fullgraph=True, backend="aot_eager")
    results = []
    for model in (compiled, eager):
        y = model(x)
        y.square().sum().backward()
        results.append(y)
    torch.testing.assert_close(*results)
    for (name, ours), theirs in zip(net.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, own), other in zip(net.named_buffers(), eager.buffers(), strict=True):
        assert torch.equal(own, other), name
    inference: Any = torch.compile(net, fullgraph=True, backend=keep)
    with torch.no_grad():
        torch.testing.assert_close(inference(x), eager(x))
    assert [name for name in targets if "norm_enhance" in name] == ["sgekit.norm_enhance.default"]
