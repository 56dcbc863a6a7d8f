"""A module that carries attention is in all other respects the module that it was."""

import copy
import io
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

from sgekit.errors import InputError
from sgekit.models.insertion import insert, remove, synchronize_norms
from sgekit.models.insertion.host import Host, is_host
from sgekit.modules import SpatialGroupEnhance
from tests.models.insertion.nets import (
    CHANNELS,
    Parallel,
    Residual,
    basic,
    chain,
    conv,
    image,
    net,
    norm,
)

PLACES = ["blocks.0.branch.4", "blocks.1.branch.4"]


def with_attention(**options: Any) -> Any:
    """The two blocks, with attention that has been trained."""
    torch.manual_seed(0)
    model = basic().eval()
    for name in insert(model, groups=4, **options):
        nn.init.normal_(model.get_submodule(name).weight)
    return model


def test_names_and_types_stay() -> None:
    plain, model = basic(), with_attention()
    extra = [f"{place}.attention.{name}" for place in PLACES for name in ("weight", "bias")]
    assert set(model.state_dict()) == {*plain.state_dict(), *extra}
    host = model.get_submodule(PLACES[0])
    assert isinstance(host, nn.BatchNorm2d)
    assert isinstance(host, Host)
    assert is_host(host)
    assert not is_host(plain.get_submodule(PLACES[0]))
    assert host.num_features == CHANNELS
    assert "BatchNorm2dWithAttention" in repr(model)


def test_attention_acts_behind_the_module() -> None:
    model = with_attention(preserve=False)
    host: Any = model.get_submodule(PLACES[0])
    seen: dict[str, Tensor] = {}
    host.attention.register_forward_hook(lambda _, args, out: seen.update(x=args[0], y=out))
    host.register_forward_hook(lambda _, args, out: seen.update(host=out, given=args[0]))
    model(image())
    normed = nn.functional.batch_norm(
        seen["given"], host.running_mean, host.running_var, host.weight, host.bias
    )
    torch.testing.assert_close(seen["x"], normed)
    assert seen["y"] is seen["host"]


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
def test_copies(way: str) -> None:
    model = with_attention()
    if way == "deepcopy":
        other = copy.deepcopy(model)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, file := io.BytesIO())
        other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    x, before = image(), model(image())
    assert torch.equal(other(x), before)
    for name in PLACES:
        nn.init.zeros_(other.get_submodule(name).attention.weight)
    assert not torch.equal(other(x), before)
    assert torch.equal(model(x), before)
    assert remove(other) == [f"{name}.attention" for name in PLACES]
    assert not is_host(other.get_submodule(PLACES[0]))
    assert is_host(model.get_submodule(PLACES[0]))


def test_a_state_loads_into_the_same_insertion() -> None:
    model, other = with_attention(), basic().eval()
    insert(other, groups=4)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(image()), model(image()))


def test_types_and_devices() -> None:
    model = with_attention()
    exact = copy.deepcopy(model).double()(image().double())
    torch.testing.assert_close(model(image()).double(), exact, rtol=1e-5, atol=1e-5)
    half = copy.deepcopy(model).bfloat16()(image().bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact, rtol=0.05, atol=0.05)
    meta = copy.deepcopy(model).to("meta")
    assert meta(image().to("meta")).shape == exact.shape
    assert all(tensor.is_meta for tensor in meta.state_dict().values())


def test_half_precision_stays_half_behind_a_buffer() -> None:
    model = net(Parallel(conv(8, 4), conv(8, 4))).eval()
    assert insert(model, groups=4) == ["blocks.0.attention"]
    assert "blocks.0.attention_scale" in model.state_dict()
    assert model.bfloat16()(image().bfloat16()).dtype == torch.bfloat16
    double = net(Parallel(conv(8, 4), conv(8, 4))).double()
    insert(double, groups=4)
    assert double.state_dict()["blocks.0.attention_scale"].dtype == torch.float64


def test_layers_are_made_like_what_is_around_them() -> None:
    model = basic().to(torch.float64).train()
    model.blocks[1].eval()
    layers: list[Any] = [model.get_submodule(name) for name in insert(model, groups=2)]
    assert [layer.training for layer in layers] == [True, False]
    assert all(layer.weight.dtype == torch.float64 for layer in layers)
    on_meta = basic().to("meta")
    assert all(
        p.is_meta
        for name in insert(on_meta, groups=2)
        for p in on_meta.get_submodule(name).parameters()
    )


def test_training_reaches_everything() -> None:
    model = with_attention().train()
    loss: Tensor = model(image()).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_compiled_whole() -> None:
    model = with_attention()
    with torch.no_grad():
        torch.compiler.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(image()), model(image()))  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_exported() -> None:
    model = with_attention()
    program = torch.export.export(model, (image(),))
    exported: Any = program.module()
    torch.testing.assert_close(exported(image()), model(image()))


def test_symbolic_tracing_and_feature_extraction() -> None:
    model = resnet18(weights=None).eval()
    insert(model)
    x = image(64)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))
    features = create_feature_extractor(model, ["layer1.0.bn2", "layer3"])(x)
    seen: dict[str, Tensor] = {}
    model.layer1[0].bn2.register_forward_hook(lambda *args: seen.update(out=args[2].clone()))
    model(x)
    torch.testing.assert_close(features["layer1.0.bn2"], seen["out"])
    assert features["layer3"].shape == (2, 256, 4, 4)


