"""The creatures of the built-in scenes: which parts each class has, and how the parts are drawn.

Local units: the head's radius is about 0.7, u points right, v points down, (0, 0) is the neck.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sgekit.data.drawing import (
    Canvas,
    Colour,
    Distance,
    Floats,
    Frame,
    Shape,
    ellipse,
    polygon,
    stroke,
)

PARTS = ("body", "feet", "tail", "ears", "head", "eyes", "nose")
"""Names of the parts; a part's number in a mask is its place here plus one."""


@dataclass(frozen=True)
class Anatomy:
    """The four choices that tell a class."""

    ears: str
    eyes: str
    nose: str
    tail: str


ANATOMY: dict[str, Anatomy] = {
    "cat": Anatomy("pointed", "wide", "triangle", "thin"),
    "fox": Anatomy("pointed", "close", "button", "bushy"),
    "owl": Anatomy("pointed", "close", "beak", "none"),
    "bear": Anatomy("round", "wide", "button", "puff"),
    "mouse": Anatomy("round", "close", "triangle", "thin"),
    "tapir": Anatomy("round", "wide", "trunk", "none"),
    "hare": Anatomy("long", "wide", "triangle", "puff"),
    "donkey": Anatomy("long", "close", "button", "thin"),
    "elephant": Anatomy("drooping", "close", "trunk", "thin"),
    "spaniel": Anatomy("drooping", "wide", "button", "bushy"),
    "duck": Anatomy("none", "wide", "beak", "puff"),
    "seal": Anatomy("none", "close", "triangle", "bushy"),
}
"""Every ear, eye, nose and tail is shared by two classes or more; two classes differ in two parts
or more, so no single part tells a class and none has to be told by one detail alone."""


@dataclass(frozen=True)
class Coat:
    """Colours and pattern of one creature; none of them depends on the class."""

    main: Colour
    second: Colour
    outline: Colour
    nose: Colour
    pattern: str  # "plain", "spots", "stripes" or "belly"


_EARS: dict[str, tuple[Shape, ...]] = {
    "none": (),
    "pointed": (
        polygon(((-0.72, -0.62), (-0.62, -1.48), (-0.1, -1.0)), 0.04),
        polygon(((0.72, -0.62), (0.62, -1.48), (0.1, -1.0)), 0.04),
    ),
    "round": (ellipse(-0.6, -1.1, 0.34, 0.34), ellipse(0.6, -1.1, 0.34, 0.34)),
    "long": (
        ellipse(-0.32, -1.52, 0.19, 0.62, -0.16),
        ellipse(0.32, -1.52, 0.19, 0.62, 0.16),
    ),
    "drooping": (
        ellipse(-0.8, -0.35, 0.24, 0.56, 0.22),
        ellipse(0.8, -0.35, 0.24, 0.56, -0.22),
    ),
}
_EYES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "wide": ((-0.44, -0.68, 0.17), (0.44, -0.68, 0.17)),
    "close": ((-0.21, -0.7, 0.22), (0.21, -0.7, 0.22)),
}
_NOSES: dict[str, Shape] = {
    "button": ellipse(0.0, -0.28, 0.24, 0.18),
    "triangle": polygon(((-0.17, -0.36), (0.17, -0.36), (0.0, -0.14)), 0.03),
    "beak": polygon(((-0.24, -0.46), (0.24, -0.46), (0.0, 0.16)), 0.04),
    "trunk": stroke(((0.0, -0.4), (0.02, 0.05), (0.2, 0.38)), (0.19, 0.16, 0.13)),
}
_TAILS: dict[str, Shape] = {
    "thin": stroke(
        ((0.45, 1.1), (0.95, 1.1), (1.2, 0.75), (1.15, 0.35), (1.4, 0.12)),
        (0.09, 0.09, 0.08, 0.08, 0.07),
    ),
    "bushy": stroke(
        ((0.5, 1.1), (0.95, 0.95), (1.2, 0.5), (1.22, 0.1)),
        (0.12, 0.28, 0.36, 0.1),
    ),
    "puff": ellipse(0.82, 0.98, 0.27, 0.27),
}
_BODY = ellipse(0.0, 0.62, 0.66, 0.74)
_HEAD = ellipse(0.0, -0.55, 0.76, 0.68)
_FEET = (ellipse(-0.38, 1.3, 0.28, 0.17), ellipse(0.38, 1.3, 0.28, 0.17))


