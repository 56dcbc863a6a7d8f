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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgekit.comparison.formats import display_name
from sgekit.comparison.tables import markdown_table, score_rows
from sgekit.data import SceneConfig
from sgekit.figures.style import LIGHT, figure, style

DOCS = Path(__file__).parents[1] / "docs"
KEPT = DOCS / "results" / "evidence"
PAGE = DOCS / "evidence.md"
FIGURE = DOCS / "images" / "evidence.png"
CURVES = DOCS / "images" / "evidence-scenes.png"
SEEDS = "0,1,2"
BEGIN, END = "<!-- series -->", "<!-- end of series -->"


@dataclass(frozen=True)
class Series:
    """One comparison: the question, what `sgekit compare` is told, scenes of its own, and the
    network that all start from, as `sgekit train` is told."""

    question: str
    compare: tuple[str, ...]
    data: str | None = None
    scenes: tuple[str, ...] = ()
    start: tuple[str, ...] = ()


def _noise(level: str) -> Series:
    return Series(
        f"Scenes with noise of {level}", ("--model", "resnet10_small"), scenes=("--noise", level)
    )


def _distractors(count: str) -> Series:
    return Series(
        f"Scenes with {count} look-alikes",
        ("--model", "resnet10_small"),
        scenes=("--distractors", count),
    )


_CONTENDERS = ("--attention", "none,se,eca,cbam,sge")
SERIES = {
    "scenes-groups": Series("How many groups?", ("--sweep", "groups=1,4,8,16")),
    "scenes-start": Series(
        "Which start of weight and bias?", ("--sweep", "weight_init,bias_init=0:0,0:1,1:0,1:1")
    ),
    "scenes-normalisation": Series(
        "Without normalisation?", ("--attention", "none,sge,sge(normalize=false)")
    ),
    "scenes-unzeroed": Series(
        "The last norm of a block not started at zero, as in the paper's code?",
        ("--set", "zero_init_last=false"),
    ),
    "scenes-longer": Series("Three times the epochs?", (*_CONTENDERS, "--epochs", "18")),
    **{f"scenes-noise-{level}": _noise(level) for level in ("0", "0.14", "0.28")},
    **{f"scenes-distractors-{count}": _distractors(count) for count in ("0", "4", "8")},
    **{
        f"caltech101{suffix}": Series(
            f"Photographs of 101 kinds of things, {pixels} pixels",
            (*_CONTENDERS, "--model", "resnet10_small", "--image-size", pixels, "--epochs", "8",
             "--set", "crop=resized", "--set", "crop_scale=0.4,1"),
            data="caltech101",
        )
        for suffix, pixels in (("", "128"), ("-64", "64"))
    },
    "scenes-insertion": Series(
        "Into a trained network?",
        ("--attention", "none,sge,sge(preserve=false),se,se(preserve=false)", "--epochs", "3",
         "--lr", "0.001"),
        start=("--model", "resnet10_small", "--attention", "none", "--seed", "7"),
    ),
    "cifar10": Series(
        "Ten kinds of things in 32 pixels, ResNet-18",
        (*_CONTENDERS, "--model", "resnet18_cifar", "--recipe", "cifar"),
        data="cifar10",
    ),
    "cifar10-small": Series(
        "Ten kinds of things in 32 pixels, a small network and five epochs",
        (*_CONTENDERS, "--model", "resnet10_small", "--recipe", "cifar", "--epochs", "5",
         "--precision", "fp32"),
        data="cifar10",
    ),
    "cifar10-bottleneck": Series(
        "Ten kinds of things in 32 pixels, ResNet-50",
        (*_CONTENDERS, "--model", "resnet50_cifar", "--recipe", "cifar"),
        data="cifar10",
    ),
    **{
        f"dsb2018-{short}": Series(
            f"Small objects: nuclei, {words}",
            ("--detector", detector, "--model", "resnet10_small", "--recipe", "quick-detect",
             "--attention", "none,sge", "--workers", "0", "--epochs", "3", "--batch-size", "4",
             "--image-size", "160"),
            data="dsb2018",
        )
        for short, detector, words in (
            ("faster", "faster_rcnn", "Faster R-CNN"), ("mask", "mask_rcnn", "Mask R-CNN"),
        )
    },
}  # fmt: skip


