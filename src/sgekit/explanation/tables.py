"""What was found in words and tables."""

from collections.abc import Iterator

import numpy as np

from sgekit.explanation.explained import Explanation
from sgekit.explanation.figures import GATE_NAMES
from sgekit.explanation.measures import GOOD, OWN, Found, PartScore
from sgekit.explanation.page import Table
from sgekit.explanation.stability import Stability

# So many names can be read in a sentence.
_LISTED = 8
_DISTURBANCES = {
    "none": "none",
    "noise": "noise of 10 % of the brightness range",
    "crop": "the central 7/8, enlarged",
    "look-alike": "another image's object beside it, half as large",
    "background": "another image's background",
}


def summary(found: Explanation) -> Iterator[str]:
    """The page's first sentences, each claiming what was measured."""
    seen, data = found.seen, found.data
    layers = len(seen.surveys)
    plural = "s" if layers != 1 else ""
    groups = sum(len(survey.mean("gate")) for survey in seen.surveys.values())
    where = {
        "gate": f"{groups} groups in {layers} SGE layer{plural}",
        "similarity": f"{groups} groups at the {layers} place{plural} where SGE would stand; the "
        "network has no attention, so its maps are the similarity that SGE would compute",
        "ratio": f"{groups} groups of channels in {layers} attention layer{plural} not of SGE, "
        "with the length after by that before as their map",
    }[found.kind]
    accuracy = ""
    if found.accuracy is not None:
        which = "them"
        if seen.labelled < seen.images:
            which = f"the {seen.labelled:,} of them whose class the network knows"
        accuracy = f" Top-1 on {which}: {100 * found.accuracy:.1f} %."
    count = f"{seen.images:,} image" + ("s" if seen.images != 1 else "")
    yield f"{count}{f' of {data.name}' if data.name else ''}, {where}.{accuracy}"
    if found.score is not None:
        score = found.score
        span = " (too few images for an interval)"
        if score.low is not None and score.high is not None:
            span = f" (95 % interval over images {score.low:.2f} to {score.high:.2f})"
        yield (
            f"Part score {score.score:.2f}{span}: 0 is chance, 1 a group for each of {_few(score)} "
            f"that always points at it. Parts with a group that points there in {100 * GOOD:.0f} % "
            f"of the images or more: {score.found} of {len(score.parts)}."
        )
    own = found.own.get("gate")
    if own is not None:
        parts = sorted(set(own.values()))
        listed = f": {', '.join(parts)}" if 0 < len(parts) <= _LISTED else f", {len(parts)} parts"
        yield (
            f"{len(own)} of {groups} groups have a part of their own by their "
            f"{GATE_NAMES[found.kind]}{listed}."
        )


def _few(score: PartScore) -> str:
    names = [part.region for part in score.parts]
    return ", ".join(names) if len(names) <= _LISTED else f"{len(names)} parts"


def tables(found: Explanation) -> Iterator[Table]:
    """The measures, with their intervals."""
    names = {"before": "before", "gate": GATE_NAMES[found.kind], "after": "after"}
    for key, score in found.scores.items():
        yield Table(
            f"The best group for each part, by the maps {_article(names[key])}",
            ("part", "points at it", "95 % interval", "chance", "above chance", "groups"),
            tuple(_row(part) for part in score.parts),
            "A group is chosen in one half of the images and counted in the other, both ways; the "
            "figures are the means of both. Chance: a cell drawn blindly or, where that is more, "
            "the same group's maps of other images. Above chance: 0 is chance, 1 always.",
        )
    if found.own:
        total = sum(len(survey.mean("gate")) for survey in found.seen.surveys.values())
        yield Table(
            "Groups with a part of their own",
            ("map", "groups", "parts"),
            tuple(
                (names[key], f"{len(own)} of {total}", ", ".join(sorted(set(own.values()))) or "–")
                for key, own in found.own.items()
            ),
            f"They point at it in {100 * OWN:.0f} % of the images or more, and more often than "
            "shuffled positions and their maps of other images do (tests with a false discovery "
            "rate of 5 % over all groups and parts).",
        )
    if found.data.whole is not None and "gate" in found.findings:
        yield _suppression(found)
    if found.stability:
        yield _stability(found)
    yield Table(
        "Layers",
        ("layer", "map", "groups", "selectivity", "lowest, mean, highest", "variance after/before"),
        tuple(_layer_row(found, name) for name in found.seen.surveys),
        "Selectivity: a map's standard deviation over positions by its mean, mean over images.",
    )


