from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from sgekit.comparison.class_tables import class_tables
from sgekit.comparison.results import Results
from sgekit.comparison.statistics import paired_difference
from tests.comparison.conftest import build
from tests.comparison.detections import made_up

Classes = dict[str, float | None]


def results_of(ap: dict[str, list[Classes]]) -> Results:
    """Contenders' AP by class, one dict a seed; no masks."""
    results = build({name: [0.5] * len(seeds) for name, seeds in ap.items()})
    for contender in results["contenders"]:
        runs = cast(list[Any], contender["runs"])
        for run, per_class in zip(runs, ap[contender["attention"]], strict=True):
            run["scores"] = {"box": {"per_class": per_class}, "mask": None}
    return results


def test_the_largest_gain_first_and_what_is_unknown_last() -> None:
    none = [{"cup": 0.5, "fork": None, "plate": 0.4}, {"cup": 0.6, "fork": None, "plate": 0.5}]
    sge = [{"cup": 0.5, "fork": None, "plate": 0.5}, {"cup": 0.5, "fork": None, "plate": 0.63}]
    results = results_of({"none": none, "sge": [*sge, {"cup": 1.0, "fork": None, "plate": 1.0}]})
    (table,) = class_tables(results, {"cup": 12, "fork": 0, "plate": 3400})
    assert (table.attention, table.kind) == ("sge", "box")
    assert [row.name for row in table.rows] == ["plate", "cup", "fork"]
    plate, cup, fork = table.rows
    # The third seed has no pair.
    assert (plate.baseline, plate.value, plate.difference) == ("45.0", "56.5", "+11.5")
    found = paired_difference([0.5, 0.63], [0.4, 0.5])
    assert found.low is not None
    assert plate.interval.startswith(f"−{-100 * found.low:.1f} to ")
    assert plate.objects == "3,400"
    assert cup.difference == "−5.0"
    assert (fork.objects, fork.baseline, fork.difference, fork.interval) == ("0", "–", "–", "–")
    assert (table.excluding, table.told) == (0, 2)


def test_intervals_that_exclude_zero_are_counted() -> None:
    none: list[Classes] = [{"cup": 0.5, "plate": 0.5}, {"cup": 0.6, "plate": 0.5}]
    sge: list[Classes] = [{"cup": 0.600, "plate": 0.6}, {"cup": 0.701, "plate": 0.6}]
    (table,) = class_tables(results_of({"none": none, "sge": sge}), {})
    # Equal differences have no interval.
    assert (table.excluding, table.told) == (1, 1)
    assert {row.objects for row in table.rows} == {"–"}


def test_masks_have_a_table_of_their_own(tmp_path: Path) -> None:
    results = made_up(tmp_path, {"none": 0.6, "sge": 0.7}, seeds=(0, 1), masks=True).results
    box, mask = class_tables(results, {})
    assert (box.kind, mask.kind) == ("box", "mask")
    runs = cast(list[Any], results["contenders"][1]["runs"])
    per_class = [run["scores"]["mask"]["per_class"]["kind 2"] for run in runs]
    row = next(row for row in mask.rows if row.name == "kind 2")
    assert float(row.value) == pytest.approx(100 * np.mean(per_class), abs=0.051)


def test_nothing_is_compared() -> None:
    assert class_tables(build({"none": [0.5], "sge": [0.6]}), {}) == []
    alone = results_of({"none": [{"cup": 0.5}]})
    assert class_tables(alone, {}) == []
