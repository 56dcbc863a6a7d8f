"""What was found as files: report.html, figures, groups.csv, and plain values for results.json."""

import base64
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sgekit.analysis.survey import LayerSurvey
from sgekit.errors import InputError
from sgekit.explanation import figures
from sgekit.explanation.explained import Explanation
from sgekit.explanation.look import Shown
from sgekit.explanation.measures import Finding, PartScore
from sgekit.explanation.page import (
    GroupEntry,
    ImageEntry,
    ImageMaps,
    LayerEntry,
    Page,
    RegionScore,
    tiles,
    write_page,
)
from sgekit.explanation.tables import summary, tables
from sgekit.figures.pictures import Picture, picture, write_vector
from sgekit.figures.style import png
from sgekit.files import finite, write_atomic

MOST_BYTES = 6_500_000
"""Of the pictures and maps in the page; fewer groups of each layer are included beyond."""
_SIDE = 320
_DRAWN = 6
"""So many images get a figure of their own; the page holds all that are shown."""

Extra = tuple[str, NDArray[np.float32]]


def write_explanation(
    found: Explanation,
    out: Path,
    *,
    title: str,
    details: Sequence[tuple[str, str]] = (),
    layer: str | None = None,
    groups: Sequence[int] = (),
    top: int = 4,
    extras: Sequence[Extra] = (),
) -> Path:
    """Write everything into the folder ``out``; returns the report's path.

    ``layer`` is the one whose maps are drawn over the images (None: that with the most selective
    groups), ``groups`` the groups drawn (none: the ``top`` most selective). ``extras`` are one more
    map for each shown image, such as Grad-CAM's. Raises `InputError` for a group that there is not
    and a folder that cannot be written.
    """
    layer, groups = drawn_groups(found.seen.surveys, layer, groups, top)
    for file in out.glob("*"):  # of an earlier run with more images, or with classes
        if re.fullmatch(r"(image-\d+|classes)\.(png|svg)", file.name):
            file.unlink()
    _images(found, out, layer, groups, extras)
    drawn = _figures(found, out, layer)
    write_csv(found, out / "groups.csv")
    entries, limit = page_layers(found, layer)
    page = Page(
        title=title,
        summary=tuple(summary(found)),
        images=tuple(_image(found, shown) for shown in found.seen.shown),
        layers=entries,
        regions=found.data.regions if found.findings else (),
        tables=tuple(tables(found)),
        figures=tuple(drawn),
        details=tuple(details),
        limit=limit,
    )
    return write_page(page, out / "report.html")


def drawn_groups(
    surveys: Mapping[str, LayerSurvey], layer: str | None, groups: Sequence[int], top: int = 4
) -> tuple[str, list[int]]:
    """The layer and the groups that are drawn; `InputError` for a group that there is not."""
    layer = figures.best_layer(surveys, top) if layer is None else layer
    if layer not in surveys:
        raise InputError(f"{layer} has maps of one position here; choose from {', '.join(surveys)}")
    count = len(surveys[layer].mean("selectivity"))
    for group in groups:
        if not 0 <= group < count:
            raise InputError(f"{layer} has no group {group}; its groups are 0 to {count - 1}")
    return layer, list(groups) or figures.top_groups(surveys[layer], top)


def _images(
    found: Explanation, out: Path, layer: str, groups: list[int], extras: Sequence[Extra]
) -> None:
    """Files only: in the page the same is picked and drawn there."""
    kind = found.seen.surveys[layer].kind
    for number, shown in enumerate(found.seen.shown[:_DRAWN], 1):
        extra = extras[number - 1] if extras else None
        _write(figures.overlays(shown, layer, groups, kind, extra=extra), out / f"image-{number}")


def _write(drawn: Figure, path: Path) -> None:
    write_atomic(path.with_suffix(".png"), png(drawn))
    write_vector(drawn, path.with_suffix(".svg"))


