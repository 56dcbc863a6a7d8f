from typing import Any

import pytest
import timm
import torch
from torch import nn

from sgekit.errors import InputError
from sgekit.models import attention_sites, build, describe
from sgekit.modules import ATTENTION, SpatialGroupEnhance


@pytest.mark.parametrize(
    "name",
    [
        "resnet10_small",
        pytest.param("skresnet18", marks=pytest.mark.slow),
        pytest.param("res2net50_26w_4s", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("attention", ["none", "se", "eca", "cbam", "sge"])
def test_attention_is_where_the_sites_say(name: str, attention: str) -> None:
    with torch.device("meta"):
        model = build(name, attention, groups=8)
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, ATTENTION[attention])
    ]
    sites = [] if attention == "none" else attention_sites(name)
    assert [path for path, _ in found] == [path for path, _ in sites]
    if attention == "sge":
        assert [module.channels for _, module in found] == [c for _, c in sites]
        assert all(module.groups == 8 for _, module in found)


def test_one_seed_gives_what_is_shared_the_same_weights() -> None:
    states = []
    for attention in (name for name in ATTENTION if name != "sk"):  # which takes weights away
        torch.manual_seed(3)
        states.append(build("resnet10_small", attention, num_classes=5).state_dict())
    plain = states[0]
    for state in states[1:]:
        assert len(state) >= len(plain)
        assert all(torch.equal(state[key], value) for key, value in plain.items())


def test_the_sge_name_means_the_plain_network_here() -> None:
    assert attention_sites("sge_resnet18") == attention_sites("resnet18")
    with torch.device("meta"):
        model = build("sge_resnet18", "eca")
    assert not any(isinstance(module, SpatialGroupEnhance) for module in model.modules())


def test_state_fits_the_zoo() -> None:
    ours = build("resnet10_small", "sge", num_classes=5)
    zoo = timm.create_model("sge_resnet10_small", num_classes=5)
    zoo.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(zoo.eval()(x), ours.eval()(x))


def test_options_reach_timm() -> None:
    model = build("resnet10_small", "sge", in_chans=1, num_classes=3, drop_path_rate=0.5)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 3)
    features = build("resnet10_small", "sge", features_only=True)
    assert [f.shape[1] for f in features(torch.randn(1, 3, 64, 64))] == [64, 32, 64, 128, 256]
    assert sum(isinstance(m, SpatialGroupEnhance) for m in features.modules()) == 4


def last_norms(model: nn.Module) -> list[float]:
    return [
        float(m.weight.detach().abs().max()) for n, m in model.named_modules() if n.endswith("bn2")
    ]


def test_what_a_recipe_asks_of_families_that_lack_it() -> None:
    assert 0 in last_norms(build("resnet10_small", num_classes=2))
    assert set(last_norms(build("resnet10_small", num_classes=2, zero_init_last=False))) == {1.0}
    for name in ("densenet121", "mobilenetv3_small_050"):  # nothing of theirs starts at zero
        with torch.device("meta"):
            model = build(name, "sge", num_classes=2, zero_init_last=False)
        assert any(isinstance(m, SpatialGroupEnhance) for m in model.modules())
    with pytest.raises(InputError, match="densenet121 has no paths to drop; set drop_path=0"):
        build("densenet121", drop_path_rate=0.1)
    with pytest.raises(TypeError, match="no_such_option"):
        build("densenet121", no_such_option=1)


def test_a_fresh_network_that_starts_as_the_plain_one() -> None:
    networks = []
    for attention in ("none", "sge(preserve=true)", "sge"):
        torch.manual_seed(1)
        networks.append(build("resnet10_small", attention, num_classes=3, zero_init_last=False))
    x = torch.randn(2, 3, 64, 64)
    plain, preserved, usual = (network(x) for network in networks)
    torch.testing.assert_close(preserved, plain, rtol=1e-4, atol=1e-5)
    assert (usual - plain).abs().max() > 0.05
    with torch.device("meta"):  # there are no weights to scale
        build("resnet10_small", "sge(preserve=true)")
    kept, paper = (
        describe("resnet10_small", "sge(preserve=true)"),
        describe("resnet10_small", "sge"),
    )
    assert (kept.parameters, kept.operations) == (paper.parameters, paper.operations)