def command(name: str, seeds: str = SEEDS) -> str:
    """What a user would type for the series."""
    series = SERIES[name]
    own = [*series.compare, *(["--seeds", seeds] if seeds != SEEDS else [])]
    if series.data:
        own += ["--data", series.data]
    lines = []
    if series.scenes:
        lines.append(f"sgekit scenes {' '.join(series.scenes)} --out {name}")
        own += ["--data", name]
    if series.start:
        lines.append(f"sgekit train {' '.join(series.start)} --out {name}-start")
        own += ["--init", f"{name}-start/last.ckpt"]
    lines.append(" ".join(["sgekit compare", *map(_quoted, own), "--out", f"evidence/{name}"]))
    return "\n".join(lines)


def _quoted(word: str) -> str:
    return f"'{word}'" if "(" in word else word


def run(name: str, out: Path, data: Path | None, seeds: str) -> int:
    """Train what is missing; results so far are kept however it ends. Returns the exit code."""
    series = SERIES[name]
    words = [*series.compare, "--seeds", seeds, "--out", str(out / name)]
    if series.scenes:
        folder = out / "data" / name
        if not folder.exists():
            _sgekit("scenes", *series.scenes, "--out", str(folder))
        words += ["--data", str(folder)]
    if series.start:
        folder = out / f"{name}-start"
        if code := _sgekit("train", *series.start, "--resume", "--out", str(folder)):
            return code
        words += ["--init", str(folder / "last.ckpt")]
    if series.data:
        if data is None:
            raise SystemExit(f"{name} needs --data, the folder that holds {series.data}")
        words += ["--data", str(data / series.data)]
    try:
        return _sgekit("compare", *words)
    finally:
        keep(name, out / name / "results.json")


def _sgekit(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "sgekit", *words], check=False).returncode


