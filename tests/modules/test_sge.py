import copy
import inspect
import pickle
from typing import Any, Literal

import pytest
import torch

from sgekit.errors import InputError
from sgekit.models import count_operations
from sgekit.modules import SpatialGroupEnhance, resolve_groups
from sgekit.ops import spatial_group_enhance


def test_starts_without_attention() -> None:
    layer = SpatialGroupEnhance(128)
    assert torch.equal(layer.weight, torch.zeros(64))
    assert torch.equal(layer.bias, torch.ones(64))
    x = torch.randn(2, 128, 5, 5)
    torch.testing.assert_close(layer(x), x * torch.sigmoid(torch.tensor(1.0)))


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_is_the_operation(channel_dim: int) -> None:
    layer = SpatialGroupEnhance(8, groups=4, eps=1e-3, channel_dim=channel_dim)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn((2, 8, 5, 3) if channel_dim == 1 else (2, 5, 3, 8))
    expected = spatial_group_enhance(x, layer.weight, layer.bias, 1e-3, channel_dim)
    assert torch.equal(layer(x), expected)
    gate = layer.gate(x)
    assert gate.shape == (2, 4, 5, 3)
    first = x if channel_dim == 1 else x.movedim(-1, 1)
    product = first * gate.repeat_interleave(2, 1)
    torch.testing.assert_close(product if channel_dim == 1 else product.movedim(1, -1), expected)


@pytest.mark.parametrize(
    ("channels", "groups", "resolved"),
    [
        (256, 64, 64),
        (256, "auto", 64),
        (512, "auto", 64),
        (64, "auto", 16),
        (32, "auto", 8),
        (96, "auto", 24),
        (240, "auto", 60),
        (127, "auto", 1),
        (130, "auto", 26),
        (260, "auto", 65),
        (72, "auto", 18),
        (2, "auto", 1),
        (1, "auto", 1),
    ],
)
def test_groups(channels: int, groups: int | Literal["auto"], resolved: int) -> None:
    assert SpatialGroupEnhance(channels, groups=groups).groups == resolved


def test_auto_takes_the_smaller_of_two_equally_near() -> None:
    # The divisors of 61 * 67 next to 64 are 61 and 67.
    assert resolve_groups(61 * 67, "auto") == 61


@pytest.mark.parametrize(("channels", "groups"), [(64, 48), (32, 64), (8, 0), (8, -2)])
def test_groups_that_do_not_divide_are_refused_with_those_that_do(
    channels: int, groups: int
) -> None:
    with pytest.raises(InputError, match=rf"{groups} groups .* {channels} channels.*8") as caught:
        SpatialGroupEnhance(channels, groups=groups)
    assert "auto" in str(caught.value)


@pytest.mark.parametrize("groups", [4.0, "many", True, None])
def test_groups_of_another_type_are_refused(groups: object) -> None:
    with pytest.raises(TypeError, match="groups"):
        SpatialGroupEnhance(8, groups=groups)  # type: ignore[arg-type]


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="group"):
        SpatialGroupEnhance(8, group=4)  # type: ignore[call-arg]


def test_loads_state_as_the_released_models_have_it() -> None:
    released = {"weight": torch.randn(1, 4, 1, 1), "bias": torch.randn(1, 4, 1, 1)}
    shapes = {name: tensor.shape for name, tensor in released.items()}
    layer = SpatialGroupEnhance(8, groups=4)
    model = torch.nn.Sequential(layer)
    model.load_state_dict({f"0.{name}": tensor for name, tensor in released.items()})
    assert torch.equal(layer.weight, released["weight"].flatten())
    assert torch.equal(layer.bias, released["bias"].flatten())
    assert {name: tensor.shape for name, tensor in released.items()} == shapes


def test_state_of_another_number_of_groups_is_refused() -> None:
    layer = SpatialGroupEnhance(8, groups=4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict({"weight": torch.ones(1, 8, 1, 1), "bias": torch.ones(1, 8, 1, 1)})


def test_state_round_trip_copy_and_pickle() -> None:
    layer = SpatialGroupEnhance(8, groups=4)
    torch.nn.init.normal_(layer.weight)
    other = SpatialGroupEnhance(8, groups=4)
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same.weight, layer.weight)


def test_device_dtype_and_repr() -> None:
    layer = SpatialGroupEnhance(8, groups="auto", device="meta", dtype=torch.bfloat16)
    assert layer.weight.device.type == "meta"
    assert layer.bias.dtype == torch.bfloat16
    assert repr(layer) == "SpatialGroupEnhance(8, groups=2, eps=1e-05)"
    last = SpatialGroupEnhance(8, groups=2, channel_dim=-1)
    assert repr(last) == "SpatialGroupEnhance(8, groups=2, eps=1e-05, channel_dim=-1)"


