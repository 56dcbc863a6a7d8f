"""Where `insert` puts attention: one small network for each rule and each way around it."""

from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.norm import LayerNorm2d, RmsNorm, RmsNorm2d
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.squeeze_excite import SqueezeExcite
from torch import nn

from sgekit.models.insertion import Place, find_places, insert
from sgekit.models.insertion.trace import trace
from tests.models.insertion.nets import (
    CHANNELS,
    Dense,
    Gate,
    Parallel,
    Permuted,
    Residual,
    Scale,
    SelfAttention,
    Shuffle,
    Split,
    Surroundings,
    UNet,
    chain,
    conv,
    image,
    net,
    norm,
)

BN = nn.BatchNorm2d
C = CHANNELS


def names(model: nn.Module, rule: str) -> list[str]:
    places = find_places(model, trace(model))
    assert {place.rule for place in places} == ({rule} if places else set())
    assert all((place.spatial, place.channels) == (2, C) for place in places)
    return [place.name for place in places]


# What the branch of a residual block is, and the module in it that attention stands behind.
BRANCHES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "norm last": (lambda: chain(BN(C)), "4"),
    "pre-activation": (lambda: nn.Sequential(BN(C), nn.ReLU(), conv(), BN(C), conv()), "4"),
    "convolution last": (lambda: chain(), "3"),
    "group norm": (lambda: chain(nn.GroupNorm(2, C)), "4"),
    "instance norm": (lambda: chain(nn.InstanceNorm2d(C)), "4"),
    "layer norm 2d": (lambda: chain(LayerNorm2d(C)), "4"),
    "own norm": (lambda: chain(RmsNorm2d(C)), "4"),
    "activation behind": (lambda: chain(BN(C), nn.SiLU(inplace=True)), "4"),
    "leaky activation behind": (lambda: chain(BN(C), nn.LeakyReLU(0.1)), "4"),
    "layer scale": (lambda: chain(BN(C), Scale(C, 1, 1)), "4"),
    "drop path": (lambda: chain(BN(C), DropPath(0.5)), "4"),
    "dropout": (lambda: chain(BN(C), nn.Dropout2d(0.5)), "4"),
    "gate behind": (lambda: chain(BN(C), SqueezeExcite(C)), "4"),
    "gate of full size behind": (lambda: chain(BN(C), Gate()), "4"),
    "gate from smaller maps": (lambda: chain(BN(C), Surroundings(), conv(), BN(C)), "7"),
    "gate from smaller maps behind": (lambda: chain(BN(C), Surroundings()), "4"),
    "gate before": (lambda: chain(SqueezeExcite(C), nn.Conv2d(C, C, 1), BN(C)), "6"),
    "all behind": (lambda: chain(BN(C), SqueezeExcite(C), Scale(C, 1, 1), DropPath(0.5)), "4"),
    "norm with activation": (lambda: chain(BatchNormAct2d(C)), "4.drop"),
    "norm without its activation": (lambda: chain(BatchNormAct2d(C, apply_act=False)), "4"),
    "slices": (lambda: nn.Sequential(conv(), Split(), conv(), BN(C)), "3"),
    "concatenation last": (lambda: Parallel(conv(C, 2), conv(C, 6)), ""),
    "channels last": (lambda: Permuted(nn.LayerNorm(C), nn.Linear(C, C)), "inner.1"),
    "channels last, scaled": (lambda: Permuted(nn.Linear(C, C), Scale(C)), "inner.0"),
    "channels last, norm": (lambda: Permuted(nn.Linear(C, C), nn.LayerNorm(C)), "inner.1"),
    "channels last, RMS": (lambda: Permuted(nn.Linear(C, C), nn.RMSNorm(C)), "inner.1"),
}


@pytest.mark.parametrize(("branch", "end"), BRANCHES.values(), ids=BRANCHES)
def test_the_end_of_a_residual_branch(branch: Callable[[], nn.Module], end: str) -> None:
    model = net(Residual(branch()), Residual(branch()))
    expected = [f"blocks.{i}.branch{'.' * bool(end)}{end}" for i in range(2)]
    assert names(model, "residual") == expected
    layers = insert(model, groups=4)
    assert layers == [f"{name}.attention" for name in expected]
    assert model.eval()(image()).isfinite().all()