def _figures(found: Explanation, out: Path, layer: str) -> list[Picture]:
    surveys = found.seen.surveys
    plans: list[tuple[str, Any, str, str]] = [
        (
            "layers",
            partial(figures.through_layers, surveys),
            "Each layer's gates: " + "; ".join(_span(name, found) for name in surveys) + ".",
            "Gates through the layers. Dot: a group's mean; bar: from the mean lowest to the mean "
            "highest value of a map.",
        ),
        (
            "histogram",
            partial(figures.histogram, surveys),
            "How often the lengths of groups' vectors are how large, before and after.",
            "Lengths before and after, of every eighth position of all images.",
        ),
        (
            "variance",
            partial(figures.variance, surveys),
            "Each group's variance of lengths after the layer against that before.",
            "Variance of lengths over all images and positions, a dot a group; on the line nothing "
            "is changed.",
        ),
    ]
    survey = surveys[layer]
    if survey.by_class is not None:
        plans.append(
            (
                "classes",
                partial(figures.classes, survey, found.classes, layer),
                f"For groups of {layer} and classes, how far the class's mean activation is above "
                "the group's mean.",
                f"Groups of {layer} by class; those that answer to single classes first.",
            )
        )
    return [picture(name, draw, out, alt, text, vector=True) for name, draw, alt, text in plans]


def _span(name: str, found: Explanation) -> str:
    survey = found.seen.surveys[name]
    low, mean, high = (float(survey.mean(key).mean()) for key in ("lowest", "gate", "highest"))
    return f"{name} {low:.2f} to {high:.2f}, mean {mean:.2f}"


def caption(found: Explanation, shown: Shown) -> str:
    """What is written under an image: its class and what it was seen as, or its file's name."""
    names = found.classes
    guess = names[shown.likeliest] if names and shown.likeliest is not None else None
    label = names[shown.label] if names and shown.label is not None else None
    if label is not None and guess is not None:
        return label if label == guess else f"{label}, seen as {guess}"
    return f"seen as {guess}" if guess else Path(shown.source).name


def _image(found: Explanation, shown: Shown) -> ImageEntry:
    scale = min(1.0, _SIDE / max(shown.picture.size))
    size = tuple(max(1, round(side * scale)) for side in shown.picture.size)
    small = shown.picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    source = "/".join(Path(shown.source).parts[-2:])  # a report may be read elsewhere
    return ImageEntry(caption(found, shown), source, uri, *small.size)


def page_layers(found: Explanation, first: str) -> tuple[tuple[LayerEntry, ...], str]:
    """The layers' entries, that which is drawn first, and what had to be left out in words."""
    names = [first, *(name for name in found.seen.surveys if name != first)]
    # Only layers that every shown image has maps of: a detector's differ in size.
    names = [name for name in names if all(name in shown.maps for shown in found.seen.shown)]
    counts = {name: len(found.seen.surveys[name].mean("selectivity")) for name in names}
    scores = _region_scores(found)
    kept = max(counts.values())
    while True:
        entries = [_layer(found, name, min(kept, counts[name]), scores) for name in names]
        size = sum(
            len(one.gate.uri) + len(one.before.uri) for entry in entries for one in entry.maps
        )
        if size <= MOST_BYTES or kept == 1:
            break
        # Never to nothing: the page is then as large as it has to be.
        kept = max(1, int(kept * min(0.8, MOST_BYTES / size)))
    if all(entry.total == len(entry.groups) for entry in entries):
        return tuple(entries), ""
    return tuple(entries), (
        f"To keep this file small it holds {kept} groups of each layer: those with a part of their "
        "own and the most selective. groups.csv has the measures of all."
    )


def _layer(
    found: Explanation,
    name: str,
    count: int,
    scores: dict[tuple[str, int], dict[str, RegionScore]],
) -> LayerEntry:
    survey = found.seen.surveys[name]
    selectivity = survey.mean("selectivity")
    total = len(selectivity)
    own = {group for layer, group in found.own.get("gate", {}) if layer == name}
    order = sorted(range(total), key=lambda group: (group not in own, -float(selectivity[group])))
    groups = sorted(order[:count])
    return LayerEntry(
        name,
        survey.kind,
        total,
        tuple(
            GroupEntry(group, float(selectivity[group]), scores.get((name, group), {}))
            for group in groups
        ),
        tuple(_maps(shown.maps[name], groups) for shown in found.seen.shown),
    )