def test_options_for_ablations_come_by_name_alone() -> None:
    parameters = inspect.signature(SpatialGroupEnhance).parameters.values()
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert named == ["group_channels", "weight_init", "bias_init", "normalize", "unbiased"]


@pytest.mark.parametrize("groups", [64, "auto", 16])
def test_group_channels(groups: int | Literal["auto"]) -> None:
    assert SpatialGroupEnhance(128, groups=groups, group_channels=8).groups == 16


@pytest.mark.parametrize(
    ("group_channels", "groups", "message"),
    [
        (8, 32, "groups 32 contradicts group_channels 8, which makes 16 groups of 128 channels"),
        (7, 64, r"128 channels .* groups of 7; group_channels may be 1, 2, 4, 8, 16, 32"),
        (256, 64, "128 channels .* groups of 256; .*128"),
        (0, 64, "128 channels .* groups of 0; .*1, 2"),
    ],
)
def test_group_channels_that_do_not_fit_are_refused(
    group_channels: int, groups: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SpatialGroupEnhance(128, groups=groups, group_channels=group_channels)


def test_options_of_another_type_or_size_are_refused() -> None:
    with pytest.raises(TypeError, match="group_channels"):
        SpatialGroupEnhance(8, group_channels=2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="normalize must be True or False, not 'no'"):
        SpatialGroupEnhance(8, groups=4, normalize="no")  # type: ignore[arg-type]
    for eps in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="eps must be a number above 0"):
            SpatialGroupEnhance(8, groups=4, eps=eps)
    with pytest.raises(InputError, match="bias_init must be a finite number, not nan"):
        SpatialGroupEnhance(8, groups=4, bias_init=float("nan"))


@pytest.mark.parametrize("options", [{"normalize": False}, {"unbiased": False}], ids=str)
def test_ablations_are_those_of_the_operation(options: dict[str, Any]) -> None:
    layer = SpatialGroupEnhance(8, groups=4, weight_init=0.5, bias_init=-0.25, **options)
    assert torch.equal(layer.weight, torch.full((4,), 0.5))
    assert torch.equal(layer.bias, torch.full((4,), -0.25))
    x = torch.randn(2, 8, 3, 2)
    y = layer(x)
    assert torch.equal(y, spatial_group_enhance(x, layer.weight, layer.bias, **options))
    assert not torch.allclose(y, spatial_group_enhance(x, layer.weight, layer.bias))
    torch.testing.assert_close(x * layer.gate(x).repeat_interleave(2, 1), y)


def test_repr_shows_what_is_unusual() -> None:
    layer = SpatialGroupEnhance(8, groups=4, weight_init=1.0, bias_init=0.0, normalize=False)
    told = "8, groups=4, eps=1e-05, weight_init=1.0, bias_init=0.0, normalize=False"
    assert repr(layer) == f"SpatialGroupEnhance({told})"


def test_neutralize_leaves_a_fresh_layer_alone() -> None:
    layer = SpatialGroupEnhance(8, groups=4)
    assert layer.neutralize() == pytest.approx(0.7310585786)
    torch.nn.init.constant_(layer.bias, 2.0)  # the same constant everywhere is one too
    assert layer.neutralize() == pytest.approx(0.8807970780)
    assert torch.equal(layer.bias, torch.full((4,), 2.0))


@pytest.mark.parametrize("normalize", [True, False])
def test_neutralize_makes_the_gate_a_constant_that_training_leaves(normalize: bool) -> None:
    torch.manual_seed(0)
    layer = SpatialGroupEnhance(8, groups=4, weight_init=1.0, bias_init=0.5, normalize=normalize)
    torch.nn.init.normal_(layer.bias)
    constant = layer.neutralize()
    assert constant == pytest.approx(0.6224593312)
    x = torch.randn(3, 8, 4, 5)
    torch.testing.assert_close(layer(x), x * constant)
    (layer(x) * torch.randn_like(x)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    gate = layer.gate(x)
    assert (gate.amax((0, 2, 3)) - gate.amin((0, 2, 3)) > 1e-3).all()


def test_neutralize_without_memory() -> None:
    layer = SpatialGroupEnhance(8, groups=4, bias_init=0.5, device="meta")
    assert layer.neutralize() == pytest.approx(0.6224593312)


def test_operations_of_the_ablations_are_counted() -> None:
    def counted(**options: Any) -> int:
        layer = SpatialGroupEnhance(8, groups=4, **options)
        count = count_operations(layer, (2, 8, 3, 5))
        assert count.uncounted == ()
        assert count.multiply_adds == 0
        assert count.other == count.attention
        return count.other

    samples, channels, groups, n = 2, 8, 4, 15
    usual = samples * (5 * channels * n + 8 * groups * n + channels + 4 * groups)
    assert counted() == usual
    assert counted(unbiased=False) == usual + groups  # the weights, scaled
    plain = samples * (4 * channels * n + 3 * groups * n + channels)
    assert counted(normalize=False) == plain