@pytest.mark.parametrize("kind", [key for key in BRANCHES if key.startswith("channels last")])
def test_channels_last_is_seen(kind: str) -> None:
    model = net(Residual(BRANCHES[kind][0]()))
    # As many channels as rows, so that shapes alone don't tell.
    for rows in (5, C):
        place = find_places(model, trace(model, torch.zeros(1, 3, rows, 6)))[0]
        assert (place.channel_dim, place.channels) == (-1, C)
    first = net(Residual(chain(LayerNorm2d(C))))
    assert find_places(first, trace(first))[0].channel_dim == 1


def test_the_weight_of_an_own_norm_tells() -> None:
    model = net(Residual(Permuted(nn.Linear(C, C), RmsNorm(C))))
    place = find_places(model, trace(model))[0]
    assert (place.name, place.channel_dim) == ("blocks.0.branch.inner.1", -1)
    assert place.channels == C


def test_layer_norm_of_whole_maps_has_channels_first() -> None:
    model = net(Residual(chain(nn.LayerNorm((C, 6, 6)))))
    place = find_places(model, trace(model, torch.zeros(1, 3, 6, 6)))[0]
    assert (place.name, place.channel_dim, place.channels) == ("blocks.0.branch.4", 1, C)


SHORTCUTS: dict[str, Callable[[], nn.Module]] = {
    "projection": lambda: nn.Conv2d(C, C, 1, 2),
    "projection with a norm": lambda: nn.Sequential(nn.Conv2d(C, C, 1, 2), BN(C)),
    "pooled projection": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(C, C, 1), BN(C)),
    "pooled": lambda: nn.AvgPool2d(2),
}


@pytest.mark.parametrize("shortcut", SHORTCUTS.values(), ids=SHORTCUTS)
def test_shortcuts_stay_as_they_are(shortcut: Callable[[], nn.Module]) -> None:
    model = net(Residual(chain(BN(C), stride=2), shortcut()), Residual(chain(BN(C))))
    assert names(model, "residual") == ["blocks.0.branch.4", "blocks.1.branch.4"]


