"""Every attention goes into a small network, and leaves its function as it is where it can."""

from typing import Any

import pytest
import torch
from torch import nn

from sgekit.errors import InputError
from sgekit.models.insertion import insert, remove
from sgekit.modules import ATTENTION
from tests.models.insertion.nets import CHANNELS, Permuted, Residual, chain, conv, image, net, norm

# By their equations: SimAM has no parameters, SA shuffles channels, SK replaces a convolution.
CANNOT = {"simam", "sa", "sk"}
OPTIONS = {"ema": "ema(groups=4)", "sa": "sa(groups=4)"}


def stages() -> Any:
    """Two stages of residual blocks, the second at half the size."""
    torch.manual_seed(0)
    down = Residual(chain(norm(), stride=2), nn.Conv2d(CHANNELS, CHANNELS, 1, 2))
    return net(Residual(chain(norm())), down, stem=nn.Sequential(conv(3), norm())).eval()


PLACES = {
    "norm": ["blocks.0.branch.4.attention", "blocks.1.branch.4.attention"],
    "stage": ["blocks.0.attention"],
    "conv": ["blocks.0.branch.0", "blocks.1.branch.0"],
}


@pytest.mark.parametrize("name", [name for name in ATTENTION if name != "none"])
def test_every_attention(name: str) -> None:
    model, x = stages(), image(32)
    cls, text = ATTENTION[name], OPTIONS.get(name, name)
    before, keys = model(x), set(model.state_dict())
    preserve = name not in CANNOT
    if not preserve:
        with pytest.raises(InputError, match=name):
            insert(model, text, groups="auto")
        assert set(model.state_dict()) == keys
    names = insert(model, text, groups="auto", preserve=preserve)
    assert names == PLACES[getattr(cls, "placement", "norm")]
    layers: list[Any] = [model.get_submodule(layer) for layer in names]
    assert all(isinstance(layer, cls) for layer in layers)
    assert torch.allclose(model(x), before, rtol=1e-5, atol=1e-5) == preserve
    model.train()(x).square().sum().backward()
    for layer in layers:
        for key, parameter in layer.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    if name != "sk":
        assert remove(model) == names
        assert set(model.state_dict()) == keys


def test_none_is_nothing() -> None:
    model = stages()
    keys = set(model.state_dict())
    assert insert(model, "none") == []
    assert set(model.state_dict()) == keys


@pytest.mark.parametrize("name", ["se", "cbam", "ge", "coord", "triplet"])
def test_channels_last(name: str) -> None:
    torch.manual_seed(0)
    block = Permuted(nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS))
    model, x = net(Residual(block)).eval(), image(16)
    before = model(x)
    assert insert(model, name) == ["blocks.0.branch.inner.1.attention"]
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    layer: Any = model.get_submodule("blocks.0.branch.inner.1.attention")
    shapes = []
    layer.register_forward_hook(lambda *args: shapes.append((args[1][0].shape, args[2].shape)))
    model(x)
    assert shapes == [((2, CHANNELS, 16, 16),) * 2]


def test_two_kinds_in_one_network() -> None:
    model = stages()
    before = model(image(32))
    names = [*insert(model, "bam"), *insert(model, "sge", groups=4)]
    assert names == [*PLACES["stage"], *PLACES["norm"]]
    torch.testing.assert_close(model(image(32)), before, rtol=1e-5, atol=1e-5)
    assert sorted(remove(model)) == sorted(names)


def test_groups_are_for_sge_alone() -> None:
    model = stages()
    with pytest.raises(InputError, match=r"groups is for sge alone.* is se .*'sa\(groups=32\)'"):
        insert(model, "se", groups=4)
    with pytest.raises(TypeError, match=r"behind 'blocks.0.branch.4'.*whole number.*'4'"):
        insert(model, "sge", groups="4")  # type: ignore[arg-type]


def test_a_convolution_is_replaced_with_its_norm() -> None:
    model = stages()
    names = insert(model, "sk", where="blocks.0.branch.0", preserve=False)
    assert names == ["blocks.0.branch.0"]
    branch: Any = model.blocks[0].branch
    assert isinstance(branch[1], nn.Identity)
    assert isinstance(branch[2], nn.ReLU)
    assert isinstance(branch[4], nn.BatchNorm2d)


def test_the_last_convolution_of_a_branch_is_not_replaced() -> None:
    model = net(Residual(nn.Sequential(norm(), nn.ReLU(), conv())))
    with pytest.raises(InputError, match=r"no 3x3 convolution inside a residual branch.*where="):
        insert(model, "sk", preserve=False)
