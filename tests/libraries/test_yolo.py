"""A network of the YOLO kind, with attention at places found, named and chosen."""

from dataclasses import replace

import pytest
import torch

import sgekit
from sgekit.errors import InputError
from tests.libraries.checks import Case, check
from tests.libraries.yolo import Partial, Yolo

# The bottlenecks of the backbone alone have a shortcut.
FOUND = Case(
    Yolo,
    (2, 3, 64, 64),
    layers=6,
    first="backbone.stages.0.1.blocks.0.second.norm.attention",
    last="backbone.stages.3.1.blocks.0.second.norm.attention",
)
CASES = {
    "auto": FOUND,
    "patterns": replace(
        FOUND,
        where=["backbone.stages.*.leave.norm", "neck.*.leave.norm"],
        layers=8,
        first="backbone.stages.0.1.leave.norm.attention",
        last="neck.up_coarse.leave.norm.attention",
    ),
    "names": replace(
        FOUND,
        where=["backbone.pooling.leave.norm", "head.boxes.0.0.norm"],
        layers=2,
        first="backbone.pooling.leave.norm.attention",
        last="head.boxes.0.0.norm.attention",
    ),
    # Behind a whole block stands its activation: no weight can hold the factor.
    "blocks by class": replace(
        FOUND,
        where=lambda name, module: isinstance(module, Partial),
        layers=8,
        first="backbone.stages.0.1.attention",
        last="neck.up_coarse.attention",
        held=False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_places(name: str) -> None:
    check(CASES[name])


def test_attention_stands_before_the_activation() -> None:
    model = Yolo()
    sgekit.insert(model, "sge", where="neck.down_fine.leave.norm", groups="auto")
    unit = model.neck.down_fine.leave
    layer = unit.get_submodule("norm.attention")
    seen: dict[str, torch.Tensor] = {}
    # The activation works in place.
    layer.register_forward_hook(lambda _, args, out: seen.update(out=out.clone()))
    unit.register_forward_hook(lambda _, args, out: seen.update(unit=out))
    model.eval()(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(seen["unit"], torch.nn.functional.silu(seen["out"]))


def test_a_pattern_of_another_version_is_told() -> None:
    with pytest.raises(InputError, match=r"no module fits 'model\.\*\.cv2\.bn'"):
        sgekit.insert(Yolo(), "sge", where="model.*.cv2.bn", groups="auto")
