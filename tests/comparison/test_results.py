import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from sgekit.comparison.results import Results, accuracies, read_json, write_json
from sgekit.errors import InputError

MakeResults = Callable[..., Results]


def test_round_trip(make_results: MakeResults, tmp_path: Path) -> None:
    results = make_results({"none": [0.7, 0.72], "sge": [0.71, 0.73]})
    path = write_json(results, tmp_path / "new" / "results.json")
    assert read_json(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_what_is_not_finite_becomes_null(make_results: MakeResults, tmp_path: Path) -> None:
    results = make_results({"none": [math.nan]})
    results["settings"]["recipe"]["betas"] = (0.9, math.inf)
    path = write_json(results, tmp_path / "results.json")
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["contenders"][0]["runs"][0]["top1"] is None
    assert content["settings"]["recipe"]["betas"] == [0.9, None]
    assert accuracies(read_json(path)["contenders"][0]) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "could not be read"),
        ("{", "not a JSON file"),
        ("[]", "schema None"),
        ('{"schema": "sgekit.compare/9"}', "'sgekit.compare/9'.*'sgekit.compare/1'"),
    ],
)
def test_other_files_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_json(path)
