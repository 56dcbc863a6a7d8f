"""Figures of what groups look at: maps over pictures, and a data set's sums."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from sgekit.analysis.survey import BINS, LayerSurvey, class_selectivity
from sgekit.explanation.look import Shown
from sgekit.figures.gates import FLAT
from sgekit.figures.style import LIGHT, Theme, figure, note, style

WIDTH = 4.9
GATE_NAMES = {"gate": "gate", "similarity": "similarity", "ratio": "after ÷ before"}
# Of a heat map's rows and columns so many can be told apart at this width.
_CLASSES, _GROUPS = 24, 32
# Dark to light without a change of hue that colour-blind readers would miss.
_MAP = "cividis"
# How light the map's colours are where the picture is black.
_SHADE = 0.45


def overlays(
    shown: Shown,
    layer: str,
    groups: Sequence[int],
    kind: str,
    theme: Theme = LIGHT,
    *,
    extra: tuple[str, NDArray[np.float32]] | None = None,
) -> Figure:
    """The picture, and over it for each group the lengths before, the gate, the lengths after.

    Before and after share one scale within a row. Each gate runs from its lowest to its highest
    value, which stand under it; a constant one is drawn flat. ``extra`` is one more map (H, W)
    between 0 and 1 with its name, over the picture in the first column.
    """
    before, gate = (values[list(groups)].numpy() for values in shown.maps[layer])
    after = before if kind == "similarity" else before * gate
    rows = max(len(groups), 2 if extra else 1)
    drawn = figure(WIDTH, 0.3 + 1.2 * rows, theme)
    grid = drawn.add_gridspec(rows, 4)
    size = shown.picture.size
    _picture(drawn, grid[0, 0], shown.picture, "image", theme)
    if extra is not None:
        name, values = extra
        _picture(drawn, grid[1, 0], over(shown.picture, values, 0.0, 1.0), name, theme)
    for row, group in enumerate(groups):
        top = float(max(before[row].max(), after[row].max(), np.finfo(np.float32).tiny))
        low, high = float(gate[row].min()), float(gate[row].max())
        ends = (low, high) if high - low >= FLAT else (low - 0.5, low + 0.5)
        cells = (
            ("before", before[row], 0.0, top),
            (GATE_NAMES[kind], gate[row], *ends),
            ("after", after[row], 0.0, top),
        )
        for column, (title, values, darkest, lightest) in enumerate(cells, start=1):
            image = over(shown.picture.resize(size), values, darkest, lightest)
            axes = _picture(drawn, grid[row, column], image, title if row == 0 else "", theme)
            if column == 1:
                axes.set_ylabel(f"group {group}", color=theme.ink, fontsize=9)
            if column == 2:
                axes.set_xlabel(f"{low:.2f} to {high:.2f}", color=theme.muted, fontsize=9)
    return drawn


def over(picture: Image.Image, values: NDArray[np.float32], low: float, high: float) -> Image.Image:
    """The picture in grey under the map's colours, smoothly enlarged; ``low`` is the darkest."""
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    large = Image.fromarray(scaled).resize(picture.size, Image.Resampling.BILINEAR)
    colours = colormaps[_MAP](np.asarray(large))[..., :3]
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255
    # Light where the picture is light, so that its shapes are seen through the colours.
    mixed = colours * (_SHADE + (1 - _SHADE) * grey)
    return Image.fromarray((255 * np.clip(mixed, 0, 1)).round().astype(np.uint8))


def _picture(
    drawn: Figure, place: SubplotSpec, image: Image.Image, title: str, theme: Theme
) -> Axes:
    axes = drawn.add_subplot(place)
    axes.imshow(np.asarray(image.convert("RGB")), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, color=theme.ink, fontsize=10)
    return axes


def histogram(surveys: Mapping[str, LayerSurvey], theme: Theme = LIGHT) -> Figure:
    """How often lengths are how large before and after, one panel a layer, at most four."""
    names = spread(list(surveys), 4)
    drawn = figure(WIDTH, 0.5 + 1.45 * len(names), theme)
    for row, name in enumerate(names):
        survey = surveys[name]
        axes = drawn.add_subplot(len(names), 1, row + 1)
        edges = np.linspace(0, survey.top, BINS + 1)
        lines = [("before", theme.baseline, "--"), ("after", theme.contenders[0], "-")]
        for key, colour, dash in lines[: 1 if survey.kind == "similarity" else 2]:
            counts = survey.histogram[key].numpy()
            axes.stairs(100 * counts / counts.sum(), edges, color=colour, linestyle=dash, label=key)
        style(axes, theme)
        axes.set_title(name, color=theme.ink, fontsize=10, loc="left")
        axes.yaxis.set_major_locator(MaxNLocator(3))
        if row == 0:
            axes.legend(frameon=False, labelcolor=theme.ink, fontsize=10)
    drawn.supxlabel("length of a group's vector at a position", color=theme.ink, fontsize=10)
    drawn.supylabel("% of positions", color=theme.ink, fontsize=10)
    return drawn


