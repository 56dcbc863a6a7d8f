"""Pages of known maps, and what a browser's tab says of them."""

import base64
import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, expect
from playwright.sync_api import Page as Tab

from sgekit.explanation.page import (
    GroupEntry,
    ImageEntry,
    ImageMaps,
    LayerEntry,
    Page,
    RegionScore,
    Table,
    tiles,
)
from sgekit.figures.pictures import Picture

HOSTILE = "</script><img src=x onerror=alert(1)><!-- <script> &amp; \"'"
NAN = float("nan")
SIZES = ((96, 64), (64, 96), (64, 64))  # width, height of the pictures
CELLS = ((4, 6), (6, 4), (5, 5))  # rows, columns of their maps
INDICES = (3, 5, 17, 40)
SELECTIVITY = (0.1, 0.4, 0.3, 0.2)
EYES = (0.25, NAN, 0.75, 0.5)
Maps = dict[tuple[str, int], tuple[NDArray[np.float32], NDArray[np.float32]]]


def known_maps() -> Maps:
    """Gate and length before (G, h, w) by layer and image; group 40 of stem has constant gates."""
    random = np.random.default_rng(0)
    maps: Maps = {}
    for layer, top in (("stem", 1.0), ("plain", 1.0), ("other", 1.6)):
        for image, cells in enumerate(CELLS):
            gate = random.uniform(0.05, top, (4, *cells)).astype(np.float32)
            if layer == "stem":
                gate[3] = 0.5
            maps[layer, image] = gate, random.uniform(0, 5, (4, *cells)).astype(np.float32)
    return maps


MAPS = known_maps()


def score(pointing: float) -> RegionScore:
    return RegionScore(pointing, pointing - 0.1, pointing + 0.1, 0.3, 0.8, pointing > 0.6)


def layer_of(name: str, kind: str) -> LayerEntry:
    groups = tuple(
        GroupEntry(index, selectivity, {"eyes": score(eyes), "tail": score(0.2)})
        for index, selectivity, eyes in zip(INDICES, SELECTIVITY, EYES, strict=True)
    )
    maps: tuple[ImageMaps, ...] = tuple(maps_of(*MAPS[name, image]) for image in range(len(CELLS)))
    return LayerEntry(name, kind, 64, groups, maps)


def uri(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def photo(width: int, height: int, title: str = "a fox", source: str = "fox.jpg") -> ImageEntry:
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    return ImageEntry(title, source, uri(picture, "JPEG"), width, height)


def maps_of(gate: NDArray[np.float32], before: NDArray[np.float32]) -> ImageMaps:
    return ImageMaps(gate.shape[1], gate.shape[2], tiles(gate), tiles(before))


def drawing(caption: str = "A figure.") -> Picture:
    light = uri(Image.new("RGB", (40, 20), "white"), "PNG")
    dark = uri(Image.new("RGB", (40, 20), "black"), "PNG")
    return Picture(light, dark, "A white or a black rectangle.", caption)


def smallest(text: str = "plain") -> Page:
    """A page of one image and one group, without regions, tables and figures."""
    gate = np.full((1, 2, 2), 0.5, np.float32)
    layer = LayerEntry(text, "gate", 1, (GroupEntry(0, 0.0, {}),), (maps_of(gate, 2 * gate),))
    return Page(text, (), (photo(8, 8, text, text),), (layer,), (), (), (), ())


def full() -> Page:
    """A layer of each kind, four groups, three images, and all else that a page may have."""
    return Page(
        title="sge_resnet18 on " + "long/" * 30,
        summary=("Four of 64 groups are shown.",),
        images=tuple(photo(*size, f"scene {at}", "val") for at, size in enumerate(SIZES)),
        layers=(
            layer_of("stem", "gate"),
            layer_of("plain", "similarity"),
            layer_of("other", "ratio"),
        ),
        regions=("eyes", "tail", "never_measured"),
        tables=(Table("Found", tuple("abcdefgh"), (("wide columns",) * 8,), "A note."),),
        figures=(drawing(),),
        details=(("command", "sgekit explain --data " + "long/" * 40),),
        limit="3 of 100 images.",
    )


def opened(tab: Tab, address: str) -> None:
    tab.goto("about:blank")  # another hash alone would not load the page anew
    tab.goto(address)
    settled(tab)


def settled(tab: Tab) -> None:
    expect(tab.locator("#explorer")).to_have_attribute("aria-busy", "false")


def checked(tab: Tab, name: str) -> Locator:
    return tab.get_by_role("radiogroup", name=name).get_by_role("radio", checked=True)


def listed(tab: Tab) -> list[str]:
    return tab.locator("#groups .tile span").all_inner_texts()


def numbers(text: str) -> list[float]:
    return [
        float(found)
        for found in re.findall(r"(?:gate|before|after|similarity|ratio) (\S+?)(?:,|$)", text)
    ]


def expected(layer: str, image: int, group: int, row: int, column: int) -> list[float]:
    gate, before = (maps[group, row, column] for maps in MAPS[layer, image])
    return [float(gate), float(before), float(gate * before)]


def near(layer: str, image: int, group: int) -> NDArray[np.float64]:
    """How far gate, before and after may be off: half a step each, and half a digit as written."""
    gate, before = (np.ptp(maps[group]) / 510 for maps in MAPS[layer, image])
    after = gate * 5 + before * 1.6
    return np.array([gate, before, after], np.float64) + 0.0006


def hover(tab: Tab, row: int, column: int, cells: tuple[int, int]) -> None:
    view = tab.locator("#view")
    width, height = view.evaluate("view => [view.clientWidth, view.clientHeight]")
    rows, columns = cells
    view.hover(position={"x": (column + 0.5) * width / columns, "y": (row + 0.5) * height / rows})
