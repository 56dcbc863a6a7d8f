"""The page of evidence: sections, tables and sentences from results that were kept."""

import re
import statistics
from typing import Any

from evidence_figures import STRENGTHS, accuracies
from evidence_series import ALL, SERIES, TRIALS

from sgekit.comparison.conclusion import conclude
from sgekit.comparison.formats import display_name, mean_sd, signed
from sgekit.comparison.statistics import paired_difference
from sgekit.comparison.tables import markdown_table, rows, score_rows


def text(found: dict[str, Any]) -> str:
    """All series at a glance, then a section for each, then what is tried and what waits."""
    parts = _glance(found)
    for name, results in found.items():
        if name in TRIALS:
            continue
        parts += [
            f"### {SERIES[name].question}",
            f"```sh\n{results['command']}\n```",
            _about(name, results),
            markdown_table(results).rstrip(),
            _conclusions(results),
            *(_epochs(results) if SERIES[name].start or SERIES[name].course else []),
            *_scores(results),
            *_parts(results),
        ]
    parts += _trends(found)
    parts += _trials({name: found[name] for name in TRIALS if name in found})
    waiting = [name for name in ALL if name not in found]
    if waiting:
        parts += ["### Not run yet", "\n".join(f"- {ALL[n].question}: `{n}`" for n in waiting)]
    return "\n\n".join(parts)


def _glance(found: dict[str, Any]) -> list[str]:
    """A line for every SGE of every series."""
    lines = []
    for name, results in found.items():
        if name in TRIALS:
            continue
        table = rows(results)
        plain = next(row for row in table if row.verdict is None)
        lines += [
            f"| [{SERIES[name].question}](#{_anchor(SERIES[name].question)}) | {row.attention} | "
            f"{row.seeds} | {plain.accuracy} | {row.difference} |"
            for row in table
            if row.attention.startswith("sge")
        ]
    if not lines:
        return []
    head = (
        "| series | attention | seeds | plain: top-1 or box AP | difference, points "
        "(95 % interval) |\n|---|---|---:|---:|---:|"
    )
    return ["### At a glance", "\n".join([head, *lines])]


def _anchor(title: str) -> str:
    """A heading's name in a link, as Markdown renderers make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _about(name: str, results: dict[str, Any]) -> str:
    """What was trained with what, and where the whole results are."""
    images, made = results["settings"]["data"], results["environment"]
    done = sum(len(entry["runs"]) for entry in results["contenders"])
    seeds = len({run["seed"] for entry in results["contenders"] for run in entry["runs"]})
    told = f"{seeds} seed{'s' if seeds != 1 else ''}"
    if not results["complete"]:
        planned = len(results["contenders"]) * len(results["settings"]["seeds"])
        told = f"not finished, {done} of {planned} runs"
    return (
        f"{results['settings']['model']}, {told}, {images['train']:,} training and "
        f"{images['val']:,} evaluation images, torch {made['torch'].split('+')[0]}, "
        f"{made['date']}. [{name}.json](results/evidence/{name}.json)"
    )


def _conclusions(results: dict[str, Any]) -> str:
    """One sentence a contender, of what was reached; the report has those of seeds and time."""
    base = results["baseline"]
    sentences = []
    for entry in results["contenders"]:
        if entry["attention"] == base:
            continue
        found = entry["difference"]
        if found is not None:
            found = found | {"seeds_needed": found["seeds_needed"] | {"seeds": None}}
        sentences.append(conclude(entry["attention"], base, found))
    return "\n\n".join(sentences)


def _trends(found: dict[str, Any]) -> list[str]:
    """How SGE's difference changes from the least to the most of what disturbs, seed by seed."""
    lines = []
    for words, series in STRENGTHS.items():
        by_strength = {
            at: differences
            for at, name in sorted(series.items())
            if name in found and (differences := _differences(found[name]))
        }
        if len(by_strength) < 2:
            continue
        (first, calm), *_, (last, disturbed) = by_strength.items()
        both = sorted(calm.keys() & disturbed.keys())
        if not both:
            continue
        change = paired_difference([disturbed[seed] for seed in both], [calm[s] for s in both])
        told = ", ".join(
            f"{at:g}: {signed(statistics.fmean(values.values()))}"
            for at, values in by_strength.items()
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
    """Accuracy after every epoch, mean and deviation over the seeds."""
    curves = {
        display_name(entry["attention"]): list(
            zip(*([row["val_top1"] for row in run["curve"]] for run in entry["runs"]), strict=True)
        )
        for entry in results["contenders"]
        if entry["runs"]
    }
    if not curves:
        return []
    count = len(next(iter(curves.values())))
    lines = [
        "| top-1 accuracy | " + " | ".join(f"epoch {n + 1}" for n in range(count)) + " |",
        "|---|" + "---:|" * count,
        *(
            f"| {name} | " + " | ".join(map(_mean_and_sd, curve)) + " |"
            for name, curve in curves.items()
        ),
    ]
    return ["\n".join(lines)]


def _mean_and_sd(values: tuple[float, ...]) -> str:
    return mean_sd(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


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
    words = [signed(entry[key], 2) for key in ("difference", "low", "high")]
    return f"{words[0]}, {words[1]} to {words[2]}"
