"""What SGE gives, with error bars: the comparisons behind docs/evidence.md.

    python benchmarks/evidence.py list
    python benchmarks/evidence.py run scenes-groups --out runs/evidence
    python benchmarks/evidence.py run cifar10 --data DIR --out runs/evidence
    python benchmarks/evidence.py page

A series is one `sgekit compare`. It may be stopped at any time: what has ended is kept in
docs/results/evidence/, and the same command goes on. Data sets are looked for in --data, under the
series' name; the scenes need none. `page` writes tables and figure into the docs from what is kept.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from evidence_figures import STRENGTHS, accuracies, draw, draw_curves, has_curves
from evidence_series import ALL, SERIES, TRIALS, command

from sgekit.comparison.formats import display_name, signed
from sgekit.comparison.statistics import paired_difference
from sgekit.comparison.tables import markdown_table, rows, score_rows

DOCS = Path(__file__).parents[1] / "docs"
KEPT = DOCS / "results" / "evidence"
PAGE = DOCS / "evidence.md"
FIGURE = DOCS / "images" / "evidence.png"
CURVES = DOCS / "images" / "evidence-scenes.png"
BEGIN, END = "<!-- series -->", "<!-- end of series -->"


def run(name: str, out: Path, data: Path | None, seeds: str | None) -> int:
    """Train what is missing; results so far are kept however it ends. Returns the exit code."""
    series = ALL[name]
    words = [*series.compare, "--seeds", seeds or series.seeds, "--out", str(out / name)]
    if series.scenes:
        folder = out / "data" / name
        if not folder.exists():
            _sgekit("scenes", *series.scenes, "--out", str(folder))
        words += ["--data", str(folder)]
    if series.start:
        folder = out / f"{name}-start"
        start = [*series.start, *_data(name, series.data, data)]
        if code := _sgekit("train", *start, "--resume", "--out", str(folder)):
            return code
        words += ["--init", str(folder / "last.ckpt")]
    words += _data(name, series.data, data)
    try:
        return _sgekit("compare", *words)
    finally:
        keep(name, out / name / "results.json")


def _data(name: str, wanted: str | None, folder: Path | None) -> list[str]:
    if wanted is None:
        return []
    if folder is None:
        raise SystemExit(f"{name} needs --data, the folder that holds {wanted}")
    return ["--data", str(folder / wanted)]


def _sgekit(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "sgekit", *words], check=False).returncode


def keep(name: str, results: Path) -> None:
    """Copy a comparison's results beside the docs, without this machine's paths."""
    if not results.exists():
        return
    content = json.loads(results.read_text())
    content["command"] = command(name, ",".join(map(str, content["settings"]["seeds"])))
    content["settings"]["data"]["path"] = ALL[name].data
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def kept() -> dict[str, Any]:
    """The results that there are, in the order of ALL."""
    files = {name: KEPT / f"{name}.json" for name in ALL}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def text(found: dict[str, Any]) -> str:
    """A section for each series: the question, its command, table and conclusion."""
    parts = []
    for name, results in found.items():
        if name in TRIALS:
            continue
        images = results["settings"]["data"]
        seeds = len({run["seed"] for entry in results["contenders"] for run in entry["runs"]})
        about = (
            f"{results['settings']['model']}, {seeds} seed{'s' if seeds != 1 else ''}, "
            f"{images['train']:,} training and {images['val']:,} evaluation images, torch "
            f"{results['environment']['torch'].split('+')[0]}, {results['environment']['date']}. "
            f"[{name}.json](results/evidence/{name}.json)"
        )
        parts += [
            f"### {SERIES[name].question}",
            f"```sh\n{results['command']}\n```",
            about,
            markdown_table(results).rstrip(),
            results["conclusion"].replace("\n", "\n\n"),
            *(_epochs(results) if SERIES[name].start else []),
            *_scores(results),
            *_parts(results),
        ]
    parts += _trends(found)
    parts += _trials({name: found[name] for name in TRIALS if name in found})
    waiting = [name for name in SERIES if name not in found]
    if waiting:
        parts += ["### Not run yet", "\n".join(f"- {SERIES[n].question}: `{n}`" for n in waiting)]
    return "\n\n".join(parts)


def _trends(found: dict[str, Any]) -> list[str]:
    """How SGE's difference changes from the least to the most of what disturbs, seed by seed."""
    lines = []
    for words, series in STRENGTHS.items():
        there = {at: found[name] for at, name in sorted(series.items()) if name in found}
        if len(there) < 2:
            continue
        by_strength = [_differences(results) for results in there.values()]
        both = sorted(by_strength[0].keys() & by_strength[-1].keys())
        change = paired_difference(*([by_strength[end][seed] for seed in both] for end in (-1, 0)))
        first, *_, last = there
        told = ", ".join(
            f"{at:g}: {signed(statistics.fmean(values.values()))}"
            for at, values in zip(there, by_strength, strict=True)
        )
        interval = (
            f" ({signed(change.low)} to {signed(change.high)})" if change.low is not None else ""
        )
        lines.append(
            f"- {words}: {told}. From {first:g} to {last:g} the difference changes by "
            f"{signed(change.mean)}{interval} points, {change.n} seeds."
        )
    if not lines:
        return []
    return [
        "### Does the difference depend on what disturbs?",
        "SGE minus plain in points, means over the seeds; the change is taken seed by seed, with "
        "its 95 % interval.",
        "\n".join(lines),
    ]


