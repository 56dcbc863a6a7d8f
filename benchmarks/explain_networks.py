"""What the groups of a comparison's networks look at: plain against SGE, seed by seed.

    python benchmarks/explain_networks.py compare --out docs/results/explain-scenes.json

`sgekit explain` for every run of `sgekit compare --out compare` without attention and with SGE
(what is there already is not run again), then two tables for docs/results/index.md: means over the
seeds with every seed behind, and the paired difference with its 95 % interval. Other data than the
scenes with --data.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from sgekit.comparison.formats import signed
from sgekit.comparison.statistics import paired_difference

CONTENDERS = ("none", "sge")
DROPPED = ("network", "report")
MEASURES: tuple[tuple[str, tuple[Any, ...], float, int], ...] = (
    ("part score, maps after the layers", ("maps", "after", "score"), 1, 2),
    ("part score, gates", ("maps", "gate", "score"), 1, 2),
    ("of 7 parts, those with a group that points at them in 80 % of the images, by the maps after",
     ("maps", "after", "parts_found"), 1, 1),
    ("the same by the gates", ("maps", "gate", "parts_found"), 1, 1),
    ("of 32 groups, those with a part of their own: before the layers",
     ("maps", "before", "groups_with_a_part_of_their_own"), 1, 0),
    ("the same by the gates", ("maps", "gate", "groups_with_a_part_of_their_own"), 1, 0),
    ("the same after the layers", ("maps", "after", "groups_with_a_part_of_their_own"), 1, 0),
    ("correlation of gates with themselves under noise",
     ("stability", "noise", "correlation"), 1, 2),
    ("of the enlarged centre", ("stability", "crop", "correlation"), 1, 2),
    ("beside a look-alike", ("stability", "look-alike", "correlation"), 1, 2),
    ("on another background", ("stability", "background", "correlation"), 1, 2),
    ("top-1 on 256 images", ("stability", "none", "accuracy"), 100, 1),
    ("with noise", ("stability", "noise", "accuracy"), 100, 1),
    ("the centre, enlarged", ("stability", "crop", "accuracy"), 100, 1),
    ("beside a look-alike", ("stability", "look-alike", "accuracy"), 100, 1),
    ("on another background", ("stability", "background", "accuracy"), 100, 1),
)  # fmt: skip


def explain(compare: Path, out: Path, data: str | None) -> dict[str, Any]:
    """The results of every network, by the name of its run."""
    found = {}
    for run in sorted((compare / "runs").iterdir()):
        if run.name.rpartition("-seed")[0] not in CONTENDERS:
            continue
        own = out / run.name
        if not (own / "results.json").exists():
            words = [*([data] if data else []), "--checkpoint", str(run / "last.ckpt")]
            command = [sys.executable, "-m", "sgekit", "explain", *words, "--out", str(own)]
            subprocess.run(command, check=True)
        content = json.loads((own / "results.json").read_text())
        shown = f"compare/runs/{run.name}/last.ckpt"
        command = ["sgekit explain", *(["DATA"] if data else []), f"--checkpoint {shown}"]
        content |= {"command": " ".join(command), "checkpoint": shown}
        found[run.name] = {key: value for key, value in content.items() if key not in DROPPED}
    return found


def at(result: Any, path: tuple[Any, ...]) -> float:
    """A number inside a result; entries of lists go by their name or region.

    A plain network has no layers, so its maps after them are those before.
    """
    for key in path:
        if key == "after" and key not in result:
            key = "before"  # noqa: PLW2901
        if isinstance(result, list):
            result = next(e for e in result if key in (e.get("name"), e.get("region")))
        else:
            result = result[key]
    return float(result)


def told(values: list[float], digits: int) -> str:
    seeds = ", ".join(_plain(value, 0 if digits == 1 and value.is_integer() else digits)
                      for value in values)  # fmt: skip
    return f"{_plain(statistics.fmean(values), digits)} ({seeds})"


def _plain(value: float, digits: int) -> str:
    return signed(value, digits).removeprefix("+")


def difference(plain: list[float], other: list[float], digits: int) -> str:
    found = paired_difference(other, plain)
    mean = signed(found.mean, digits)
    if found.low is None or found.high is None:
        return mean
    low, high = (signed(value, digits) for value in (found.low, found.high))
    return f"{mean} ({low} to {high})"


def tables(found: dict[str, Any]) -> str:
    """Both tables as Markdown."""
    by_contender = [
        [result for name, result in found.items() if name.startswith(f"{contender}-seed")]
        for contender in CONTENDERS
    ]
    lines = ["| measure | plain | SGE | difference |", "|---|---:|---:|---:|"]
    for words, path, scale, digits in MEASURES:
        plain, other = ([scale * at(r, path) for r in results] for results in by_contender)
        lines.append(
            f"| {words} | {told(plain, digits)} | {told(other, digits)} | "
            f"{difference(plain, other, digits)} |"
        )
    lines += [
        "",
        "| part | plain: points at it, chance | SGE: points at it, chance | plain: score | "
        "SGE: score | difference |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    rows = []
    for part in by_contender[0][0]["data"]["parts"]:
        keys = [("maps", "after", "parts", part, key) for key in ("pointing", "chance", "score")]
        values = [[[at(r, key) for r in results] for key in keys] for results in by_contender]
        (p_hit, p_chance, plain), (s_hit, s_chance, other) = values
        mean = statistics.fmean
        rows.append((-mean(plain), (
            f"| {part} | {100 * mean(p_hit):.0f} %, {100 * mean(p_chance):.0f} % | "
            f"{100 * mean(s_hit):.0f} %, {100 * mean(s_chance):.0f} % | {told(plain, 2)} | "
            f"{told(other, 2)} | {difference(plain, other, 2)} |"
        )))  # fmt: skip
    return "\n".join([*lines, *(row for _, row in sorted(rows))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("compare", type=Path, help="folder of a comparison: its runs/")
    parser.add_argument("--data", help="images to explain; the scenes without it")
    parser.add_argument("--explained", type=Path, default=Path("runs/explained"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not list((options.compare / "runs").glob("*/last.ckpt")):
        parser.error(f"{options.compare} holds no comparison's runs")
    found = explain(options.compare, options.explained, options.data)
    options.out.write_text(json.dumps({"runs": found}, indent=1) + "\n", encoding="utf-8")
    print(tables(found))


if __name__ == "__main__":
    main()
