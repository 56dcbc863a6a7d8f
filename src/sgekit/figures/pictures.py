"""Pictures of a report: embedded in the page, and as files beside it."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from sgekit.figures.style import DARK, LIGHT, Theme, png, svg
from sgekit.files import write_atomic

# Of photographs: coloured lines stay clean, and a strip of three noisy scenes has 250 KB.
_QUALITY = 88


@dataclass(frozen=True)
class Picture:
    """A figure in both themes as data URIs, with its text for those who don't see it."""

    light: str
    dark: str
    alt: str
    caption: str


def picture(
    name: str,
    draw: Callable[[Theme], Figure],
    out: Path,
    alt: str,
    caption: str,
    *,
    vector: bool = False,
) -> Picture:
    """The figure for a page; its light form is written to ``out`` as ``name``.png, and as
    ``name``.svg with ``vector``."""
    drawn = draw(LIGHT)
    light, dark = png(drawn), png(draw(DARK))
    write_atomic(out / f"{name}.png", light)
    if vector:
        write_vector(drawn, out / f"{name}.svg")
    return Picture(_uri(light, "png"), _uri(dark, "png"), alt, caption)


def write_vector(drawn: Figure, path: Path) -> None:
    """The figure as SVG, laid out as it was when it was drawn as PNG."""
    drawn.set_layout_engine("none")
    write_atomic(path, svg(drawn))


def photograph(name: str, image: Image.Image, out: Path, alt: str, caption: str) -> Picture:
    """An image for a page, the same in both themes; written to ``out`` as ``name``.jpg."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    content = buffer.getvalue()
    write_atomic(out / f"{name}.jpg", content)
    uri = _uri(content, "jpeg")
    return Picture(uri, uri, alt, caption)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