def test_default_groups_of_other_resnets() -> None:
    with torch.device("meta"):
        layers = [
            m for m in build("resnet10t", "sge").modules() if isinstance(m, SpatialGroupEnhance)
        ]  # fmt: skip
    assert {(layer.channels, layer.groups) for layer in layers} == {
        (channels, 16) for channels in (64, 128, 256, 512)
    }


def test_auto_groups() -> None:
    with torch.device("meta"):
        model = build("resnet10_small", "sge", groups="auto")
    layers = [m for m in model.modules() if isinstance(m, SpatialGroupEnhance)]
    assert [layer.groups for layer in layers] == [8, 16, 32, 64]


def test_plain_pretrained_weights_load(monkeypatch: pytest.MonkeyPatch) -> None:
    network = timm.create_model("resnet18", num_classes=5, zero_init_last=False)
    weights = network.state_dict()
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model: nn.Module = create(name, **kwargs)
        if pretrained:
            model.load_state_dict(weights)
        return model

    monkeypatch.setattr(timm, "create_model", offline)
    x = torch.randn(2, 3, 64, 64)
    plain = build("resnet18", "none", num_classes=5, pretrained=True).eval()(x)
    for attention in ("sge", "se"):
        kept = build("resnet18", attention, num_classes=5, pretrained=True).eval()(x)
        torch.testing.assert_close(kept, plain, rtol=1e-5, atol=1e-5)
    for attention, preserve in (("sge", False), ("simam", None)):
        model = build("resnet18", attention, num_classes=5, pretrained=True, preserve=preserve)
        state = model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in weights.items())


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def unreachable(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise OSError("no route\nto host")
        model: nn.Module = create(name, **kwargs)
        return model

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(InputError, match=r"'resnet18' can't be fetched: no route$"):
        build("resnet18", "sge", pretrained=True)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"name": "resnet81"}, "'resnet81'.*resnet18"),
    "far model": ({"name": "qqqq"}, "sgekit models"),
    "tag": ({"name": "resnet18.nobody"}, "'nobody'.*a1_in1k"),
    "attention": ({"attention": "sgee"}, "'sgee'; did you mean 'sge'.*none, se, cbam"),
    "far attention": ({"attention": "qqqq"}, "'qqqq'; allowed: none, se"),
    "family": ({"name": "vit_tiny_patch16_224"}, "vit_tiny.*found no place.*VisionTransformer"),
    "own attention": ({"name": "seresnet50"}, "SEModule in layer1.0.se"),
    "own attention, none": ({"name": "seresnet50", "attention": "none"}, "SEModule"),
    "groups": ({"groups": 48}, "layer1.0.bn2.: 48 groups.* 64 channels.*16, 32, 64"),
    "groups type": ({"name": "resnet10_small", "groups": 64}, "layer1.0.bn2.: 64 groups.* 32"),
    "no weights": ({"name": "resnet10_small", "pretrained": True}, "no pretrained weights"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_named(changes: dict[str, Any], message: str) -> None:
    given = {"name": "resnet18", "attention": "sge"} | changes
    with pytest.raises(InputError, match=message):
        build(given.pop("name"), given.pop("attention"), **given)


def test_networks_without_a_place_build_plain() -> None:
    with pytest.raises(InputError, match="found no place"):
        attention_sites("vit_tiny_patch16_224")
    with torch.device("meta"):
        build("vit_tiny_patch16_224", "none", num_classes=3)


def test_other_families_get_groups_that_divide() -> None:
    with torch.device("meta"):
        model = build("mobilenetv3_small_050", "sge", num_classes=3)
    sites = attention_sites("mobilenetv3_small_050")
    assert sites[0] == ("blocks.1.1.bn3.attention", 16)
    for name, channels in sites:
        layer = model.get_submodule(name)
        assert isinstance(layer, SpatialGroupEnhance)
        assert channels % layer.groups == 0
    with pytest.raises(InputError, match=r"blocks.1.1.bn3.: 64 groups do not divide 16"):
        build("mobilenetv3_small_050", "sge", groups=64)


@pytest.mark.parametrize("attention", ["sk", "bam"])
def test_attention_with_another_place(attention: str) -> None:
    model = build("resnet10_small", attention, num_classes=3)
    layers = [n for n, m in model.named_modules() if isinstance(m, ATTENTION[attention])]
    expected = {
        "sk": [f"layer{n}.0.conv1" for n in (1, 2, 3, 4)],
        "bam": [f"layer{n}.attention" for n in (1, 2, 3)],
    }
    assert layers == expected[attention]
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