def _spots(u: Floats, v: Floats) -> Floats:
    p = u * np.float32(2.6)
    q = v * np.float32(2.6)
    p = p - np.floor(p) - np.float32(0.5)
    q = q - np.floor(q) - np.float32(0.5)
    spots: Floats = (np.sqrt(p * p + q * q) - np.float32(0.28)) / np.float32(2.6)
    return spots


def _stripes(u: Floats, v: Floats) -> Floats:
    p = (v + u * np.float32(0.25)) * np.float32(2.2)
    p = np.abs(p - np.floor(p) - np.float32(0.5))
    stripes: Floats = (p - np.float32(0.2)) / np.float32(2.2)
    return stripes


PATTERNS: dict[str, Distance | None] = {
    "plain": None,
    "spots": _spots,
    "stripes": _stripes,
    "belly": ellipse(0.0, 0.72, 0.4, 0.5).distance,
}


def draw_creature(
    canvas: Canvas,
    frame: Frame,
    anatomy: Anatomy,
    coat: Coat,
    keep: frozenset[str] = frozenset(PARTS),
    *,
    marked: bool = True,
) -> None:
    """Paint the parts in `keep`; with marked=False (a distractor) they leave the mask at 0."""

    def number(part: str) -> int:
        return PARTS.index(part) + 1 if marked else 0

    def furry(part: str, *shapes: Shape, patterned: bool = False) -> None:
        pattern = PATTERNS[coat.pattern] if patterned else None
        for shape in shapes:
            canvas.paint(
                shape,
                frame,
                coat.main,
                part=number(part),
                outline=coat.outline,
                second=coat.second,
                pattern=pattern,
            )

    painters: dict[str, Callable[[], None]] = {
        "tail": lambda: furry("tail", *(_TAILS[anatomy.tail],) if anatomy.tail != "none" else ()),
        "feet": lambda: furry("feet", *_FEET),
        "body": lambda: furry("body", _BODY, patterned=True),
        # Drooping ears hang over the head, so they are painted after it.
        "ears": lambda: furry("ears", *_EARS[anatomy.ears]),
        "head": lambda: furry("head", _HEAD),
        "eyes": lambda: _eyes(canvas, frame, anatomy, number("eyes")),
        "nose": lambda: _nose(canvas, frame, anatomy, coat, number("nose")),
    }
    order = ["tail", "feet", "body", "ears", "head", "eyes", "nose"]
    if anatomy.ears == "drooping":
        order[3], order[4] = "head", "ears"
    for part in order:
        if part in keep:
            painters[part]()


def _eyes(canvas: Canvas, frame: Frame, anatomy: Anatomy, part: int) -> None:
    for u, v, radius in _EYES[anatomy.eyes]:
        canvas.paint(ellipse(u, v, radius, radius), frame, (0.97, 0.97, 0.95), part=part)
        pupil = radius * 0.58
        canvas.paint(ellipse(u, v + 0.02, pupil, pupil), frame, (0.05, 0.05, 0.08), part=part)


def _nose(canvas: Canvas, frame: Frame, anatomy: Anatomy, coat: Coat, part: int) -> None:
    # A trunk is furry; the others have a colour of their own, drawn from the same few for all.
    colour = coat.main if anatomy.nose == "trunk" else coat.nose
    canvas.paint(
        _NOSES[anatomy.nose],
        frame,
        colour,
        part=part,
        outline=coat.outline,
        outline_px=0.5,
    )
