"""What else a block's fused end must leave as PyTorch has it: gradients under odd conditions."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import sgekit
from sgekit.models.insertion.host import own_class
from sgekit.models.insertion.tails import FusedTail
from tests.models.insertion.test_tails import (
    close,
    compare,
    every_block,
    lively,
    needs_kernels,
    picture,
    timm_bottleneck,
    torchvision_basic,
    torchvision_bottleneck,
)


def without_tails(block: nn.Module) -> nn.Module:
    """The same with the block's own class."""
    plain = copy.deepcopy(block)
    assert isinstance(plain, FusedTail)
    plain.__class__ = type(plain).__mro__[2]
    return plain


@needs_kernels
@every_block
def test_a_later_batch_may_move_the_statistics_first(make: Any) -> None:
    block, x = lively(make()), picture()
    results = []
    for model in (block, without_tails(block)):
        model.eval()
        first = model(x)
        model.train()
        second = model(x + 1)
        (first.square().sum() + second.square().sum()).backward()
        results.append((first, {name: p.grad for name, p in model.named_parameters()}))
    (first, found), (other, wanted) = results
    close(first, other)
    # The plain network's backward takes the statistics that are there by then.
    assert found.keys() == wanted.keys()
    assert all(value is not None and value.isfinite().all() for value in found.values())


@needs_kernels
@pytest.mark.parametrize("make", [timm_bottleneck, torchvision_bottleneck])
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives_of_the_shortcut_alone(make: Any, training: bool) -> None:
    block = lively(make()).train(training)
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(name.startswith("downsample"))
    results, x = [], picture()
    for model in (block, without_tails(block).double()):
        leaves = [p for p in model.parameters() if p.requires_grad]
        first = torch.autograd.grad(model(x.to(leaves[0])).pow(3).sum(), leaves, create_graph=True)
        total = torch.stack([g.square().sum() for g in first]).sum()
        results.append((*first, *torch.autograd.grad(total, leaves)))
    for got, wanted in zip(*results, strict=True):
        close(got, wanted, 1e-3)


@needs_kernels
@every_block
def test_nan_passes_the_relu_as_it_does_in_pytorch(make: Any) -> None:
    block = lively(make()).eval()
    norm: Any = getattr(block, type(block).tail_norm)
    with torch.no_grad():
        norm.bias[3] = float("nan")
    grads, x = [], picture().requires_grad_()
    for model in (block, without_tails(block)):
        model.zero_grad()
        x.grad = None
        model(x).sum().backward()
        named = {name: p.grad for name, p in model.named_parameters()} | {"x": x.grad}
        grads.append({name: g.isnan() for name, g in named.items() if g is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, wanted in grads[1].items():
        assert torch.equal(grads[0][name], wanted), name


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_a_parametrised_norm_with_attention() -> None:
    block = lively(torchvision_basic())
    parametrize.register_parametrization(block.bn2, "weight", Twice())
    assert own_class(block.bn2) is type(block.bn2)
    compare(block, picture())
    fused = sgekit.fuse(block, torch.zeros(1, 16, 9, 7))
    with torch.no_grad():
        x = picture()
        close(fused(x), block.eval()(x))
