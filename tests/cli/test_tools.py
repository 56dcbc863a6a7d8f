"""models, bench, scenes, checks."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Sgekit


@pytest.mark.slow
def test_models_counts_what_attention_does(sgekit: Sgekit, tmp_path: Path) -> None:
    done = sgekit("models", "resnet50", "--out", "m")
    assert "25,559,080" in done.stdout
    assert "25,557,032" in done.stdout
    rows = json.loads((tmp_path / "m" / "results.json").read_text())["models"]
    plain, sge = rows
    assert plain["operations"]["multiply_adds"] == sge["operations"]["multiply_adds"]
    assert sge["operations"]["attention"] > 30e6  # 11 million numbers, three operations each


@pytest.mark.slow
def test_bench_measures_side_by_side(sgekit: Sgekit, tmp_path: Path) -> None:
    done = sgekit(
        "bench", "--model", "resnet10_small", "--batch-size", 4, "--image-size", 32,
        "--rounds", 5, "--out", "b",
    )  # fmt: skip
    rows = json.loads((tmp_path / "b" / "results.json").read_text())["rows"]
    assert [row["attention"] for row in rows] == ["none", "sge"]
    for row in rows:
        for kind in ("train", "inference"):
            spread = row["cost"][kind]["images_per_s"]
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        assert row["cost"]["peak_memory_bytes"] > 0
    assert "1.00×" in done.stdout


def test_scenes_writes_what_train_reads(sgekit: Sgekit, tmp_path: Path) -> None:
    sgekit("scenes", "--out", "s", "--train", 24, "--val", 12, "--image-size", 32)
    assert len(list((tmp_path / "s" / "train").rglob("*.png"))) == 24
    coco = json.loads((tmp_path / "s" / "annotations" / "instances_val.json").read_text())
    assert len(coco["images"]) == 12


def test_checks_gives_reasons(sgekit: Sgekit, tmp_path: Path) -> None:
    done = sgekit("checks", "--out", "c")
    found = json.loads((tmp_path / "c" / "results.json").read_text())["implementations"]["cpu"]
    reference = next(row for row in found if row["impl"] == "reference")
    assert reference["runs"]
    assert all(row["reason"] for row in found if not row["runs"])
    assert 'impl="auto" takes' in done.stdout
