"""Places that the user names: names, patterns, several of them, a function."""

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.models.insertion import insert, remove
from sgekit.models.insertion.choose import Where
from tests.models.insertion.nets import CHANNELS, Residual, basic, chain, conv, image, net, norm

FIRST, SECOND = "blocks.0.branch.4", "blocks.1.branch.4"

CHOICES: dict[str, tuple[Where, list[str]]] = {
    "name": (FIRST, [FIRST]),
    "names": ([SECOND, FIRST], [FIRST, SECOND]),
    "tuple": ((SECOND,), [SECOND]),
    "pattern": ("*.branch.4", [FIRST, SECOND]),
    "patterns": (["blocks.0.*.4", "blocks.1.branch.[3]"], [FIRST, "blocks.1.branch.3"]),
    "block": ("blocks.1", ["blocks.1"]),
    "container": ("blocks", ["blocks"]),
    "function of the name": (
        lambda name, _: name.startswith("blocks") and name.endswith(".1"),
        ["blocks.0.branch.1", "blocks.1", "blocks.1.branch.1"],
    ),
    "function of the module": (
        lambda _, module: isinstance(module, Residual),
        ["blocks.0", "blocks.1"],
    ),
}


@pytest.mark.parametrize(("where", "expected"), CHOICES.values(), ids=CHOICES)
def test_choices(where: Where, expected: list[str]) -> None:
    model = basic().eval()
    before, keys = model(image()), list(model.state_dict())
    names = insert(model, where=where, groups=4)
    assert names == [f"{name}.attention" for name in expected]
    torch.testing.assert_close(model(image()), before)
    remove(model)
    assert list(model.state_dict()) == keys


def test_the_network_itself() -> None:
    model = conv(3).eval()
    before = model(image())
    assert insert(model, where="", groups=4) == ["attention"]
    torch.testing.assert_close(model(image()), before)
    assert remove(model) == ["attention"]
    assert type(model) is nn.Conv2d


def test_between_norm_and_activation() -> None:
    model = net(nn.Sequential(conv(), BatchNormAct2d(CHANNELS)))
    names = ["blocks.0.1.drop.attention"]
    for where in ("blocks.0.1", "blocks.0.1.drop"):
        assert insert(model, where=where, groups=4) == names
        with pytest.raises(InputError, match=r"'blocks.0.1.drop' carries attention already"):
            insert(model, where=where, groups=4)
        assert remove(model) == names
    without = net(nn.Sequential(conv(), BatchNormAct2d(CHANNELS, apply_act=False)))
    assert insert(without, where="blocks.0.1", groups=4) == ["blocks.0.1.attention"]


def test_one_module_under_two_names() -> None:
    block = Residual(chain(norm()))
    model = net(block, conv(), block)
    with pytest.warns(UserWarning, match="one layer") as warned:
        names = insert(model, where=["blocks.0", "blocks.2"], groups=4)
    assert names == ["blocks.0.attention"]
    assert "'blocks.2' and 'blocks.0' are one module" in str(warned[0].message)
    assert "'blocks.0' is called 2 times in a run; one layer" in str(warned[1].message)
    assert {w.filename for w in warned} == {__file__}


class Pair(nn.Module):
    """Returns two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.unused = conv(3), conv(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.conv(x)
        return out, out


class Takes(nn.Module):
    """Adds what `Pair` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.same, self.pool = Pair(), nn.Identity(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.pair(x)
        return self.pool(self.same(one + other)).flatten(1)  # type: ignore[no-any-return]


WRONG: dict[str, tuple[Where, str]] = {
    "no such name": ("pair.convv", r"no module fits 'pair.convv'; near: pair.conv"),
    "nothing near": ("qqqqqqqq", r"no module fits 'qqqqqqqq'; print\(model\)"),
    "no such pattern": ("layer*.bn2", r"no module fits 'layer\*\.bn2'"),
    "name twice": (["pair.conv", "pair.conv"], r"'pair.conv' is chosen twice"),
    "name and pattern": (["pair.conv", "*conv"], r"'pair.conv' is chosen twice"),
    "no names": ([], r"where names no module; leave it out"),
    "function true for none": (lambda *_: False, r"where\(\) is true for no module"),
    "number": (3, r'where is "auto", a name or pattern.*not 3'),  # type: ignore[dict-item]
    "numbers": ([3], r"not \[3\]"),  # type: ignore[list-item]
    "not called": ("pair.unused", r"'pair.unused' is not called"),
    "two maps": ("pair", r"'pair' does not return a map"),
    "nothing computed": ("same", r"'same' does not return a map"),
    "no map": ("", r"the network itself does not return a map.*name a module"),
}


@pytest.mark.parametrize(("where", "message"), WRONG.values(), ids=WRONG)
def test_wrong_choices(where: Where, message: str) -> None:
    model = Takes()
    keys = list(model.state_dict())
    with pytest.raises(InputError, match=message):
        insert(model, where=where, groups=4)
    assert list(model.state_dict()) == keys