def variance(surveys: Mapping[str, LayerSurvey], theme: Theme = LIGHT) -> Figure:
    """Each group's variance of lengths over all images, after against before."""
    drawn = figure(WIDTH, 4.2, theme)
    axes = drawn.add_subplot()
    drawn_any = False
    for index, name in enumerate(spread(list(surveys), 6)):
        survey = surveys[name]
        before, after = (survey.variance(key).numpy() for key in ("before", "after"))
        kept = (before > 0) & (after > 0)
        if survey.kind == "similarity" or not kept.any():
            continue
        drawn_any = True
        marker = "os^Dv*"[index]
        colour = theme.contenders[index % len(theme.contenders)]
        axes.scatter(
            before[kept], after[kept], s=16, color=colour, marker=marker, alpha=0.75, label=name
        )
    if not drawn_any:
        note(axes, "No layer of this network changes its maps.", theme)
        return drawn
    style(axes, theme)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = [
        min(axes.get_xlim()[0], axes.get_ylim()[0]),
        max(axes.get_xlim()[1], axes.get_ylim()[1]),
    ]
    axes.plot(ends, ends, color=theme.muted, linewidth=0.8, zorder=0)
    axes.set_xlabel("variance before")
    axes.set_ylabel("variance after")
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    return drawn


def through_layers(surveys: Mapping[str, LayerSurvey], theme: Theme = LIGHT) -> Figure:
    """Each layer's gates: the mean of every group, and the mean lowest and highest."""
    drawn = figure(WIDTH, 3.9, theme)
    axes = drawn.add_subplot()
    places = range(len(surveys))
    for place, survey in zip(places, surveys.values(), strict=True):
        means = survey.mean("gate").numpy()
        low, high = (float(survey.mean(key).mean()) for key in ("lowest", "highest"))
        axes.plot([place, place], [low, high], color=theme.grid, linewidth=7, zorder=1)
        axes.scatter(
            [place] * len(means), means, s=9, color=theme.contenders[0], alpha=0.6, zorder=2
        )
    style(axes, theme)
    axes.set_xticks(list(places), _short(list(surveys)), rotation=60, ha="right", fontsize=9)
    kinds = {survey.kind for survey in surveys.values()}
    axes.set_ylabel(GATE_NAMES[kinds.pop()] if len(kinds) == 1 else "gate")
    return drawn


def classes(survey: LayerSurvey, names: Sequence[str], layer: str, theme: Theme = LIGHT) -> Figure:
    """Groups by classes: how far a class's mean activation is above the group's mean over classes.

    The groups that answer most to one class alone first, and at most 32 of them; at most 24
    classes, those with the largest departures.
    """
    drawn = figure(WIDTH, 4.4, theme)
    axes = drawn.add_subplot()
    means, counts = survey.class_means(), survey.class_images
    if means is None or counts is None or int((counts > 0).sum()) < 2:
        note(axes, "Two classes with images are needed.", theme)
        return drawn
    known = (counts > 0).nonzero().flatten()
    index = class_selectivity(means, counts)
    order = torch.sort(index, descending=True, stable=True).indices[:_GROUPS]
    level = means[known].mean(0, keepdim=True)
    departures = 100 * (means[known] / level.clamp_min(1e-12) - 1)[:, order]
    rows = departures.abs().amax(1).sort(descending=True, stable=True).indices[:_CLASSES]
    rows = rows.sort().values
    shown = departures[rows].numpy()
    top = float(np.abs(shown).max()) or 1.0
    image = axes.imshow(shown, cmap="PuOr_r", vmin=-top, vmax=top, aspect="auto")
    labels = [names[int(known[row])] for row in rows]
    axes.set_yticks(range(len(labels)), labels, color=theme.ink, fontsize=8)
    some = range(0, len(order), max(1, len(order) // 16))
    axes.set_xticks(list(some), [str(int(order[i])) for i in some], color=theme.muted, fontsize=8)
    axes.set_xlabel(f"group of {layer}", color=theme.ink, fontsize=10)
    bar = drawn.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("above the mean over classes, %", color=theme.ink, fontsize=9)
    bar.ax.tick_params(colors=theme.muted, labelsize=8)
    return drawn


def best_layer(surveys: Mapping[str, LayerSurvey], k: int = 4, least: int = 7) -> str:
    """The layer whose ``k`` groups are the most selective.

    Among those of ``least`` cells a side, or among all, where none has: a coarser map shows where a
    group looks hardly better than a word.
    """
    large = [name for name, survey in surveys.items() if min(survey.size) >= least]

    def score(name: str) -> float:
        values = surveys[name].mean("selectivity")
        return float(values.topk(min(k, len(values))).values.mean())

    return max(large or list(surveys), key=score)


def top_groups(survey: LayerSurvey, k: int) -> list[int]:
    """The ``k`` most selective groups over all images."""
    order = torch.sort(survey.mean("selectivity"), descending=True, stable=True).indices
    return [int(group) for group in order[:k]]


def spread(names: list[str], most: int) -> list[str]:
    """At most so many of the names, evenly, the first and the last among them."""
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def _short(names: list[str]) -> list[str]:
    """Without the last component where all share it."""
    ends = {name.rpartition(".")[2] for name in names}
    return [name.rpartition(".")[0] or name for name in names] if len(ends) == 1 else names
