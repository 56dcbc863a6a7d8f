"""`fuse` returns the same function without what can be folded, and leaves the network alone."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers.std_conv import ScaledStdConv2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize, prune
from torchvision.ops.misc import FrozenBatchNorm2d

import sgekit
from sgekit.errors import InputError
from sgekit.modules import SpatialGroupEnhance
from tests.models.insertion.test_tails import lively


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, _BatchNorm | FrozenBatchNorm2d) for m in model.modules())


def check(model: nn.Module, x: Tensor, left: int = 0, **options: Any) -> nn.Module:
    """Fuses; the copy computes the same with `left` norms, the network is as it was."""
    torch.manual_seed(0)
    lively(model)
    before = copy.deepcopy(model.state_dict())
    training = [module.training for module in model.modules()]
    fused = sgekit.fuse(model, **options)
    with torch.no_grad():
        wanted = copy.deepcopy(model).double().eval()(x.double())
        got = fused(x)
    assert float((got - wanted).norm() / wanted.norm()) < 1e-5
    assert norms(fused) == left
    assert not any(module.training for module in fused.modules())
    assert [module.training for module in model.modules()] == training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    return fused


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("sge_resnet18", 0),
        ("sge_resnet10_small", 0),
        ("resnet10t", 0),
        pytest.param("mobilenetv2_035", 0, marks=pytest.mark.slow),
        ("regnety_002", 0),  # timm's norms with an activation
        pytest.param("convnext_atto", 0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_function(name: str, left: int, layout: torch.memory_format) -> None:
    model = sgekit.create_model(name, num_classes=7).to(memory_format=layout)
    check(model, torch.randn(2, 3, 64, 64).contiguous(memory_format=layout), left)


def test_norms_before_convolutions_stay() -> None:
    model = timm.create_model("resnetv2_50", num_classes=7)
    # Of each of 16 blocks norm2 and norm3 follow convolutions; norm1, and the last, sums.
    assert norms(model) == 49
    check(model, torch.randn(2, 3, 64, 64), left=17)


def test_inserted_attention_stays_where_it_was() -> None:
    for model in (torchvision.models.resnet18(), timm.create_model("mobilenetv2_035")):
        sgekit.insert(model, "sge", groups="auto")
        fused = check(model, torch.randn(2, 3, 64, 64))
        layers = [m for m in fused.modules() if isinstance(m, SpatialGroupEnhance)]
        assert len(layers) == sum(isinstance(m, SpatialGroupEnhance) for m in model.modules())


def test_can_be_copied_exported_and_trained_on() -> None:
    fused = check(sgekit.create_model("sge_resnet18", num_classes=3), torch.randn(2, 3, 64, 64))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = fused(x)
        exported = torch.export.export(copy.deepcopy(fused), (x,)).module()
        torch.testing.assert_close(exported(x), wanted, rtol=1e-4, atol=1e-5)
    fused.train()(x).sum().backward()
    assert all(p.grad is not None for p in fused.parameters())


class Chain(nn.Module):
    """A convolution and its norm, with what a test changes."""

    def __init__(self, **kind: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, **kind)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.conv(x)).relu())
        return out


class Both(Chain):
    def forward(self, x: Tensor) -> Tensor:
        u = self.conv(x)
        return self.norm(u) + u  # type: ignore[no-any-return]


class Returned(Chain):
    def forward(self, x: Tensor) -> Any:
        u = self.conv(x)
        return torch.stack([self.norm(u), u]) if self.training else {"y": self.norm(u), "u": u}


class Twice(Chain):
    def forward(self, x: Tensor) -> Tensor:
        once = self.norm(self.conv(x))
        return self.norm(self.conv(self.head(nn.functional.pad(once, (2, 2, 2, 2)))))  # type: ignore[no-any-return]


class Elsewhere(Chain):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y + self.conv.weight.mean()  # type: ignore[no-any-return]


X = torch.randn(2, 3, 9, 9)


@pytest.mark.parametrize(
    "kind", [{}, {"bias": False}, {"stride": 2}, {"padding": 1, "padding_mode": "reflect"}]
)
def test_kinds_of_convolutions(kind: dict[str, Any]) -> None:
    check(Chain(**kind), X)


@pytest.mark.parametrize("model", [Both, Twice, Elsewhere])
def test_layers_whose_output_or_weights_serve_others_stay(model: Any) -> None:
    check(model(), X, left=1)


def test_a_convolution_that_the_network_returns_stays() -> None:
    model = lively(Returned())
    fused = sgekit.fuse(model)
    with torch.no_grad():
        wanted, got = model.eval()(X), fused(X)
    assert norms(fused) == 1
    assert all(got[name].equal(wanted[name]) for name in wanted)


def test_hooked_parametrised_and_pruned_layers_stay() -> None:
    seen: list[int] = []
    hooked = Chain()
    hooked.norm.register_forward_hook(lambda *_: seen.append(1))
    check(hooked, X, left=1)
    assert seen

    class Half(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w / 2

    parametrised = Chain()
    parametrize.register_parametrization(parametrised.conv, "weight", Half())
    check(parametrised, X, left=1)
    pruned = Chain()
    prune.l1_unstructured(pruned.conv, "weight", amount=0.3)  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=r"prune\.remove"):
        sgekit.fuse(pruned)
    prune.remove(pruned.conv, "weight")  # type: ignore[no-untyped-call]
    check(pruned, X)


def test_norms_without_statistics_and_frozen_ones() -> None:
    untracked = Chain()
    untracked.norm = nn.BatchNorm2d(8, track_running_stats=False)
    assert norms(sgekit.fuse(lively(untracked))) == 1
    frozen = Chain()
    frozen.norm = FrozenBatchNorm2d(8)
    check(frozen, X)
    plain = Chain()
    plain.norm = nn.BatchNorm2d(8, affine=False)
    check(plain, X)


def test_other_dimensions() -> None:
    for dims, (conv, norm) in enumerate(
        ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)), 1
    ):
        model = nn.Sequential(conv(3, 4, 3), norm(4), nn.ReLU())
        x = torch.randn(2, 3, *(6 for _ in range(dims)))
        check(model, x, example_inputs=x)


def test_example_inputs_and_refusals() -> None:
    class Two(Chain):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x + y)

    model = lively(Two())
    with pytest.raises(InputError, match="example_inputs"):
        sgekit.fuse(model)
    assert norms(sgekit.fuse(model, (X, X))) == 0
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        sgekit.fuse("resnet18")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"fuse before torch\.compile"):
        sgekit.fuse(torch.compile(Chain()))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fuse before scripting"):
        sgekit.fuse(torch.jit.script(nn.Conv2d(3, 3, 1)))


@pytest.mark.slow
def test_detectors() -> None:
    torch.manual_seed(0)
    model = sgekit.create_detector("faster_rcnn", "sge_resnet10_small", num_classes=2).eval()
    images = [torch.rand(3, 96, 128)]
    fused = sgekit.fuse(model)
    assert norms(fused) == 0
    with torch.no_grad():
        (wanted,), (got,) = model(images), fused(images)
    assert len(wanted["boxes"]) > 0
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-3)


class Aliased(Chain):
    """The same layers under several names, and in a list that is no ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Sequential(self.conv, self.norm, nn.ReLU())
        self.steps = [self.conv, self.norm]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.both(x))  # type: ignore[no-any-return]