def test_the_deeper_summand_is_the_branch() -> None:
    class Swapped(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shortcut(x) + self.branch(x)  # type: ignore[no-any-return]

    model = net(Swapped(chain(BN(C)), nn.Conv2d(C, C, 1)))
    assert names(model, "residual") == ["blocks.0.branch.4"]


def test_a_block_with_norm_in_its_name_is_none() -> None:
    class ConvNormScale(nn.Sequential):
        """A convolution, a norm and a layer scale."""

    model = net(Residual(ConvNormScale(conv(), BN(C), Scale(C, 1, 1))))
    assert names(model, "residual") == ["blocks.0.branch.1"]


def test_dense_blocks() -> None:
    first = nn.Sequential(BN(C), nn.ReLU(), conv())
    second = nn.Sequential(BN(2 * C), nn.ReLU(), conv(2 * C, C))
    assert names(net(Dense(first), Dense(second)), "dense") == [
        "blocks.0.branch.2",
        "blocks.1.branch.2",
    ]


def test_shuffled_halves() -> None:
    halves = nn.Sequential(conv(C, C), BN(C), nn.ReLU(True))
    down = Parallel(conv(2 * C, C, 2), conv(2 * C, C, 2))
    model = net(down, Shuffle(halves), stem=conv(3, 2 * C))
    assert names(model, "dense") == ["blocks.1.branch.1"]


def test_parallel_branches() -> None:
    inception = Parallel(nn.Conv2d(C, 2, 1), nn.Sequential(conv(), nn.ReLU(), conv(C, 6)))
    assert names(net(inception), "parallel") == ["blocks.0"]
    repvgg = Parallel(
        nn.Sequential(conv(), BN(C)), nn.Sequential(nn.Conv2d(C, C, 1), BN(C)), add=True
    )
    assert names(net(repvgg, conv()), "parallel") == ["blocks.0"]


def test_two_deep_branches_have_no_shortcut() -> None:
    two, three = nn.Sequential(conv(), conv()), nn.Sequential(conv(), conv(), conv())
    assert names(net(Parallel(two, three, add=True)), "parallel") == ["blocks.0"]


def test_a_concatenation_of_one_branch_is_none() -> None:
    assert names(net(Parallel(nn.Identity(), nn.MaxPool2d(3, 1, 1))), "plain") == ["stem"]


def test_chains_end_at_every_size() -> None:
    def stage(*inner: nn.Module) -> nn.Sequential:
        return nn.Sequential(conv(), *inner, nn.MaxPool2d(2))

    with_norms = net(stage(BN(C), nn.ReLU(), conv(), BN(C)), stage(BN(C), nn.ReLU()), conv())
    assert names(with_norms, "plain") == ["blocks.0.4", "blocks.1.1", "blocks.2"]
    without = net(stage(nn.ReLU(), conv()), stage(nn.ReLU()))
    assert names(without, "plain") == ["blocks.0.2", "blocks.1.0"]


def test_the_classifier_is_no_place() -> None:
    model = net(conv())
    model.head.append(nn.Linear(C, 3))
    assert names(model, "plain") == ["blocks.0"]
    pooled = nn.Sequential(conv(3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1))
    assert names(pooled, "plain") == ["0"]


def test_a_u_net_is_no_dense_block() -> None:
    assert names(UNet(), "plain") == ["down", "last"]


def test_attention_over_tokens_is_passed_by() -> None:
    hybrid = net(Residual(Permuted(SelfAttention())), Residual(chain(BN(C))))
    small = torch.zeros(1, 3, 6, 6)
    found = [place.name for place in find_places(hybrid, trace(hybrid, small))]
    assert found == ["blocks.1.branch.4"]
    alone = net(Residual(Permuted(SelfAttention())))
    assert find_places(alone, trace(alone, small)) == []


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224"])
def test_networks_of_tokens_have_no_place(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert find_places(model, trace(model)) == []


@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions(dims: int) -> None:
    convolution = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    norms = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[dims]
    branch = nn.Sequential(convolution(C, C, 3, padding=1), norms(C))
    model = nn.Sequential(convolution(3, C, 3, 2), Residual(branch))
    place = Place("1.branch.1", C, dims, 1, "residual")
    assert find_places(model, trace(model)) == [place]
    insert(model, groups=2)
    x = torch.randn(2, 3, *(9,) * dims)
    assert model(x).shape == (2, C, *(4,) * dims)


def test_a_block_used_twice_is_one_place() -> None:
    block = Residual(chain(BN(C)))
    assert names(net(block, block), "residual") == ["blocks.0.branch.4"]


def test_stages() -> None:
    stages = [
        nn.Sequential(Residual(chain(BN(C))), Residual(chain(BN(C)))),
        nn.Sequential(Residual(chain(BN(C), stride=2), nn.AvgPool2d(2))),
        nn.Sequential(Residual(chain(BN(C), stride=2), nn.AvgPool2d(2))),
    ]
    model = net(*stages)
    found = find_places(model, trace(model), "stage")
    assert [(place.name, place.rule) for place in found] == [
        ("blocks.0", "stage"),
        ("blocks.1", "stage"),
    ]
    plain = net(nn.MaxPool2d(2), conv(), nn.MaxPool2d(2), conv())
    assert [p.name for p in find_places(plain, trace(plain), "stage")] == ["stem", "blocks.1"]


def test_a_trained_part_of_a_branch_counts_as_one_network() -> None:
    model = net(Residual(nn.Sequential(Residual(chain(norm())), conv())))
    found = [place.name for place in find_places(model, trace(model))]
    assert found == ["blocks.0.branch.0.branch.4", "blocks.0.branch.1"]
