import copy
import math
from collections.abc import Callable

import pytest

from sgekit.comparison.results import Results, baseline_of
from sgekit.comparison.summary import summarise
from sgekit.errors import InputError

MakeResults = Callable[..., Results]


def test_pairs_by_seed_and_leaves_the_input_alone(make_results: MakeResults) -> None:
    results = make_results({"none": [0.70, 0.74, 0.72], "sge": [0.71, 0.76, 0.73]})
    results["contenders"][1]["runs"].reverse()
    before = copy.deepcopy(results)
    summary = summarise(results)
    assert results == before
    sge = summary["contenders"][1]
    assert sge["mean"] == pytest.approx(0.7333, abs=1e-4)
    assert sge["sd"] == pytest.approx(0.02517, abs=1e-5)
    found = sge["difference"]
    assert found is not None
    assert found["n"] == 3
    assert found["mean"] == pytest.approx(0.04 / 3)
    # The spread of the differences (0.01, 0.02, 0.01), not that of the accuracies.
    assert found["sd"] == pytest.approx(0.005774, abs=1e-6)
    assert found["p_holm"] == found["p"]
    assert summary["contenders"][0]["difference"] is None
    assert summary["conclusion"] == sge["conclusion"]


def test_summarising_twice_changes_nothing(make_results: MakeResults) -> None:
    once = summarise(make_results({"none": [0.7, 0.74, 0.72], "sge": [0.71, 0.76, 0.73]}))
    assert summarise(once) == once


def test_missing_runs_are_left_out_of_the_pairs(make_results: MakeResults) -> None:
    results = make_results(
        {"none": [0.70, 0.74, 0.72], "sge": [0.71, 0.76, 0.73]},
        complete=False,
        lost=[("none", 0), ("sge", 2)],
    )
    summary = summarise(results)
    found = summary["contenders"][1]["difference"]
    assert found is not None
    assert found["n"] == 1
    assert found["mean"] == pytest.approx(0.02)
    assert found["seeds_needed"]["seeds"] is None
    assert summary["conclusion"].startswith("Not finished: 4 of 6 runs are done.\nOne seed")


def test_nothing_has_run(make_results: MakeResults) -> None:
    summary = summarise(make_results({"none": [], "sge": []}, complete=False))
    assert [c["mean"] for c in summary["contenders"]] == [None, None]
    assert summary["contenders"][1]["difference"] is None
    assert "no seed has finished for both" in summary["conclusion"]


def test_a_run_without_accuracy_is_left_out_and_told(make_results: MakeResults) -> None:
    summary = summarise(make_results({"none": [0.7, 0.7, 0.72], "sge": [0.71, math.nan, None]}))
    sge = summary["contenders"][1]
    assert (sge["mean"], sge["sd"]) == (0.71, None)
    assert sge["conclusion"].endswith("2 of its runs ended without an accuracy and are left out.")


def test_holm_over_the_contenders(make_results: MakeResults) -> None:
    summary = summarise(
        make_results(
            {"none": [0.7, 0.7, 0.7], "se": [0.71, 0.72, 0.73], "sge": [0.71, 0.714, 0.711]}
        )
    )
    first, second = (c["difference"] for c in summary["contenders"][1:])
    assert first is not None
    assert second is not None
    assert second["p"] is not None
    assert second["p_holm"] == pytest.approx(2 * second["p"])
    assert first["p_holm"] == pytest.approx(first["p"])
    assert summary["conclusion"].splitlines() == [
        c["conclusion"] for c in summary["contenders"][1:]
    ]


@pytest.mark.parametrize("other", [[0.71, 0.71, 0.71], []])
def test_holm_counts_a_contender_without_a_p(make_results: MakeResults, other: list[float]) -> None:
    """One whose seeds all differ by the same has none, and one that has not run yet none yet."""
    top1 = {"none": [0.7, 0.7, 0.7], "se": other, "sge": [0.71, 0.714, 0.711]}
    summary = summarise(make_results(top1, complete=bool(other)))
    se, sge = (c["difference"] for c in summary["contenders"][1:])
    assert se is None or (se["p"], se["p_holm"]) == (None, None)
    assert sge is not None
    assert sge["p"] is not None
    assert sge["p_holm"] == pytest.approx(2 * sge["p"])


def test_more_contenders_need_more_seeds(make_results: MakeResults) -> None:
    top1 = {"none": [0.7, 0.7, 0.7], "sge": [0.71, 0.72, 0.715]}
    alone = summarise(make_results(top1))["contenders"][1]["difference"]
    both = summarise(make_results({**top1, "se": [0.7, 0.72, 0.69]}))["contenders"][1]["difference"]
    assert alone is not None
    assert both is not None
    few, more = alone["seeds_needed"]["seeds"], both["seeds_needed"]["seeds"]
    assert few is not None
    assert more is not None
    assert few < more
    low, high = alone["seeds_needed"]["low"], alone["seeds_needed"]["high"]
    assert low is not None
    assert high is not None
    assert low < few < high


def test_baseline_falls_back_to_none_and_then_to_the_first(make_results: MakeResults) -> None:
    results = make_results({"se": [0.7], "sge": [0.8]})
    assert summarise(results)["baseline"] == "se"
    results = make_results({"sge": [0.7], "none": [0.8]})
    results["baseline"] = "eca"
    assert baseline_of(results) == "none"
    results["contenders"] = []
    with pytest.raises(InputError, match="no contenders"):
        summarise(results)


def test_a_single_contender_compares_nothing(make_results: MakeResults) -> None:
    summary = summarise(make_results({"sge": [0.7]}))
    assert summary["conclusion"] == "There is one contender only: nothing is compared."