def _differences(results: dict[str, Any]) -> dict[int, float]:
    """SGE minus plain in points, of every seed that both have."""
    plain, other = (accuracies(results, attention) for attention in ("none", "sge"))
    return {seed: other[seed] - plain[seed] for seed in sorted(plain.keys() & other.keys())}


def _trials(found: dict[str, Any]) -> list[str]:
    """All settings that were tried, in one table, and their commands."""
    if not found:
        return []
    lines = ["| setting | attention | seeds | metric | difference, points (95 % interval) |",
             "|---|---|---:|---:|---:|"]  # fmt: skip
    for name, results in found.items():
        lines += [
            f"| [{TRIALS[name].question}](results/evidence/{name}.json) | {row.attention} | "
            f"{row.seeds} | {row.accuracy} | {row.difference} |"
            for row in rows(results)
        ]
    commands = "\n".join(results["command"] for results in found.values())
    return [
        "### Settings tried before one was chosen",
        "Photographs of Caltech-101's training images, a fifth of each class held out to judge by.",
        "\n".join(lines),
        f"```sh\n{commands}\n```",
    ]


def _epochs(results: dict[str, Any]) -> list[str]:
    """Accuracy after every epoch, mean over the seeds."""
    curves = {
        display_name(entry["attention"]): [
            statistics.fmean(values)
            for values in zip(
                *([row["val_top1"] for row in run["curve"]] for run in entry["runs"]), strict=True
            )
        ]
        for entry in results["contenders"]
    }
    count = len(next(iter(curves.values())))
    lines = [
        "| top-1 accuracy | " + " | ".join(f"epoch {n + 1}" for n in range(count)) + " |",
        "|---|" + "---:|" * count,
        *(
            f"| {name} | " + " | ".join(f"{100 * value:.1f} %" for value in curve) + " |"
            for name, curve in curves.items()
        ),
    ]
    return ["\n".join(lines)]


def _scores(results: dict[str, Any]) -> list[str]:
    """A detector's scores by size and overlap."""
    scores = score_rows(results)
    if not scores:
        return []
    head = "| attention | score | plain | with it | difference | over seeds | over redrawn images |"
    lines = [head, "|---|---|" + "---:|" * 5]
    lines += [
        f"| {row.attention} | {row.score} | {row.baseline} | {row.value} | {row.difference} | "
        f"{row.over_seeds} | {row.over_images} |"
        for row in scores
    ]
    return ["\n".join(lines)]


def _parts(results: dict[str, Any]) -> list[str]:
    """Part scores, where the images' parts are known."""
    told = []
    for entry in results.get("parts") or []:
        text = f"{display_name(entry['attention'])} {entry['mean']:.2f}"
        if entry["low"] is not None:
            text += f" ({points(entry)})"
        told.append(text)
    link = "[Part score](explain.md#what-is-measured)"
    return [f"{link}, paired difference and 95 % interval: {'; '.join(told)}."] if told else []


def points(entry: dict[str, Any]) -> str:
    """A part score's difference with its interval."""
    words = [f"{entry[key]:+.2f}".replace("-", "−") for key in ("difference", "low", "high")]
    return f"{words[0]}, {words[1]} to {words[2]}"


def page() -> None:
    """Bring docs/evidence.md and its figure up to date."""
    before = PAGE.read_text(encoding="utf-8")
    head, rest = before.split(BEGIN)
    _, tail = rest.split(END)
    found = kept()
    PAGE.write_text(f"{head}{BEGIN}\n\n{text(found)}\n\n{END}{tail}", encoding="utf-8")
    if found:
        draw(found, FIGURE)
    if has_curves(found):
        draw_curves(found, CURVES)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("list", "run", "keep", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="series (all that need no --data)")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--seeds", help="other than the series' own")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ALL]:
        parser.error(f"no series {', '.join(unknown)}; there are {', '.join(ALL)}")
    names = options.names or [n for n, s in ALL.items() if options.data or not s.data]
    if options.what == "list":
        for name, series in ALL.items():
            print(f"{name}: {series.question}\n{command(name)}\n")
    elif options.what == "page":
        page()
    elif options.what == "keep":
        for name in names:
            keep(name, options.out / name / "results.json")
    else:
        return max(run(name, options.out, options.data, options.seeds) for name in names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
