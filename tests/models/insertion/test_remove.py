"""What `remove` gives back, and what can't be changed and why."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from sgekit.errors import InputError
from sgekit.models.insertion import insert, remove
from sgekit.modules import ATTENTION
from tests.models.insertion.nets import (
    CHANNELS,
    Parallel,
    Permuted,
    Residual,
    SelfAttention,
    basic,
    chain,
    conv,
    image,
    net,
    norm,
)

NAMES = ["blocks.0.branch.4.attention", "blocks.1.branch.4.attention"]


def state_of(model: nn.Module) -> list[Any]:
    """Everything that an error must not change."""
    return [
        {n: v.clone() for n, v in model.state_dict().items() if isinstance(v, Tensor)},
        [(type(module), set(vars(module))) for module in model.modules()],
    ]


def same(one: list[Any], other: list[Any]) -> bool:
    states, kinds = zip(one, other, strict=True)
    return (
        kinds[0] == kinds[1]
        and states[0].keys() == states[1].keys()
        and all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    )


def test_all() -> None:
    model = basic().eval()
    before, state = model(image()), state_of(model)
    assert insert(model, groups=4) == NAMES
    for name in NAMES:
        nn.init.normal_(model.get_submodule(name).weight)
    assert remove(model) == NAMES
    now = state_of(model)
    assert now[1] == state[1]
    for key, value in now[0].items():
        torch.testing.assert_close(value, state[0][key], rtol=1e-6, atol=0)
    torch.testing.assert_close(model(image()), before, rtol=1e-6, atol=1e-6)
    assert remove(model) == []


def test_some() -> None:
    model = basic().eval()
    before = model(image())
    insert(model, groups=4)
    assert remove(model, NAMES[1:]) == NAMES[1:]
    assert set(model.state_dict()) - set(basic().state_dict()) == {
        f"{NAMES[0]}.weight",
        f"{NAMES[0]}.bias",
    }
    torch.testing.assert_close(model(image()), before)
    assert insert(model, where="blocks.1.branch.4", groups=4) == NAMES[1:]
    assert remove(model, NAMES[0]) == NAMES[:1]
    assert remove(model, [NAMES[1], NAMES[1]]) == NAMES[1:]
    torch.testing.assert_close(model(image()), before)


def test_slots_of_timm() -> None:
    model: Any = timm.create_model("resnet10t", zero_init_last=False).eval()
    state = copy.deepcopy(model.state_dict())
    names = insert(model)
    assert names[0] == "layer1.0.se"
    again = copy.deepcopy(model)
    for network in (model, again):
        assert remove(network) == names
        assert network.layer1[0].se is None
        assert list(network.state_dict()) == list(state)
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, state[key], rtol=1e-6, atol=0)


def test_a_buffer_is_gone_exactly() -> None:
    model = net(Parallel(conv(CHANNELS, 4), conv(CHANNELS, 4))).eval()
    before, state = model(image()), state_of(model)
    insert(model, groups=4)
    remove(model)
    assert same(state_of(model), state)
    assert torch.equal(model(image()), before)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["stem"], rf"inserted as 'stem'; there are: {re.escape(NAMES[0])}, "),
        ("stem", r"inserted as 'stem'"),
        ([NAMES[0], "qqq"], r"inserted as 'qqq'"),
    ],
)
def test_wrong_names(names: str | list[str], message: str) -> None:
    model = basic()
    insert(model, groups=4)
    state = state_of(model)
    with pytest.raises(InputError, match=message):
        remove(model, names)
    assert same(state_of(model), state)
    with pytest.raises(InputError, match=r"inserted as 'stem'; there are: none"):
        remove(basic(), ["stem"])


def test_what_took_a_convolutions_place_stays() -> None:
    model = timm.create_model("resnet10t")
    names = insert(model, "sk", preserve=False)
    for chosen in (None, names):
        with pytest.raises(InputError, match=rf"{names[0]}'? took the place of a convolution"):
            remove(model, chosen)


def scripted() -> Any:
    return torch.jit.script(basic())


def partly_scripted() -> Any:
    return net(torch.jit.script(chain(norm())), Residual(chain(norm())))


def compiled_in_place() -> Any:
    model = basic()
    model.blocks.compile()
    return model


def quantised() -> Any:
    model = basic()
    model.head.append(nn.Linear(CHANNELS, 2))
    quantised: nn.Module = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})  # type: ignore[no-untyped-call]
    return quantised


def carrying() -> Any:
    model = basic()
    insert(model, where="blocks.1.branch.4", groups=4)
    return model


def with_its_own() -> Any:
    model = basic()
    model.blocks[1].branch[4].attention = "own"
    return model


def slot_taken() -> Any:
    model: nn.Module = timm.create_model("resnet10t")
    insert(model)
    return model


def activation_behind(insertions: int) -> Any:
    model = net(Residual(chain(BatchNormAct2d(CHANNELS))))
    for _ in range(insertions):
        insert(model, groups=4)
    return model


NETWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "no module": (lambda: {}, r"must be a torch.nn.Module, not dict"),
    "scripted": (scripted, r"network itself is scripted or frozen.*before scripting"),
    "frozen": (lambda: torch.jit.freeze(scripted().eval()), r"scripted or frozen"),
    "partly scripted": (partly_scripted, r"'blocks.0' is scripted"),
    "compiled": (lambda: torch.compile(basic()), r"network itself is compiled.*before torch.comp"),
    "compiled in place": (compiled_in_place, r"'blocks' is compiled"),
    "DataParallel": (lambda: nn.DataParallel(basic()), r"wrapped in DataParallel.*before"),
    "partly wrapped": (lambda: net(nn.DataParallel(conv())), r"'blocks.0' is wrapped"),
    "lazy": (lambda: net(nn.LazyConv2d(8, 3)), r"'blocks.0' is lazy.*run a batch first"),
    "lazy buffers": (lambda: net(nn.LazyBatchNorm2d(affine=False)), r"'blocks.0' is lazy"),
    "quantised": (quantised, r"'head.2' is quantised \(Linear\).*quantise after"),
    "twice": (carrying, r"'blocks.1.branch.4' carries attention already; `remove`"),
    "twice in a slot": (slot_taken, r"'layer1.0.bn2' is followed by inserted attention already"),
    "twice before an activation": (lambda: activation_behind(1), r"4.drop' carries attention al"),
    "own attribute": (with_its_own, r"\(BatchNorm2d\) has an attribute named 'attention' of its"),
    "nothing found": (
        lambda: net(Residual(Permuted(SelfAttention()))),
        r"found no place .* in Sequential: its blocks work on tokens.*sgekit.insert: where=",
    ),
    "no convolution": (lambda: nn.Linear(3, 3), r"Linear has no convolution.*example_inputs"),
}


@pytest.mark.parametrize(("make", "message"), NETWORKS.values(), ids=NETWORKS)
def test_networks_that_can_not_be_changed(make: Callable[[], Any], message: str) -> None:
    model = make()
    ordinary = isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule)
    lazy = ordinary and any(map(nn.parameter.is_lazy, (*model.parameters(), *model.buffers())))
    state = state_of(model) if ordinary and not lazy else None
    small = None
    if "nothing" in message or "no place" in message:
        small = torch.zeros(1, 3, 6, 6)
    with pytest.raises(InputError, match=message):
        insert(model, groups=4, example_inputs=small)
    if state is not None:
        assert same(state_of(model), state)


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "attention": ({"attention": "sgee"}, r"'sgee'; did you mean 'sge'"),
    "attention's type": ({"attention": 3}, r"attention is a name or what makes a layer.*not 3"),
    "a layer": ({"attention": nn.Identity()}, r"what makes a layer.*not Identity\(\)"),
    "makes no module": ({"attention": lambda c, **kw: c, "preserve": False}, r"made no module.*8"),
    "groups": ({"groups": 3}, r"behind 'blocks.0.branch.4': 3 groups do not divide 8"),
    "option": ({"attention": "sge(group=3)"}, r"'group'; did you mean 'groups'"),
    "preserve": ({"attention": "simam"}, r"simam|parameters"),
    "convolution": ({"attention": "sk"}, r"sk takes the place of a convolution.*preserve=False"),
    "no 3x3": (
        {"attention": "sk", "preserve": False, "where": "stem.1"},
        r"no module fits 'stem.1'",
    ),
    "no convolution": (
        {"attention": "sk", "preserve": False, "where": "head.0"},
        r"'head.0' is no 3x3 convolution.*AdaptiveAvgPool2d",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    model = basic()
    state = state_of(model)
    with pytest.raises(InputError, match=message):
        insert(model, **arguments)
    assert same(state_of(model), state)


def test_groups_that_fit_the_first_place_only() -> None:
    class Wider(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Residual(chain(norm()))
            self.second = Residual(chain(outputs=12), conv(8, 12))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))  # type: ignore[no-any-return]

    model = nn.Sequential(conv(3), Wider())
    state = state_of(model)
    with pytest.raises(InputError, match=r"behind '1.second.branch.3': 8 groups"):
        insert(model, groups=8)
    assert same(state_of(model), state)


def test_dimensions_that_the_attention_does_not_take() -> None:
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8))
    for attention in ("cbam", ATTENTION["cbam"]):
        with pytest.raises(InputError, match=r"cbam works on maps with 2 .*gives 1; sge takes"):
            insert(model, attention)
    assert insert(model, ATTENTION["sge"], groups="auto") == ["1.attention"]


class Wrapped(nn.Module):
    """A network inside another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


@pytest.mark.parametrize("outside", [True, False])
def test_inserted_and_removed_from_different_roots(outside: bool) -> None:
    inner = timm.create_model("resnet10t", num_classes=2).eval()
    x = torch.randn(1, 3, 32, 32)
    before, outer = inner(x), Wrapped(inner)
    names = insert(outer if outside else inner, groups="auto")
    assert len(remove(inner if outside else outer)) == len(names)
    torch.testing.assert_close(inner(x), before)


@pytest.mark.parametrize(
    "change",
    [
        lambda norm: prune.identity(norm, "weight"),  # type: ignore[no-untyped-call]
        lambda norm: parametrize.register_parametrization(norm, "weight", nn.Identity()),
    ],
    ids=["pruned", "parametrised"],
)
def test_weights_computed_since_the_insertion_are_told(change: Callable[[Any], Any]) -> None:
    model = basic().eval()
    names = insert(model, groups=4)
    change(model.blocks[0].branch[4])
    before = model(image())
    with pytest.raises(InputError, match=r"'blocks.0.branch.4' has been parametrised or pruned"):
        remove(model)
    assert {name for name, _ in model.named_modules()} >= set(names)
    torch.testing.assert_close(model(image()), before)
