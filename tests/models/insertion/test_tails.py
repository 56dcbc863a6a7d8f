"""Blocks whose end runs in one pass compute, learn and behave as the blocks they were."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import timm.models.resnet as of_timm
import torch
import torchvision.models.resnet as of_torchvision
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torchvision.ops.misc import FrozenBatchNorm2d

from sgekit import SpatialGroupEnhance
from sgekit.analysis import capture
from sgekit.errors import InputError
from sgekit.models import insert
from sgekit.models.insertion.tails import FusedTail
from sgekit.ops import cpu_library

needs_kernels = pytest.mark.skipif(
    isinstance(cpu_library.load(), str), reason=f"no kernels: {cpu_library.load()}"
)
ONE_PASS = "sgekit.norm_enhance.default"
OVER_X = "sgekit.norm_enhance_.default"
WITHOUT_NORM = "sgekit.enhance_.default"


class Operations(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def lively(model: nn.Module) -> Any:
    """Numbers everywhere that differ from the start's."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
            if module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, SpatialGroupEnhance):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def timm_basic() -> Any:
    block: Any = of_timm.BasicBlock(16, 16)
    insert_at(block, "bn2")
    return block


def timm_bottleneck() -> Any:
    short = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    block = of_timm.Bottleneck(16, 8, stride=2, downsample=short)
    insert_at(block, "bn3")
    return block


def torchvision_basic() -> Any:
    block = of_torchvision.BasicBlock(16, 16)
    insert_at(block, "bn2")
    return block


def torchvision_bottleneck() -> Any:
    short = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    block = of_torchvision.Bottleneck(16, 8, stride=2, downsample=short)
    insert_at(block, "bn3")
    return block


def insert_at(block: nn.Module, norm: str) -> None:
    insert(block, "sge", where=norm, groups=4, example_inputs=torch.zeros(1, 16, 9, 7))


BLOCKS = [timm_basic, timm_bottleneck, torchvision_basic, torchvision_bottleneck]
every_block = pytest.mark.parametrize("make", BLOCKS)
both_layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["planar", "interleaved"]
)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


