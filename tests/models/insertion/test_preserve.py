"""With `preserve` the network computes what it did, wherever the factor goes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.std_conv import ScaledStdConv2d, StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.spectral_norm import spectral_norm
from torchvision.ops import FrozenBatchNorm2d

from sgekit.errors import InputError
from sgekit.models.insertion import insert, remove
from tests.models.insertion.nets import (
    CHANNELS,
    Parallel,
    Permuted,
    Residual,
    basic,
    chain,
    conv,
    image,
    net,
    norm,
)

C = CHANNELS
SCALE = "attention_scale"


def frozen() -> Any:
    made, trained = FrozenBatchNorm2d(C), norm()
    made.load_state_dict(trained.state_dict())
    return made


def pruned() -> Any:
    made = conv()
    prune.l1_unstructured(made, "weight", amount=0.3)  # type: ignore[no-untyped-call]
    return made


def gained() -> Any:
    made: nn.Module = ScaledStdConv2d(C, C, 3, padding=1)
    nn.init.uniform_(made.gain, 0.5, 1.5)  # type: ignore[arg-type]
    return made


class OwnConv(nn.Conv2d):
    """Bends its weight in a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.tanh(), self.bias)  # type: ignore[no-any-return]


# What ends the branch, and whether its weights can hold the factor.
ENDS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "norm": (norm, True),
    "norm without affine": (lambda: nn.BatchNorm2d(C, affine=False), False),
    "frozen norm": (frozen, True),
    "group norm": (lambda: nn.GroupNorm(2, C), True),
    "instance norm": (lambda: nn.InstanceNorm2d(C, affine=True), True),
    "instance norm without affine": (lambda: nn.InstanceNorm2d(C), False),
    "norm and activation": (lambda: BatchNormAct2d(C, act_layer=nn.SiLU), True),
    "norm with activation off": (lambda: BatchNormAct2d(C, apply_act=False), True),
    "norm, dropout and activation": (
        lambda: BatchNormAct2d(C, act_layer=nn.SiLU, drop_layer=nn.Dropout2d),
        False,
    ),
    "convolution": (conv, True),
    "convolution without bias": (lambda: nn.Conv2d(C, C, 3, padding=1, bias=False), True),
    "transposed convolution": (lambda: nn.ConvTranspose2d(C, C, 3, padding=1), True),
    "linear": (lambda: Permuted(nn.Linear(C, C)), True),
    "standardised convolution": (lambda: StdConv2d(C, C, 3, padding=1), False),
    "standardised convolution with a gain": (gained, True),
    "convolution with a forward of its own": (lambda: OwnConv(C, C, 3, padding=1), False),
    "weight norm": (lambda: parametrizations.weight_norm(conv()), False),
    "weight norm of old": (lambda: torch.nn.utils.weight_norm(conv()), False),
    "spectral norm": (lambda: parametrizations.spectral_norm(conv()), False),
    "spectral norm of old": (lambda: spectral_norm(conv()), False),
    "pruned": (pruned, False),
    "concatenation": (lambda: Parallel(conv(C, 4), conv(C, 4)), False),
}


def randomised(end: nn.Module) -> Any:
    for module in end.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d) and (
            module.weight is not None
        ):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return end


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", ENDS)
def test_the_function_stays(kind: str, dtype: torch.dtype) -> None:
    end, held = ENDS[kind]
    torch.manual_seed(0)
    model = net(*(Residual(chain(randomised(end()))) for _ in range(2))).to(dtype)
    x, keys = image().to(dtype), set(model.state_dict())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12

    def run() -> Tensor:
        with torch.no_grad():
            return model(x)  # type: ignore[no-any-return]

    trained = run()
    model.eval()
    plain = run()
    names = insert(model, groups=4)
    assert len(names) == 2
    torch.testing.assert_close(run(), plain, rtol=tolerance, atol=tolerance)
    scales = [key for key in model.state_dict() if key.endswith(SCALE)]
    assert len(scales) == (0 if held else 2)
    assert remove(model) == names
    assert set(model.state_dict()) == keys
    torch.testing.assert_close(run(), plain, rtol=tolerance, atol=tolerance)
    # The weights of spectral norm change at every step of training, as does what is dropped.
    if not kind.startswith("spectral") and "dropout" not in kind:
        assert insert(model.train(), groups=4) == names
        torch.testing.assert_close(run(), trained, rtol=tolerance, atol=tolerance)