def _maps(maps: tuple[torch.Tensor, torch.Tensor], groups: list[int]) -> ImageMaps:
    before, gate = (values[groups].numpy().astype(np.float32) for values in maps)
    return ImageMaps(gate.shape[1], gate.shape[2], tiles(gate), tiles(before))


def _region_scores(found: Explanation) -> dict[tuple[str, int], dict[str, RegionScore]]:
    scores: dict[tuple[str, int], dict[str, RegionScore]] = {}
    for row in found.findings.get("gate", []):
        scores.setdefault((row.layer, row.group), {})[row.region] = RegionScore(
            row.pointing,
            row.pointing_low,
            row.pointing_high,
            row.chance,
            row.auroc,
            row.significant,
        )
    return scores


def write_csv(found: Explanation, path: Path) -> None:
    """Every group's measures, a row for each layer, group, map and region."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Finding)]
    head = ("layer", "group", "selectivity", "gate", "variance_before", "variance_after", "map")
    writer.writerow([*head, *names[2:]])
    rows: dict[tuple[str, int], list[tuple[str, Finding]]] = {}
    for key, findings in found.findings.items():
        for row in findings:
            rows.setdefault((row.layer, row.group), []).append((key, row))
    for name, survey in found.seen.surveys.items():
        columns = [survey.mean("selectivity"), survey.mean("gate")]
        columns += [survey.variance("before"), survey.variance("after")]
        for group in range(len(columns[0])):
            begin = [name, group, *(f"{float(column[group]):.6g}" for column in columns)]
            for key, finding in rows.get((name, group), []):
                values = [getattr(finding, field) for field in names[2:]]
                writer.writerow([*begin, key, *(_short(value) for value in values)])
            if (name, group) not in rows:
                writer.writerow(begin)
    write_atomic(path, text.getvalue().encode(errors="replace"))


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def plain(found: Explanation) -> dict[str, Any]:
    """The explanation as plain values, None for what is not a number."""
    result = {
        "data": {
            "name": found.data.name,
            "images": found.seen.images,
            "regions": list(found.data.regions),
            "parts": list(found.parts),
            "whole": found.data.whole,
            "skipped": found.seen.skipped,
        },
        "kind": found.kind,
        "top1": found.accuracy,
        "part_score": _score(found),
        "maps": {
            name: {
                "groups_with_a_part_of_their_own": len(found.own[name]),
                "groups": sum(len(s.mean("gate")) for s in found.seen.surveys.values()),
                "parts_of_their_own": sorted(set(found.own[name].values())),
                **_of_score(found.scores.get(name)),
            }
            for name in found.findings
        },
        "layers": {
            name: {
                "kind": survey.kind,
                "size": list(survey.size),
                "groups": len(survey.mean("gate")),
                **{
                    key: float(survey.mean(key).mean())
                    for key in ("selectivity", "gate", "lowest", "highest")
                },
                "variance_before": float(survey.variance("before").mean()),
                "variance_after": float(survey.variance("after").mean()),
            }
            for name, survey in found.seen.surveys.items()
        },
        "stability": [asdict(entry) for entry in found.stability],
    }
    content: dict[str, Any] = finite(result)
    return content


def _of_score(score: PartScore | None) -> dict[str, Any]:
    if score is None:
        return {"parts_found": None, "score": None, "low": None, "high": None, "parts": []}
    return {"parts_found": score.found, **asdict(score)}


def _score(found: Explanation) -> dict[str, Any] | None:
    score = found.score
    if score is None:
        return None
    return {"score": score.score, "low": score.low, "high": score.high, "found": score.found}
