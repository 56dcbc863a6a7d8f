"""Copies, removal and graphs of blocks whose end runs in one pass."""

import copy
import io
from typing import Any

import pytest
import torch

from sgekit.models import create_model, insert, remove
from sgekit.models.insertion.tails import FusedTail
from tests.models.insertion.test_tails import (
    close,
    every_block,
    lively,
    picture,
    timm_basic,
    timm_bottleneck,
)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


def test_copies_pickles_and_names() -> None:
    model = lively(create_model("sge_resnet18", num_classes=4)).eval()
    plain = create_model("resnet18", num_classes=4)
    names = [name for name in model.state_dict() if ".se." not in name]
    assert names == list(plain.state_dict())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    x = torch.randn(1, 3, 64, 64)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert sum(isinstance(m, FusedTail) for m in twin.modules()) == 8
        assert twin(x).equal(model(x))


@every_block
def test_remove_gives_the_class_back(make: Any) -> None:
    block = make()
    fused = type(block)
    remove(block)
    assert type(block) is fused.__mro__[2]
    again: Any = copy.deepcopy(block)
    insert(again, "se", where="bn2", example_inputs=torch.zeros(1, 16, 9, 7))
    assert not isinstance(again, FusedTail)


def test_graphs_have_plain_operations() -> None:
    block = lively(timm_basic()).eval()
    x = picture()
    wanted = block(x)
    exported = torch.export.export(block, (x,)).run_decompositions()
    assert not any("sgekit" in str(node.target) for node in exported.graph.nodes)
    close(exported.module()(x), wanted, 1e-5)
    close(torch.fx.symbolic_trace(block)(x), wanted, 1e-5)
    close(torch.jit.trace(block, (x,))(x), wanted, 1e-5)  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_compiles_whole() -> None:
    block, x = lively(timm_basic()).train(), picture()
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True)
    close(compiled(x), block(x), 1e-5)  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_compiled_inference_has_one_operation_for_the_tail() -> None:
    block, x, targets = lively(timm_bottleneck()).eval(), picture(), list[str]()

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(block, fullgraph=True, backend=keep)
    with torch.no_grad():
        close(compiled(x), block(x), 1e-5)  # type: ignore[no-untyped-call]
    assert targets.count("sgekit.enhance.default") == 1
    assert not any("add" in target for target in targets)