def test_without_it_layers_start_as_their_paper_says() -> None:
    model = basic().eval()
    state = copy.deepcopy(model.state_dict())
    before = model(image())
    names = insert(model, groups=4, preserve=False)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert not torch.allclose(model(image()), before, rtol=0.01)
    remove(model)
    assert torch.equal(model(image()), before)
    assert [name.rpartition(".")[2] for name in names] == ["attention"] * 2


def test_factors_are_in_the_weights_before() -> None:
    model = basic()
    before = copy.deepcopy(model.state_dict())
    insert(model, groups=4)
    factor = 1 / torch.tensor(1.0).sigmoid()
    for key, value in before.items():
        last = ".branch.4." in key and key.endswith(("weight", "bias"))
        torch.testing.assert_close(model.state_dict()[key], value * factor if last else value)


def test_frozen_parameters_hold_the_factor_too() -> None:
    model = basic().requires_grad_(False).eval()
    before = model(image())
    names = insert(model, groups=4)
    torch.testing.assert_close(model(image()), before)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {f"{n}.{part}" for n in names for part in ("weight", "bias")}


def test_shared_weights_are_left_alone() -> None:
    model = basic().eval()
    first, second = (model.get_submodule(f"blocks.{i}.branch.4") for i in range(2))
    second.weight = first.weight
    before, weight = model(image()), first.weight.clone()
    insert(model, where="blocks.0.branch.4", groups=4)
    assert torch.equal(first.weight, weight)
    assert "blocks.0.branch.4.attention_scale" in model.state_dict()
    torch.testing.assert_close(model(image()), before)


@pytest.mark.parametrize("start", [-100, -20])
def test_factors_that_can_not_be_made_up_for(start: int) -> None:
    with pytest.raises(InputError, match=r"becomes the factor .*can't be made up for"):
        insert(basic(), f"sge(groups=4,bias_init={start})")


class Borrows(nn.Module):
    """Computes with a layer's weight outside that layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3), conv()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = x + self.second(x) + F.conv2d(x, self.second.weight, padding=1)
        return out


def test_weights_used_outside_their_layer_are_left_alone() -> None:
    model = Borrows().eval()
    before = model(image())
    assert insert(model, groups=4) == ["second.attention"]
    assert f"second.{SCALE}" in model.state_dict()
    torch.testing.assert_close(model(image()), before)


def test_a_module_used_twice_is_rescaled_once() -> None:
    block = Residual(chain(norm()))
    model = net(block, block).eval()
    before = model(image())
    with pytest.warns(UserWarning, match=r"'blocks.0.branch.4' is called 2 times.*one layer"):
        names = insert(model, groups=4)
    assert names == ["blocks.0.branch.4.attention"]
    torch.testing.assert_close(model(image()), before)


def test_parametrized_after_insertion() -> None:
    model = basic().eval()
    insert(model, groups=4)
    before = model(image())
    parametrize.register_parametrization(model.blocks[0].branch[3], "weight", nn.Identity())
    torch.testing.assert_close(model(image()), before)


class Fixed(nn.Module):
    """Multiplies by a number."""

    def __init__(self, channels: int, number: float = 1.0, device: Any = None, dtype: Any = None):
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return x * self.number

    def neutralize(self) -> float:
        return self.number


def test_own_layers() -> None:
    model = basic().eval()
    before = model(image())
    names = insert(model, lambda channels, **kw: Fixed(channels, 0.25, **kw))
    assert isinstance(model.get_submodule(names[0]), Fixed)
    torch.testing.assert_close(model(image()), before)
    remove(model)
    assert insert(model, Fixed) == names
    assert torch.equal(model(image()), before)


@pytest.mark.parametrize("number", [0.0, float("nan"), float("inf")])
def test_factors_that_nothing_makes_up_for(number: float) -> None:
    with pytest.raises(InputError, match=r"becomes the factor.*preserve=False"):
        insert(basic(), lambda channels, **kw: Fixed(channels, number, **kw))


def test_layers_that_cannot_preserve() -> None:
    def plain(channels: int, **_: Any) -> nn.Module:
        return nn.Identity()

    with pytest.raises(InputError, match=r"plain has no `neutralize`.*preserve=False"):
        insert(basic(), plain)
    assert len(insert(basic(), plain, preserve=False)) == 2


def test_the_name_may_ask_for_the_papers_start() -> None:
    torch.manual_seed(0)
    model = basic().eval()
    before = copy.deepcopy(model.state_dict())
    names = insert(model, "sge(groups=2,preserve=false)")
    after = model.state_dict()
    assert names
    assert all(torch.equal(after[name], value) for name, value in before.items())
    layer: Any = model.get_submodule(names[0])
    assert float(layer.bias.detach().mean()) == 1.0  # the paper's start
