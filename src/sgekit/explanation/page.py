"""The page: where each group of an attention layer looks, in one self-contained HTML file."""

import base64
import io
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from sgekit.errors import InputError
from sgekit.figures.gates import FLAT
from sgekit.figures.pictures import Picture
from sgekit.files import write_atomic

KINDS = ("gate", "similarity", "ratio")
_STEPS = 255
# Dark to light without a change of hue that colour-blind readers would miss.
_COLOURS = "cividis"


@dataclass(frozen=True)
class Tiles:
    """Maps below each other in one greyscale PNG, each between its own lowest and highest value.

    ``uri``: the PNG, (G * h, w) pixels; a pixel v of map g means
    ``low[g] + (high[g] - low[g]) * v / 255``.
    """

    uri: str
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class ImageMaps:
    """The maps of one layer for one image, (height, width) cells, tiles in the order of its groups.

    ``gate`` is the factor (or what the layer's kind says), ``before`` the length of the group's
    vector before it; the length after is their product.
    """

    height: int
    width: int
    gate: Tiles
    before: Tiles


@dataclass(frozen=True)
class RegionScore:
    """How well a group finds a region; fractions, NaN where there is nothing to measure.

    ``pointing``: share of images whose strongest cell lies in the region, ``low`` to ``high`` its
    95 % interval; ``chance``: the same without following the region, see `Tally.chance_of`;
    ``auroc``: how often a cell in the region is stronger than one outside; ``significant``:
    pointing is above chance.
    """

    pointing: float
    low: float
    high: float
    chance: float
    auroc: float
    significant: bool


@dataclass(frozen=True)
class GroupEntry:
    """One group: its number in the layer, selectivity, and score for each measured region."""

    index: int
    selectivity: float
    regions: dict[str, RegionScore]


@dataclass(frozen=True)
class LayerEntry:
    """One layer: ``groups`` of its ``total`` groups, and one `ImageMaps` an image.

    ``kind``: ``gate`` (SGE's factor), ``similarity`` (a network without attention: the map that SGE
    would compute) or ``ratio`` (another attention: length after by length before, may exceed 1).
    """

    name: str
    kind: str
    total: int
    groups: tuple[GroupEntry, ...]
    maps: tuple[ImageMaps, ...]


@dataclass(frozen=True)
class ImageEntry:
    """A picture as a data URI, its size in pixels, and where it is from."""

    title: str
    source: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Table:
    """A table of texts; the first cell of a row is its heading."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All that the page shows; ``limit`` says what was left out, empty where nothing was."""

    title: str
    summary: tuple[str, ...]
    images: tuple[ImageEntry, ...]
    layers: tuple[LayerEntry, ...]
    regions: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[Picture, ...]
    details: tuple[tuple[str, str], ...]
    limit: str = ""


def tiles(maps: NDArray[np.float32]) -> Tiles:
    """Maps (G, h, w) in 256 steps each, as one PNG of (G * h, w) pixels.

    A value read back is off by half a step of its map at most, (high - low) / 510; constant maps
    are exact. Raises `InputError` where the array has another number of dimensions, is empty or
    holds a number that is not finite.
    """
    if maps.ndim != 3 or maps.size == 0:
        raise InputError(f"maps have the shape (groups, height, width), none 0, not {maps.shape}")
    if not np.isfinite(maps).all():
        groups = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))
        raise InputError(
            f"{len(groups)} of {len(maps)} maps hold NaN or infinity, first map {groups[0]}: "
            "a network that computes finite numbers on the image is needed"
        )
    # In float64 the range of two float32 numbers cannot overflow.
    exact = maps.astype(np.float64)
    low = exact.min(axis=(1, 2), keepdims=True)
    high = exact.max(axis=(1, 2), keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    steps = np.rint((exact - low) / span * _STEPS).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(steps.reshape(-1, maps.shape[2])).save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Tiles(uri, tuple(low.ravel().tolist()), tuple(high.ravel().tolist()))


def write_page(page: Page, path: Path) -> Path:
    """Write the page to ``path``; returns it. It needs no other file and no network.

    The file is replaced atomically. Raises `InputError` where it cannot be written, and where the
    page has no image or no layer or its parts don't fit each other: an unknown kind, no groups,
    other than one `ImageMaps` an image, other than one tile a group.
    """
    _check(page)
    template = _environment().get_template("explain.html.j2")
    kinds = [kind for kind in KINDS if any(layer.kind == kind for layer in page.layers)]
    html = template.render(page=page, kinds=kinds, data=_data(page), maps=_maps(page))
    # Names of files may hold bytes that are no text; they cost a character, not the page.
    write_atomic(path, html.encode(errors="replace"))
    return path


def _check(page: Page) -> None:
    for name, parts in (("image", page.images), ("layer", page.layers)):
        if not parts:
            raise InputError(f"the page has no {name}: at least 1 is needed")
    for layer in page.layers:
        if layer.kind not in KINDS:
            raise InputError(
                f"{layer.name}: no kind {layer.kind!r}; choose from {', '.join(KINDS)}"
            )
        if not layer.groups:
            raise InputError(f"{layer.name}: no groups; at least 1 is needed")
        if len(layer.maps) != len(page.images):
            raise InputError(
                f"{layer.name}: maps of {len(layer.maps)} images on a page of {len(page.images)}"
            )
        for maps in layer.maps:
            counts = {len(ends) for t in (maps.gate, maps.before) for ends in (t.low, t.high)}
            if counts != {len(layer.groups)}:
                raise InputError(
                    f"{layer.name}: {sorted(counts)} tiles for {len(layer.groups)} groups"
                )


def _maps(page: Page) -> list[Markup]:
    """The maps of each layer and image, layer by layer: parsed only where they are looked at."""
    return [_json(asdict(maps)) for layer in page.layers for maps in layer.maps]


def _data(page: Page) -> Markup:
    """What the script shows besides the maps."""
    parts = {
        "images": [asdict(image) for image in page.images],
        "layers": [asdict(replace(layer, maps=())) for layer in page.layers],
        "regions": page.regions,
        "flat": FLAT,
        "colours": _colours(),
    }
    return _json(parts)


def _json(parts: Any) -> Markup:
    """JSON that no text in it can leave."""
    text = json.dumps(_plain(parts), allow_nan=False, separators=(",", ":"))
    # "<" alone opens all that ends or hides a script element: "</script", "<!--".
    return Markup(text.replace("<", "\\u003c"))


def _plain(value: Any) -> Any:
    """The value with floats as JSON has them: null for NaN, and no more digits than float32 has."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _colours() -> str:
    """The 256 colours of the maps, six hexadecimal digits each."""
    rgb = colormaps[_COLOURS](np.arange(256), bytes=True)[:, :3]
    return np.asarray(rgb, dtype=np.uint8).tobytes().hex()


def _environment() -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader("sgekit.explanation"), PackageLoader("sgekit.figures")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