class Listed(Aliased):
    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


@pytest.mark.parametrize("kind", [Aliased, Listed])
def test_a_norm_of_several_names_is_folded_under_all(kind: Any) -> None:
    check(kind(), X)


class Standardised(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)  # type: ignore[no-any-return]


def test_convolutions_that_do_something_to_their_weights_stay() -> None:
    own = Chain()
    own.conv = Standardised(3, 8, 3)
    check(own, X, left=1)
    check(nn.Sequential(ScaledStdConv2d(3, 8, 3), nn.BatchNorm2d(8)), X, left=1)


@dataclass
class Output:
    y: Tensor
    features: Tensor


class Structured(Chain):
    def forward(self, x: Tensor) -> Any:
        u = self.conv(x)
        return Output(self.norm(u), u)


def test_a_convolution_in_a_returned_dataclass_stays() -> None:
    assert norms(sgekit.fuse(lively(Structured()))) == 1


class AlwaysOfTheBatch(Chain):
    def train(self, mode: bool = True) -> "AlwaysOfTheBatch":
        super().train(mode)
        self.norm.train()
        return self


class BiasOfTheNorm(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.norm.bias.sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [AlwaysOfTheBatch, BiasOfTheNorm])
def test_norms_that_do_more_stay(kind: Any) -> None:
    assert norms(sgekit.fuse(lively(kind()))) == 1


class AsksForNorms(Chain):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) if isinstance(self.norm, nn.BatchNorm2d) else 2 * y  # type: ignore[no-any-return]


class AsksForTheBias(Chain):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y if self.conv.bias is None else y + 1  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [AsksForNorms, partial(AsksForTheBias, bias=False)])
def test_networks_that_look_at_their_layers_are_refused(kind: Any) -> None:
    with pytest.raises(InputError, match="computes something else"):
        sgekit.fuse(lively(kind()))


def test_without_numbers_and_in_half_precision() -> None:
    with torch.device("meta"):
        empty = timm.create_model("resnet10t")
    assert norms(sgekit.fuse(empty)) == 0
    half = lively(timm.create_model("resnet10t", num_classes=3)).bfloat16()
    assert norms(sgekit.fuse(half)) == 0


def test_under_inference_mode() -> None:
    model = sgekit.create_model("sge_resnet10_small", num_classes=3)
    with torch.inference_mode():
        fused = check(model, torch.randn(1, 3, 32, 32))
    fused(torch.randn(1, 3, 32, 32)).sum().backward()