def test_backbones_of_detectors() -> None:
    model = IntermediateLayerGetter(resnet18(weights=None), {"layer2": "c3", "layer4": "c5"}).eval()
    before = model(image(64))
    assert len(insert(model)) == 8
    for key, after in model(image(64)).items():
        torch.testing.assert_close(after, before[key], rtol=1e-4, atol=1e-5)


def test_features_only_of_timm() -> None:
    model = timm.create_model("regnetx_002", features_only=True).eval()
    before = model(image(64))
    assert insert(model, groups="auto")[0] == "s1.b1.conv3.bn.attention"
    for one, other in zip(model(image(64)), before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Named(nn.ModuleDict):
    """Runs its items in their order, with the names that its keys give."""

    def forward(self, x: Tensor) -> Tensor:
        for name, module in self.items():
            assert name in self.keys()
            x = module(x)
        for module in self.values():
            x = x + 0 * module(x)
        assert list(self) == list(self.keys())
        return x


class Listed(nn.ModuleList):
    """Runs its items in their order."""

    def forward(self, x: Tensor) -> Tensor:
        for index in range(len(self)):
            x = self[index](x)
        return x


CONTAINERS: dict[str, nn.Module] = {
    "Sequential": nn.Sequential(conv(3), nn.ReLU(), conv()),
    "ModuleDict": Named(OrderedDict(a=conv(3, 3), b=nn.Conv2d(3, 3, 1))),
    "ModuleList": Listed([conv(3, 3), nn.Conv2d(3, 3, 1)]),
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_do_not_count_the_attention_among_their_items(container: Any) -> None:
    container = copy.deepcopy(container)
    model = nn.Sequential(container)
    before, length = model(image()), len(container)
    items = list(container)
    insert(model, where="0", groups="auto")
    calls: list[int] = []
    container.attention.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(model(image()), before)
    assert calls == [1]
    assert (len(container), list(container)) == (length, items)
    if not isinstance(container, nn.ModuleDict):
        assert container[-1] is items[-1]
        part = container[1:]
        assert list(part) == items[1:]
        assert not is_host(part)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image()), before)
    remove(model)
    assert torch.equal(model(image()), before)


@pytest.mark.parametrize("name", ["regnetx_002", "cs3darknet_s", "resnet10t"])
def test_norms_in_step_keep_what_they_carry(name: str) -> None:
    model = timm.create_model(name).eval()
    names = insert(model, groups="auto")
    for layer in names:
        nn.init.normal_(model.get_submodule(layer).weight)  # type: ignore[arg-type]
    x, keys = image(64), list(model.state_dict())
    before = model(x)
    converted = synchronize_norms(model)
    assert converted is model
    assert not any(type(m) is nn.BatchNorm2d for m in model.modules())
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    torch.testing.assert_close(model(x), before)
    assert set(model.state_dict()) == set(keys)
    assert all(isinstance(model.get_submodule(n), SpatialGroupEnhance) for n in names)
    assert remove(model) == names


def test_norms_in_step_keep_the_factor() -> None:
    model = net(Residual(chain(nn.BatchNorm2d(CHANNELS, affine=False)))).eval()
    before = model(image())
    insert(model, groups=4)
    assert "blocks.0.branch.4.attention_scale" in synchronize_norms(model).state_dict()
    torch.testing.assert_close(model(image()), before)


def test_a_norm_alone_in_step() -> None:
    model = norm().eval()
    insert(model, where="", groups=2, example_inputs=torch.randn(2, CHANNELS, 4, 4))
    x = torch.randn(2, CHANNELS, 4, 4)
    converted = synchronize_norms(model)
    assert isinstance(converted, nn.SyncBatchNorm)
    assert torch.equal(converted.eval()(x), model(x))


class Sums(nn.Module):
    """Adds what all its children make."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(conv(), norm()), nn.Sequential(conv(), norm())

    def forward(self, x: Tensor) -> Any:
        return sum(child(x) for child in self.children())


def test_a_forward_through_all_children_is_refused() -> None:
    model = nn.Sequential(conv(3), Sums()).eval()
    with pytest.raises(InputError, match=r"'1' \(Sums\) goes through its children in forward"):
        insert(model, groups=4)
    before = model(image())
    assert insert(model, where="1.*.1", groups=4) == ["1.a.1.attention", "1.b.1.attention"]
    torch.testing.assert_close(model(image()), before)


class Marked(nn.Module):
    """Adds through a module that a tool for quantisation will look for."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(), norm())
        self.add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Any:
        return self.add.add_relu(x, self.branch(x))


def test_additions_to_be_quantised_are_no_hindrance() -> None:
    assert insert(nn.Sequential(conv(3), Marked()), groups=4) == ["1.branch.1.attention"]


def test_places_are_the_same_in_inference_mode() -> None:
    model = basic()
    with torch.inference_mode():
        names = insert(model, groups=4)
    assert names == ["blocks.0.branch.4.attention", "blocks.1.branch.4.attention"]
