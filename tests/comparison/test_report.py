import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgekit.analysis import Example, GateMap
from sgekit.comparison.report import write_report
from sgekit.comparison.results import Results
from sgekit.comparison.summary import summarise
from sgekit.errors import InputError

MakeResults = Callable[..., Results]

TOP1 = {"none": [0.70, 0.74, 0.72], "sge": [0.71, 0.76, 0.73]}


def example(spread: float = 0.4) -> Example:
    gate = np.linspace(0.5, 0.5 + spread, 64, dtype=np.float32).reshape(8, 8)
    maps = GateMap(3, np.ones((8, 8), np.float32), gate, gate)
    return Example(Image.new("RGB", (16, 16)), "cat, seen as dog", "layer2.0.se", (maps,))


def test_everything_is_in_the_one_file(make_results: MakeResults, tmp_path: Path) -> None:
    command = "sgekit compare --attention none,sge --out 'a & b'"
    results = summarise(make_results(TOP1, command=command))
    path = write_report(results, [example()], tmp_path)
    page = path.read_text()
    assert path == tmp_path / "report.html"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "costs.png",
        "curves.png",
        "differences.png",
        "example-1.png",
        "report.html",
    ]
    for text in (
        results["contenders"][1]["conclusion"],
        "73.3 ± 2.5 %",
        "−0.1 to +2.8",
        "1,230,240",
        "1.10× (1.08–1.13)",
        "cat, seen as dog",
        "layer2.0.se",
        "resnet10_small",
        "quick",
        "a &amp; b",
        "sgekit 0.1.0",
    ):
        assert text in page, text
    assert "nearly constant" not in page
    assert page.index('id="conclusion"') < page.index("<table")
    sources = re.findall(r'(?:src|srcset|href)="([^"]{0,30})', page)
    assert len(sources) == 2 * 4 + 1
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|<script|url\(|@import", page)


def test_what_users_name_is_escaped(make_results: MakeResults, tmp_path: Path) -> None:
    results = make_results(TOP1, command="sgekit compare --data '<script>alert(1)</script>'")
    results["settings"]["data"]["name"] = "<b>x</b>"
    page = write_report(summarise(results), [], tmp_path).read_text()
    assert "<script" not in page
    assert "<b>" not in page


def test_interrupted_before_the_first_run(make_results: MakeResults, tmp_path: Path) -> None:
    results = summarise(make_results({"none": [], "sge": []}, priced=False, complete=False))
    page = write_report(results, [], tmp_path).read_text()
    assert "0 of 6 runs are done" in page
    assert "No run has finished an epoch yet" in page
    assert "<img" not in page
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_results_are_summarised_where_they_are_not(
    make_results: MakeResults, tmp_path: Path
) -> None:
    page = write_report(make_results(TOP1), [], tmp_path).read_text()
    assert "No difference between sge and plain can be seen with 3 seeds" in page


def test_gates_that_do_not_choose_are_told(make_results: MakeResults, tmp_path: Path) -> None:
    page = write_report(make_results(TOP1), [example(spread=0.0)], tmp_path).read_text()
    assert "nearly constant" in page


def test_a_folder_that_cannot_be_written(make_results: MakeResults, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        write_report(make_results(TOP1), [], tmp_path / "file" / "out")
