"""What insertion into networks relies on: `placement`, `dims` and `neutralize`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sgekit.errors import InputError
from sgekit.modules import ATTENTION
from tests.modules.layers import maps, trained

CONSTANTS = {
    "none": 1.0, "se": 0.5, "cbam": 0.25, "bam": 1.5, "gc": 1.0, "ge": 0.5, "eca": 0.5,
    "srm": 0.5, "coord": 0.25, "triplet": 0.5, "ema": 0.5, "sge": 0.7310585786300049,
}  # fmt: skip
REFUSE = {"sk": "convolution", "simam": "no parameters", "sa": "shuffles"}
CHANNELS = 16


def options_of(name: str) -> dict[str, Any]:
    return {"groups": 4} if name == "sge" else {}


def ratio(layer: Any, x: Tensor) -> Tensor:
    """What each number of x was multiplied by, training mode and evaluation one after another."""
    with torch.no_grad():
        return torch.stack([layer.train(mode)(x) / x for mode in (True, False)])


def test_placement_and_dims() -> None:
    assert {*CONSTANTS, *REFUSE} == set(ATTENTION)
    places = {name: getattr(cls, "placement", "norm") for name, cls in ATTENTION.items()}
    assert {name for name, place in places.items() if place != "norm"} == {"sk", "bam"}
    assert (places["sk"], places["bam"]) == ("conv", "stage")
    any_dims = {"none": None, "sge": None}
    several = dict.fromkeys(("srm", "simam", "sa"), (1, 2, 3))
    for name, cls in ATTENTION.items():
        assert cls.dims == (any_dims | several).get(name, (2,)), name  # type: ignore[attr-defined]


@pytest.mark.parametrize("start", ["fresh", "trained"])
@pytest.mark.parametrize("name", CONSTANTS)
def test_multiplies_by_the_constant_it_returns(name: str, start: str) -> None:
    layer: Any = (
        ATTENTION[name](CHANNELS, **options_of(name))
        if start == "fresh"
        else trained(name, CHANNELS, torch.float32, **options_of(name))
    )
    constant = layer.neutralize()
    assert constant == pytest.approx(CONSTANTS[name])
    for seed, size in ((1, (7, 9)), (2, (3, 3))):
        got = ratio(layer, maps(3, CHANNELS, *size, dtype=torch.float32, seed=seed) * 5)
        torch.testing.assert_close(got, torch.full_like(got, constant))


@pytest.mark.parametrize("name", [name for name in CONSTANTS if name != "none"])
def test_training_leads_away(name: str) -> None:
    layer: Any = ATTENTION[name](CHANNELS, **options_of(name))
    layer.neutralize()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    x = maps(4, CHANNELS, 9, 9, dtype=torch.float32)
    for step in range(2):
        optimizer.zero_grad()
        (layer.train()(x) * maps(4, CHANNELS, 9, 9, dtype=torch.float32, seed=9 + step)).mean(
            (0, 2, 3)
        ).sum().backward()
        optimizer.step()
    after = ratio(layer, x)
    # Not other constants, one a channel: the input makes a difference, in both modes.
    spread = after.amax((1, 3, 4)) - after.amin((1, 3, 4))
    assert spread.amax(1).min() > 1e-5
    assert after.isfinite().all()


@pytest.mark.parametrize("name", REFUSE)
def test_those_that_cannot_say_why(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} .*{REFUSE[name]}.*preserve=False"):
        ATTENTION[name](CHANNELS).neutralize()  # type: ignore[operator]


def test_gather_excite_in_its_other_forms() -> None:
    for learned in (True, False):
        layer: Any = trained("ge", CHANNELS, torch.float32, learned=learned, mlp=True)
        assert layer.neutralize() == 0.5
        got = ratio(layer, maps(2, CHANNELS, 9, 9, dtype=torch.float32))
        torch.testing.assert_close(got, torch.full_like(got, 0.5))
    bare: Any = ATTENTION["ge"](CHANNELS, learned=False)
    with pytest.raises(InputError, match=r"no parameters.*preserve=False"):
        bare.neutralize()
