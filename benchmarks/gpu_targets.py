"""What `gpu` aims at beside what it found."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
BOTH = "forward and backward"


def table(rows: list[Row]) -> list[Row]:
    """A row for each target: what, wanted, measured, where, and whether it is met.

    `met` is "met", "missed" or "not measured"; `numbers` whether it is about right numbers.
    """
    rows = [row for row in rows if "error" not in row]
    stages = [row for row in rows if row["part"] == "kernels" and not detection(row)]
    maps = [row for row in rows if row["part"] == "kernels" and detection(row)]
    checked = [row for row in rows if row["part"] == "errors"]
    half = [row for row in checked if row["type"] != "fp32" and row["rounding"]]
    full = [row for row in checked if row["type"] == "fp32" and row["mean"] < 1]
    made = [
        least("forward, share of copying's speed", 0.8, shares(stages, "forward")),
        least("backward, share of copying's speed", 0.75, shares(stages, "backward")),
        least("detection maps, forward", 0.6, shares(maps, "forward")),
        least("detection maps, backward", 0.6, shares(maps, "backward")),
        least("times as fast as the formula", 5, against(stages, "formula")),
        least("times as fast as the formula, compiled", 2, against(stages, "formula compiled")),
        *(
            most(f"{what}{', compiled' if compiled else ''}, times plain", limit, networks(
                rows, what, compiled))
            for what, compiled, limit in (
                ("training", False, 1.0), ("training", True, 1.02),
                ("inference", False, 1.0), ("inference", True, 1.03),
            )
        ),
        most("peak memory in training, times plain", 1.01, memory(rows)),
        least("losses in fp16 that are finite, share", 1, finite(rows)),
        most("error in half precision, times rounding's", 1.5, (
            (row["largest"] / row["rounding"], of(row)) for row in half), numbers=True),
        most("error in fp32", 1e-5, ((row["largest"], of(row)) for row in full), numbers=True),
        most("numbers that differ the second time", 0, (
            (row["moved"], of(row)) for row in checked), numbers=True),
    ]  # fmt: skip
    for other in ("timm SE", "timm CBAM", "timm ECA"):
        made.append(least(f"times as fast as {other}", 1, against(stages + maps, other)))
    return made


Found = Iterable[tuple[float, str]]


def least(what: str, wanted: float, found: Found) -> Row:
    """Every one of `found` is to be at least `wanted`."""
    return told(what, wanted, f"≥ {wanted:g}", list(found), min, lambda value: value >= wanted)


def most(what: str, wanted: float, found: Found, numbers: bool = False) -> Row:
    row = told(what, wanted, f"≤ {wanted:g}", list(found), max, lambda value: value <= wanted)
    return row | {"numbers": numbers}


def told(
    what: str, target: float, wanted: str, found: list[tuple[float, str]],
    worst: Callable[[list[tuple[float, str]]], tuple[float, str]], meets: Callable[[float], bool],
) -> Row:  # fmt: skip
    row: Row = {"what": what, "target": target, "wanted": wanted, "numbers": False}
    if not found:
        return row | {"value": None, "measured": "nothing", "met": "not measured"}
    # A value that is none compares with nothing, and is the worst.
    value, where = next((pair for pair in found if pair[0] != pair[0]), None) or worst(found)
    measured = f"{value:.4g} at worst ({where})" if len(found) > 1 else f"{value:.4g}"
    return row | {
        "value": value,
        "measured": measured,
        "met": "met" if meets(value) else "missed",
    }


def detection(row: Row) -> bool:
    return bool(row["shape"][2] > 100)


def of(row: Row) -> str:
    """Where a row was measured."""
    words = (row.get("tensor"), row.get("type"), row.get("shape"), row.get("layout"))
    return " ".join(str(word) for word in words if word is not None)


def shares(rows: list[Row], name: str) -> Found:
    return [(row["share"], of(row)) for row in rows if row["name"] == name]


def against(rows: list[Row], other: str) -> Found:
    """How many times SGE's time the other takes, forward and backward."""
    times = {
        (row["layout"], tuple(row["shape"]), row["name"]): statistics.median(row["milliseconds"])
        for row in rows
    }
    return [
        (value / times[layout, shape, f"SGE: {BOTH}"], f"{shape} {layout}")
        for (layout, shape, name), value in times.items()
        if name == f"{other}: {BOTH}"
    ]


def networks(rows: list[Row], what: str, compiled: bool) -> Found:
    return [
        (row["ratio"]["median"], "")
        for row in rows
        if row["part"] == "networks"
        and (row["what"], row["compiled"], row["network"]) == (what, compiled, "SGE")
    ]


def memory(rows: list[Row]) -> Found:
    peaks = {
        row["network"]: row["peak"]
        for row in rows
        if row["part"] == "networks" and row["what"] == "training" and not row["compiled"]
    }
    if not peaks.get("plain"):
        return []
    return [(peaks["SGE"] / peaks["plain"], "")]


def finite(rows: list[Row]) -> Found:
    for row in rows:
        if row["part"] == "scaler" and row["network"] == "SGE":
            losses = row["losses"]
            bad = 0 if row["first not finite"] is None else len(losses) - row["first not finite"]
            return [(1 - bad / len(losses), "")]
    return []
