"""docs/insertion.md says of real networks what benchmarks/insertion.py found, and still finds."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.insertion import NETWORKS, PAGE, RESULTS, check, holds, table
from sgekit.errors import InputError
from sgekit.models.insertion import insert

ROOT = Path(__file__).parents[3]
ROWS: dict[str, dict[str, Any]] = {
    row["network"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
}
# One of every rule, with weights and with buffers, channels last, between norm and activation.
FAST = (
    "resnet18", "torchvision:shufflenet_v2_x0_5", "convnext_atto", "mobilenetv3_small_050",
    "cs3darknet_s", "ghostnet_050", "torchvision:squeezenet1_1", "vit_tiny_patch16_224",
)  # fmt: skip
SLOW = [name for names in NETWORKS.values() for name in names if name not in FAST]
REFUSED = set(NETWORKS["transformers, mixers"])


def test_the_page_shows_the_results() -> None:
    assert table(list(ROWS.values())) in PAGE.read_text(encoding="utf-8")


def test_every_network_has_its_row_and_holds() -> None:
    assert list(ROWS) == [name for names in NETWORKS.values() for name in names]
    assert len(ROWS) - len(REFUSED) >= 45
    assert {name for name, row in ROWS.items() if row["refused"] is not None} == REFUSED
    for name, row in ROWS.items():
        assert holds(row) == [], name
        assert name in REFUSED or row["compiled"] is not None, name


def test_a_wrong_row_is_told() -> None:
    row = ROWS["resnet18"]
    wrong = {
        "preserved": 2e-5, "gradients": False, "changed": 0.0, "state_dict": 1e-3,
        "compiled": 1e-2, "names_restored": False, "removed": 1e-3,
    }  # fmt: skip
    for key, value in wrong.items():
        assert holds(row | {key: value}) == [f"{key}={value}"]
        assert holds(row | {key: value, "float64": 2e-5}) == [f"{key}={value}"]
    for key in ("preserved", "removed"):
        assert holds(row | {key: 2e-5, "float64": 1e-14}) == []
        assert holds(row | {key: 2e-4, "float64": 1e-14}) == [f"{key}=0.0002"]


def again(name: str) -> None:
    row, told = check(name, compiled=False), ROWS[name]
    assert holds(row) == []
    fixed = (
        "refused", "rule", "layers", "first", "last", "channels", "in_weights", "in_buffers",
    )  # fmt: skip
    assert {key: row.get(key) for key in fixed} == {key: told.get(key) for key in fixed}


@pytest.mark.parametrize("name", FAST)
def test_networks(name: str) -> None:
    again(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_all_networks(name: str) -> None:
    again(name)


def test_refusals_are_raised() -> None:
    from benchmarks.insertion import build

    model = build("vit_tiny_patch16_224", seed=0)
    with pytest.raises(InputError, match="in VisionTransformer: its blocks work on tokens"):
        insert(model)