def picture(layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(3, 16, 9, 7).contiguous(memory_format=layout)


def close(got: Tensor, wanted: Tensor, to: float = 2e-5) -> None:
    got, wanted = got.detach().double(), wanted.detach().double()
    error = (got - wanted).norm() / wanted.norm().clamp(min=1e-12)
    assert float(error) < to


def both(block: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Output, and gradients and buffers by name: of the block, and of itself in float64."""
    for model, given in ((block, x), (copy.deepcopy(block).double(), x.double())):
        model.zero_grad()
        inputs = given.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = model(inputs)
        torch.manual_seed(1)
        (y * torch.randn(y.shape, dtype=torch.float32).to(y)).sum().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert inputs.grad is not None
        yield y.detach(), found | dict(model.named_buffers()) | {"input": inputs.grad}


def compare(block: nn.Module, x: Tensor, to: float = 2e-5) -> None:
    (y, found), (true_y, truth) = both(block, x)
    assert found.keys() == truth.keys()
    close(y, true_y, to)
    for name, wanted in truth.items():
        close(found[name], wanted, to)


@needs_kernels
@every_block
@both_layouts
@pytest.mark.parametrize("training", [True, False])
def test_computes_and_learns_as_in_float64(
    make: Any, layout: torch.memory_format, training: bool
) -> None:
    block = lively(make()).train(training).to(memory_format=layout)
    assert isinstance(block, FusedTail)
    with Operations() as seen:
        block(picture(layout))
    assert seen.names.count(ONE_PASS) == 1
    compare(block, picture(layout))


@needs_kernels
@every_block
def test_inference_writes_over_the_convolutions_output(make: Any) -> None:
    block = lively(make()).eval()
    x = picture()
    truth = copy.deepcopy(block).double()(x.double())
    with torch.inference_mode(), Operations() as seen:
        y = block(x)
    assert seen.names.count(OVER_X) == 1
    close(y, truth)


@needs_kernels
def test_what_a_hook_holds_of_the_convolution_stays() -> None:
    block, x = lively(timm_basic()).eval(), picture()
    held: list[tuple[Tensor, Tensor]] = []
    block.conv2.register_forward_hook(lambda module, args, out: held.append((out, out.clone())))
    with torch.no_grad():
        block(x)
    assert held[0][0].equal(held[0][1])


NORMS: dict[str, Any] = {
    "momentum": lambda: nn.BatchNorm2d(16, momentum=0.3),
    "cumulative": lambda: nn.BatchNorm2d(16, momentum=None),
    "untracked": lambda: nn.BatchNorm2d(16, track_running_stats=False),
    "not affine": lambda: nn.BatchNorm2d(16, affine=False),
    "eps": lambda: nn.BatchNorm2d(16, eps=0.1),
    "frozen": lambda: FrozenBatchNorm2d(16),
    "group": lambda: nn.GroupNorm(4, 16),
    "none": nn.Identity,
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_norms(norm: str, training: bool) -> None:
    block = timm_basic()
    block.bn2 = NORMS[norm]()
    lively(block).train(training)
    for _ in range(2):  # of which the second has running statistics of the first
        compare(block, picture())


def test_a_norm_that_is_frozen_alone() -> None:
    block = lively(timm_bottleneck()).train()
    block.bn3.eval()
    before = block.bn3.running_mean.clone()
    compare(block, picture())
    assert block.bn3.running_mean.equal(before)


def test_constants_need_no_gradient() -> None:
    block = lively(timm_basic()).train().requires_grad_(False)
    x = picture().requires_grad_()
    block(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in block.parameters())


@pytest.mark.parametrize("name", ["bn2", "se", "act2"])
def test_hooks_on_layers_of_the_tail_are_called(name: str) -> None:
    block, x = lively(timm_basic()).eval(), picture()
    seen: list[Tensor] = []
    block.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        y = block(x)
    assert len(seen) == 1
    block.get_submodule(name)._forward_hooks.clear()
    close(y, block.double()(x.double()))


def test_a_hook_on_every_module_is_called() -> None:
    block, seen = lively(timm_basic()).eval(), []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: seen.append(type(module).__name__)
    )
    try:
        block(picture())
    finally:
        handle.remove()
    assert {"BatchNorm2d", "SpatialGroupEnhance", "ReLU"} <= set(seen)


def test_gates_are_captured() -> None:
    block = lively(timm_basic()).eval()
    with capture(block) as records, torch.no_grad():
        block(picture())
    assert list(records) == ["se"]


def test_drop_path_drops() -> None:
    block = lively(timm_basic()).train()
    block.drop_path = DropPath(0.9)
    x = torch.randn(64, 16, 5, 5)
    y = block(x)
    dropped = (y == x.relu()).flatten(1).all(1)
    assert 40 < int(dropped.sum()) < 64
    compare(block.eval(), picture())


@pytest.mark.parametrize("option", [{"normalize": False}, {"unbiased": False}])
def test_ablations_keep_their_meaning(option: dict[str, Any]) -> None:
    block = timm_basic()
    block.se = SpatialGroupEnhance(16, 4, **option)
    compare(lively(block).train(), picture())


def test_other_activations_and_parametrised_layers() -> None:
    block = timm_basic()
    block.act2 = nn.GELU()
    compare(lively(block).train(), picture())

    class Twice(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return 2 * w

    for layer in ("bn2", "se"):
        block = lively(timm_basic()).train()
        parametrize.register_parametrization(block.get_submodule(layer), "weight", Twice())
        compare(block, picture())


def test_second_derivatives() -> None:
    for training in (True, False):
        block = lively(timm_basic()).train(training)
        found = []
        for model in (block, copy.deepcopy(block).double()):
            torch.manual_seed(2)
            x = torch.randn(2, 16, 5, 4).to(next(model.parameters())).requires_grad_()
            y = model(x).square().sum()
            (first,) = torch.autograd.grad(y, x, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), [x, *model.parameters()]))
        for got, wanted in zip(*found, strict=True):
            close(got, wanted, 2e-3)


def test_checkpointing_and_functional_calls() -> None:
    block = lively(timm_bottleneck()).eval()
    x = picture().requires_grad_()
    wanted = torch.autograd.grad(block(x).square().sum(), x)[0]
    y: Any = checkpoint(block, x, use_reentrant=False)
    close(torch.autograd.grad(y.square().sum(), x)[0], wanted, 1e-6)
    weights = dict(block.named_parameters()) | dict(block.named_buffers())

    def loss(x: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(block, weights, (x,)).square().sum()
        return out

    close(torch.func.grad(loss)(x.detach()), wanted)


@both_layouts
def test_autocast(layout: torch.memory_format) -> None:
    block = lively(timm_basic()).train().to(memory_format=layout)
    x = picture(layout)
    truth = copy.deepcopy(block).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x.bfloat16())
    assert y.dtype == torch.bfloat16
    close(y, truth, 2e-2)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_half_precision_weights() -> None:
    block, x = lively(timm_basic()).eval().bfloat16(), picture().bfloat16()
    with torch.no_grad():
        y = block(x)
        close(y, block.double()(x.double()), 2e-2)
    assert y.dtype == torch.bfloat16


def test_wrong_inputs_raise_as_before() -> None:
    block = lively(timm_basic()).train()
    with pytest.raises(ValueError, match="4D"):
        block(torch.randn(16, 9, 7))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(torch.randn(1, 16, 1, 1))
    with pytest.raises(RuntimeError, match="channels"):
        block(torch.randn(1, 8, 9, 7))


def test_layers_that_do_not_fit_raise_as_before() -> None:
    block = lively(timm_basic()).eval()
    block.bn2 = nn.BatchNorm2d(1).eval()
    with pytest.raises(RuntimeError):
        block(picture())
    block = lively(timm_basic()).eval()
    block.se.to("meta")
    with pytest.raises(InputError, match="meta"):
        block(picture())
    block = timm_basic()
    block.se = SpatialGroupEnhance(15, 5)
    with pytest.raises(InputError, match="do not divide"):
        block(picture())


def test_forward_mode() -> None:
    block, x = lively(timm_basic()).eval().requires_grad_(False), picture()
    slow = copy.deepcopy(block).double()

    def derivative(model: nn.Module, x: Tensor) -> Tensor:
        with forward_ad.dual_level():
            tangent: Tensor = forward_ad.unpack_dual(  # type: ignore[no-untyped-call]
                model(forward_ad.make_dual(x, torch.ones_like(x)))  # type: ignore[no-untyped-call]
            ).tangent
        return tangent

    with torch.no_grad():
        close(derivative(block, x), derivative(slow, x.double()))


def test_defaults_of_torch_change_nothing() -> None:
    block, x = lively(timm_basic()).train(), picture()
    wanted = dict(next(both(copy.deepcopy(block), x))[1])
    for kind in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(kind)
        try:
            got = next(both(copy.deepcopy(block), x))[1]
        finally:
            torch.set_default_dtype(torch.float32)
        for name, value in wanted.items():
            if name != "num_batches_tracked":
                close(got[name], value, 0.05 if kind == torch.bfloat16 else 1e-6)
    with torch.device("meta"), torch.no_grad():
        close(block.eval()(x), block.double()(x.double()))


def test_empty_batches() -> None:
    block = lively(timm_basic()).eval()
    assert block(torch.empty(0, 16, 9, 7)).shape == (0, 16, 9, 7)
