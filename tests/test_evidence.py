"""The page of evidence is what the committed results say."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sgekit.cli.main import command_parser

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def evidence() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "evidence_of_benchmarks", ROOT / "benchmarks" / "evidence.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(evidence: Any) -> None:
    page = evidence.PAGE.read_text(encoding="utf-8")
    between = page.split(evidence.BEGIN)[1].split(evidence.END)[0]
    assert between.strip() == evidence.text(evidence.kept()).strip()


def test_every_command_is_one_that_the_tool_takes(evidence: Any) -> None:
    for name in evidence.SERIES:
        for line in evidence.command(name).splitlines():
            program, *words = shlex.split(line)
            assert program == "sgekit"
            command_parser(words[0]).parse_args(words[1:])


def test_a_series_is_kept_without_its_paths_and_told(
    evidence: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "KEPT", tmp_path / "kept")
    results = json.loads((ROOT / "docs" / "results" / "scenes.json").read_text())
    out = tmp_path / "results.json"
    results["settings"]["data"]["path"] = "/home/me/data"
    out.write_text(json.dumps(results | {"command": "sgekit compare --out /home/me/x"}))
    evidence.keep("scenes-groups", out)
    evidence.keep("scenes-start", tmp_path / "none.json")
    found = evidence.kept()
    assert list(found) == ["scenes-groups"]
    assert "/home/me" not in json.dumps(found)
    text = evidence.text(found)
    assert "3 seeds, 2,000 training and 1,000 evaluation images" in text
    assert results["conclusion"] in text
    assert "`scenes-start`" in text.split("### Not run yet")[1]
    evidence.draw(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