def _article(name: str) -> str:
    return {"before": "before the layer", "after": "after the layer"}.get(name, f"of the {name}")


def _row(part: Found) -> tuple[str, ...]:
    pairs = list(
        dict.fromkeys(f"{g} of {name}" for name, g in zip(part.layers, part.groups, strict=True))
    )
    return (
        part.region,
        f"{100 * part.pointing:.0f} %",
        f"{100 * part.low:.0f} to {100 * part.high:.0f} %",
        f"{100 * part.chance:.0f} %",
        f"{part.score:.2f}",
        "; ".join(pairs),
    )


def _suppression(found: Explanation) -> Table:
    rows = []
    whole = str(found.data.whole)
    for name in found.seen.surveys:
        cells = [name]
        for key in ("gate", "before", "after"):
            mine = [
                row
                for row in found.findings.get(key, [])
                if row.layer == name and row.region == whole
            ]
            if not mine:
                cells += ["–", "–"]
                continue
            contrast = float(np.exp(np.mean([np.log(row.contrast) for row in mine])))
            best = max(mine, key=lambda row: row.auroc)
            span = f"{best.auroc_low:.2f}–{best.auroc_high:.2f}"
            cells += [f"{contrast:.2f}", f"{best.auroc:.2f} ({span})"]
        rows.append(tuple(cells))
    gate = GATE_NAMES[found.kind]
    return Table(
        f"{whole.capitalize()} against background",
        (
            "layer",
            *(f"{gate}, inside ÷ outside", f"{gate}, best AUROC"),
            *("before, inside ÷ outside", "before, best AUROC"),
            *("after, inside ÷ outside", "after, best AUROC"),
        ),
        tuple(rows),
        "Inside ÷ outside: mean over groups and images (geometric), 1 where nothing is suppressed. "
        "AUROC of the group with the highest, chosen on the same images, with its 95 % interval "
        "over images; 0.5 at shuffled positions.",
    )


def _stability(found: Explanation) -> Table:
    rows = []
    for entry in found.stability:
        first = entry.name == "none"
        rows.append(
            (
                _DISTURBANCES[entry.name],
                "–" if first else _correlation(entry),
                "–" if entry.accuracy is None else f"{100 * entry.accuracy:.1f} %",
                "–" if entry.pull is None else f"{entry.pull:.2f}",
            )
        )
    images = max(entry.images for entry in found.stability)
    return Table(
        "When the picture is disturbed",
        ("disturbance", "correlation of maps", "top-1", "on the look-alike ÷ background"),
        tuple(rows),
        f"{images} images. Correlation over positions of each group's {GATE_NAMES[found.kind]} "
        "with and without, mean over groups and layers, 95 % interval over images; constant maps "
        "are left out. A background that replaces another has its own object filled with its mean "
        "colour.",
    )


def _correlation(entry: Stability) -> str:
    if not np.isfinite(entry.correlation):
        return "–"  # all maps are constant
    if not np.isfinite(entry.low):
        return f"{entry.correlation:.2f}"
    return f"{entry.correlation:.2f} ({entry.low:.2f}–{entry.high:.2f})"


def _layer_row(found: Explanation, name: str) -> tuple[str, ...]:
    survey = found.seen.surveys[name]
    low, mean, high = (float(survey.mean(key).mean()) for key in ("lowest", "gate", "highest"))
    before, after = (float(survey.variance(key).mean()) for key in ("before", "after"))
    return (
        name,
        f"{survey.size[0]} × {survey.size[1]}",
        str(len(survey.mean("gate"))),
        f"{float(survey.mean('selectivity').mean()):.3f}",
        f"{low:.2f}, {mean:.2f}, {high:.2f}",
        f"{after / before:.2f}" if before > 0 else "–",
    )
