"""The script for GPUs: what fails takes nothing else with it, and the table says what was found."""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)  # the scripts import each other
    return importlib.import_module("gpu")


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_targets")


def kernel(name: str, milliseconds: float, **more: Any) -> dict[str, Any]:
    return {"part": "kernels", "layout": "NCHW", "shape": [256, 2048, 7, 7], "name": name,
            "milliseconds": [milliseconds] * 3, **more}  # fmt: skip


def network(network: str, what: str, ratio: float, peak: int) -> dict[str, Any]:
    return {"part": "networks", "what": what, "compiled": False, "network": network,
            "ratio": {"median": ratio}, "peak": peak}  # fmt: skip


def error(tensor: str, largest: float, moved: int = 0, kind: str = "bf16") -> dict[str, Any]:
    return {"part": "errors", "shape": [3, 67, 31, 2], "layout": "NCHW", "type": kind, "mean": 0.5,
            "tensor": tensor, "largest": largest, "moved": moved,
            "rounding": 2.0**-9 if kind == "bf16" else 0.0}  # fmt: skip


def test_the_table_tells_met_missed_and_not_measured(targets: Any) -> None:
    both = "forward and backward"
    rows = [
        kernel("forward", 1.0, share=0.9),
        kernel("forward", 1.0, share=0.79) | {"shape": [256, 1024, 14, 14]},
        kernel("backward", 1.0, share=0.75),
        kernel("forward", 1.0, share=0.61) | {"shape": [2, 256, 200, 336]},
        kernel(f"SGE: {both}", 2.0),
        kernel(f"formula: {both}", 11.0),
        kernel(f"timm SE: {both}", 1.9),
        network("plain", "training", 1.0, 1000),
        network("SGE", "training", 0.99, 1005),
        network("SGE", "inference", 1.2, 1005),
        {"part": "scaler", "network": "SGE", "losses": [1.0, 2.0, "nan", "nan"],
         "first not finite": 2},
        error("y", 2.0**-9),
        error("dx", 1e-6, kind="fp32"),
        {"part": "scaler", "error": "took more than 9 s"},
    ]  # fmt: skip
    found = {row["what"]: row for row in targets.table(rows)}
    expected = {
        "forward, share of copying's speed": (0.79, "missed"),
        "backward, share of copying's speed": (0.75, "met"),
        "detection maps, forward": (0.61, "met"),
        "detection maps, backward": (None, "not measured"),
        "times as fast as the formula": (5.5, "met"),
        "times as fast as the formula, compiled": (None, "not measured"),
        "training, times plain": (0.99, "met"),
        "training, compiled, times plain": (None, "not measured"),
        "inference, times plain": (1.2, "missed"),
        "peak memory in training, times plain": (1.005, "met"),
        "losses in fp16 that are finite, share": (0.5, "missed"),
        "error in half precision, times rounding's": (1.0, "met"),
        "error in fp32": (1e-6, "met"),
        "numbers that differ the second time": (0, "met"),
        "times as fast as timm SE": (0.95, "missed"),
        "times as fast as timm ECA": (None, "not measured"),
    }
    assert {what: (found[what]["value"], found[what]["met"]) for what in expected} == expected
    assert "[256, 1024, 14, 14] NCHW" in found["forward, share of copying's speed"]["measured"]


def test_a_number_that_is_none_meets_no_target(targets: Any) -> None:
    rows = [error("y", 1e-9), error("dx", float("nan"), moved=3)]
    found = {row["what"]: row for row in targets.table(rows)}
    assert found["error in half precision, times rounding's"]["met"] == "missed"
    assert found["numbers that differ the second time"]["met"] == "missed"
    assert found["numbers that differ the second time"]["numbers"]


def test_a_job_that_fails_takes_no_other_with_it(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def jobs(options: argparse.Namespace) -> Iterator[Any]:
        def fails() -> list[dict[str, Any]]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        yield "first", fails
        yield "second", lambda: [{"value": float("inf")}]

    monkeypatch.setattr(importlib.import_module("gpu_kernels"), "errors", jobs)
    gpu.alone(argparse.Namespace(), "errors", tmp_path / "rows")
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert rows == [
        {"job": "first", "error": "RuntimeError: CUDA error: an illegal memory access was "
                                  "encountered"},
        {"job": "second", "value": float("inf")},
    ]  # fmt: skip


def test_a_part_that_hangs_keeps_what_it_had(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], timeout: float, **_: Any) -> None:
        kept = Path(command[command.index("--alone") + 1])
        kept.write_text('{"job": "one", "value": 1}\n{"job": "two", "va', encoding="utf-8")
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    options = argparse.Namespace(rehearse=False, batch=2, model="resnet18", steps=2, rounds=2)
    assert gpu.run(options, "kernels", 9.0) == [
        {"part": "kernels", "job": "one", "value": 1},
        {"part": "kernels", "error": "took more than 9 s"},
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_rehearsal_fails_nowhere(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    script = [sys.executable, str(BENCHMARKS / "gpu.py"), "--rehearse", "--out", str(out)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert {row["part"] for row in result["rows"]} == {
        "trial", "errors", "kernels", "networks", "scaler"
    }  # fmt: skip
    assert not any("error" in row for row in result["rows"])
    assert result["targets"] == []