def keep(name: str, results: Path) -> None:
    """Copy a comparison's results beside the docs, without this machine's paths."""
    if not results.exists():
        return
    content = json.loads(results.read_text())
    content["command"] = command(name, ",".join(map(str, content["settings"]["seeds"])))
    content["settings"]["data"]["path"] = SERIES[name].data
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def kept() -> dict[str, Any]:
    """The results that there are, in the order of SERIES."""
    files = {name: KEPT / f"{name}.json" for name in SERIES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def text(found: dict[str, Any]) -> str:
    """A section for each series: the question, its command, table and conclusion."""
    parts = []
    for name, results in found.items():
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
    waiting = [name for name in SERIES if name not in found]
    if waiting:
        parts += ["### Not run yet", "\n".join(f"- {SERIES[n].question}: `{n}`" for n in waiting)]
    return "\n\n".join(parts)


def _epochs(results: dict[str, Any]) -> list[str]:
    """Accuracy after every epoch, mean over the seeds."""
    curves = {
        display_name(entry["attention"]): [
            statistics.fmean(rows)
            for rows in zip(
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
    rows = score_rows(results)
    if not rows:
        return []
    head = "| attention | score | plain | with it | difference | over seeds | over redrawn images |"
    lines = [head, "|---|---|" + "---:|" * 5]
    lines += [
        f"| {row.attention} | {row.score} | {row.baseline} | {row.value} | {row.difference} | "
        f"{row.over_seeds} | {row.over_images} |"
        for row in rows
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


def draw(found: dict[str, Any], path: Path) -> None:
    """Every contender's paired difference with its 95 % interval, one below the other."""
    rows = [
        (f"{SERIES[name].question}  {display_name(entry['attention'])}", entry["difference"])
        for name, results in found.items()
        for entry in results["contenders"]
        if entry.get("difference")
    ]
    drawn = figure(7.2, 0.8 + 0.28 * len(rows), LIGHT)
    axes = drawn.add_subplot()
    for place, (_, difference) in enumerate(rows):
        mean, low, high = (difference[key] for key in ("mean", "low", "high"))
        if low is not None:
            axes.plot([100 * low, 100 * high], [place, place], color=LIGHT.colour(1), linewidth=2)
        face = LIGHT.colour(1) if low is not None else LIGHT.background
        axes.plot([100 * mean], [place], "o", color=LIGHT.colour(1), mfc=face)
    axes.axvline(0, color=LIGHT.baseline, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("difference to plain, points (95 %)")
    style(axes, LIGHT, grid="x")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)


_DEFAULT = "scenes-normalisation"
_STRENGTHS = {
    "noise on every pixel": {0.0: "scenes-noise-0", SceneConfig().noise: _DEFAULT,
                             0.14: "scenes-noise-0.14", 0.28: "scenes-noise-0.28"},
    "look-alikes in a scene, at most": {0.0: "scenes-distractors-0",
                                        float(SceneConfig().distractors): _DEFAULT,
                                        4.0: "scenes-distractors-4", 8.0: "scenes-distractors-8"},
}  # fmt: skip


def draw_curves(found: dict[str, Any], path: Path) -> None:
    """Accuracy and part score of plain and SGE against what disturbs: means, and every seed."""
    drawn = figure(7.2, 5.4, LIGHT)
    panels = drawn.subplots(2, 2, sharex="col", sharey="row")
    for column, (words, series) in enumerate(_STRENGTHS.items()):
        there = {strength: found[name] for strength, name in series.items() if name in found}
        for row, (label, values_of) in enumerate(
            (("top-1 accuracy, %", _accuracies), ("part score", _part_scores))
        ):
            axes = panels[row][column]
            for number, attention in enumerate(("none", "sge")):
                values = {at: values_of(results, attention) for at, results in there.items()}
                line = [(at, statistics.fmean(of)) for at, of in values.items()]
                seeds = [(at, value) for at, of in values.items() for value in of]
                colour = LIGHT.colour(number)
                axes.plot(
                    *zip(*line, strict=True), "-o", color=colour, label=display_name(attention)
                )
                axes.plot(*zip(*seeds, strict=True), "_", color=colour, alpha=0.6)
            axes.set_ylabel(label if column == 0 else "")
            axes.set_xlabel(words if row == 1 else "")
            style(axes, LIGHT)
    panels[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)


def _accuracies(results: dict[str, Any], attention: str) -> list[float]:
    entry = next(e for e in results["contenders"] if e["attention"] == attention)
    return [100 * run["top1"] for run in entry["runs"]]


def _part_scores(results: dict[str, Any], attention: str) -> list[float]:
    return list(next(e for e in results["parts"] if e["attention"] == attention)["scores"].values())


def page() -> None:
    """Bring docs/evidence.md and its figure up to date."""
    before = PAGE.read_text(encoding="utf-8")
    head, rest = before.split(BEGIN)
    _, tail = rest.split(END)
    found = kept()
    PAGE.write_text(f"{head}{BEGIN}\n\n{text(found)}\n\n{END}{tail}", encoding="utf-8")
    if found:
        draw(found, FIGURE)
    if any(name in found for series in _STRENGTHS.values() for name in series.values()):
        draw_curves(found, CURVES)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("list", "run", "keep", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="series (all that need no --data)")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--seeds", default=SEEDS)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in SERIES]:
        parser.error(f"no series {', '.join(unknown)}; there are {', '.join(SERIES)}")
    names = options.names or [n for n, s in SERIES.items() if options.data or not s.data]
    if options.what == "list":
        for name, series in SERIES.items():
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
