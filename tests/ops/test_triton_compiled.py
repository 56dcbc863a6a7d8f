"""The GPU kernels compile for GPUs, and every tile of the table fits into a processor."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from sgekit.ops.triton_kernels import configuration

pytest.importorskip("triton")


def compile_for(target: int | str, amount: str) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.triton_ahead", str(target), amount],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


ALLOWED = {
    "apply frozen": 16,
    "enhance": 8,
    "enhance norm False": 16,
    "enhance sum": 8,
    "enhance turns norm True": 8,
    "enhance turns sum": 8,
    "turns": 16,
    "turns norm": 16,
    "turns sum": 8,
    "whole": 8,
    "whole sum": 16,
}
"""Bytes of stack a thread; every other kernel has none."""
DEEPEST_STACK = 48
REGISTERS = 46080
"""Of all threads of a program, of 65,536 that a processor has."""


def fits(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["stack"] <= ALLOWED.get(row["kernel"], 0), f"spills: {row}"
        assert row["registers"] * 32 * row["warps"] <= REGISTERS, f"does not fit: {row}"
        assert row["shared"] <= 16384, row
        depth = row["channels"] // row["groups"]
        in_memory = row["channels"] if row["last"] else row["positions"]
        if in_memory % 4 == 0 and (not row["last"] or depth & (depth - 1) == 0):
            reads_widely(row)
    # Two programs on a processor at a time, so that one reads while the other computes.
    twice = [row["registers"] * 32 * row["warps"] <= 32768 for row in rows]
    assert sum(twice) >= 0.95 * len(rows)


ITEM = {"bf16": 2, "fp16": 2, "fp32": 4}


def reads_widely(row: dict[str, Any]) -> None:
    """Every number of the tile comes in a load of 8 or 16 bytes and leaves in such a store; and
    there are not so many instructions a number that memory waits for them."""
    if row["kernel"].startswith("finish"):
        return
    depth, used = row["tile"][1], row["channels"] // row["groups"]
    wanted = row["numbers"] * ITEM[row["type"]]
    if row["kernel"] != "moments":  # whose tiles have single channels
        wanted *= used / depth
    if row["positions"] <= configuration.SMALL:  # what lies beyond them is not read at all
        wanted *= row["positions"] / row["tile"][2]
    assert wide_bytes(row["loads"]) >= wanted, row
    if row["kernel"].startswith(("enhance", "whole", "apply", "turns")):
        assert wide_bytes(row["stores"]) >= wanted, row
    if ITEM[row["type"]] == 2:  # where nothing but a map has numbers of two bytes
        # A constant map's first and last number of each channel are read on their own.
        alone = [n for name, n in row["loads"].items() if name.endswith("U16")]
        assert sum(alone) <= max(8, row["numbers"] // 4), row
        assert not any(name.endswith("U16") for name in row["stores"]), row
    # A channel that is a group of its own has likeness and gate for itself. A kernel of turns has
    # two or three steps, of which a program takes one, and what merges chunks.
    most = 125 if used == 1 else 80
    if "turns" in row["kernel"]:
        most = 210 if used == 1 else 130
    assert row["instructions"] <= most * row["numbers"], row


def wide_bytes(counts: dict[str, int]) -> int:
    width = {"128": 16, "64": 8}
    return sum(width.get(name.split(".")[-1], 0) * count for name, count in counts.items())


def test_kernels_fit() -> None:
    rows = compile_for(90, "quick")
    assert len(rows) >= 12
    fits(rows)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_whole_table_fits(capability: int) -> None:
    fits(compile_for(capability, "all"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_deep_groups_fit(capability: int) -> None:
    rows = compile_for(capability, "deep")
    assert len(rows) >= 24
    for row in rows:
        assert row["stack"] <= (DEEPEST_STACK if row["kernel"] == "turns norm" else 16), row
        assert row["shared"] <= 16384, row


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("architecture", ["gfx90a", "gfx942", "gfx1100"])
def test_they_compile_for_amd(architecture: str) -> None:
    """Wavefronts of 64 and of 32 threads."""
    rows = compile_for(architecture, "quick")
    assert len(rows) >= 12
    for row in rows:
        assert row["shared"] <= 65536, row
