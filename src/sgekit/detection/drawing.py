"""Pictures of detections: boxes, labels, scores and masks, drawn with Pillow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sgekit.data.detection import Target
from sgekit.detection.matching import Flags, Floats, Matches
from sgekit.errors import InputError

# Okabe and Ito, Color Universal Design (2008), without black.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
SMALLEST = 480
"""Pictures are enlarged until their longer side has this many pixels: 64 cannot hold a label."""

_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Object:
    box: _Box
    words: str
    colour: str
    mask: Flags | None


def draw_detections(
    image: Image.Image,
    found: Mapping[str, Tensor] | Target,
    classes: Sequence[str],
    *,
    threshold: float = 0.5,
) -> Image.Image:
    """``image`` with what was found in it, or with its annotation, on top; RGB, a new picture.

    A prediction is drawn where its score is at least ``threshold``, likeliest on top, with class
    and score; masks (N, 1, H, W) are probabilities, drawn above 0.5. A `Target` is drawn whole,
    crowds named as such. A picture smaller than `SMALLEST` pixels is enlarged by a whole number.
    Equal classes have equal colours; from the eighth class on they repeat, the name tells.

    Raises `InputError` for a label that ``classes`` do not name, masks of another size than the
    image, and a threshold outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not between 0 and 1")
    if isinstance(found, Target):
        objects = _annotated(found, classes)
    else:
        objects = _predicted(found, classes, threshold)
    scale = max(1, -(-SMALLEST // max(image.size)))
    drawn = image.convert("RGB")
    if scale > 1:
        drawn = drawn.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    for item in objects:
        if item.mask is not None:
            if item.mask.shape != (image.height, image.width):
                raise InputError(
                    f"a mask of {item.mask.shape} pixels on an image of "
                    f"{(image.height, image.width)} (height, width)"
                )
            _paint_mask(drawn, item.mask, item.colour)
    pen = ImageDraw.Draw(drawn)
    line = max(3, round(max(drawn.size) / 300))
    for item in objects:
        box = tuple(side * scale for side in item.box)
        _paint_box(pen, (box[0], box[1], box[2], box[3]), item.colour, line, drawn.size)
    _paint_labels(pen, objects, scale, drawn.size)
    return drawn


def sheet(
    pairs: Iterable[tuple[Image.Image, Image.Image, str]],
    titles: tuple[str, str] = ("annotated", "found"),
    width: int = 480,
) -> Image.Image:
    """Pairs of pictures below each other, each with a line of text, ``width`` pixels a picture.

    For example the worst images of a validation set with what is annotated beside what was found.
    Raises `InputError` where there is no pair.
    """
    font, gap = _font(max(12, width // 30)), max(6, width // 60)
    rows = [((_fit(left, width), _fit(right, width)), text) for left, right, text in pairs]
    if not rows:
        raise InputError("a sheet needs at least one pair of pictures")
    line = round(font.size * 1.5)
    height = line + sum(max(s.height for s in sides) + line + gap for sides, _ in rows)
    page = Image.new("RGB", (2 * width + 3 * gap, height + gap), "white")
    pen = ImageDraw.Draw(page)
    columns = gap, width + 2 * gap
    for left, title in zip(columns, titles, strict=True):
        pen.text((left, gap / 2), title, fill="black", font=font)
    top = line
    for sides, text in rows:
        pen.text((gap, top + gap / 2), text, fill="black", font=font)
        for left, side in zip(columns, sides, strict=True):
            page.paste(side, (left, top + line))
        top += line + max(side.height for side in sides) + gap
    return page


def image_scores(matches: Matches, threshold: float = 0.5) -> Floats:
    """How well each image (I,) was solved: F1 at overlap 0.5 of detections above ``threshold``.

    2·hits / (2·hits + false alarms + missed objects) over all classes, crowds left out. 1 where
    nothing is annotated and nothing found.
    """
    images = len(matches.image_ids)
    shown = matches.score >= threshold
    hits, counted = (
        np.bincount(matches.image[shown & flags[0, 0]], minlength=images)
        for flags in (matches.hit, matches.counts)
    )
    objects = np.bincount(matches.object_image[matches.object_counts[0]], minlength=images)
    both = counted + objects
    return np.where(both > 0, 2 * hits / np.maximum(both, 1), 1.0)


def best_and_worst(scores: Floats, count: int) -> tuple[list[int], list[int]]:
    """Indices of the ``count`` best images, best first, and worst, worst first; none in both.

    Equal ones come in their own order. Of fewer than 2·count images each half has its half.
    """
    count = min(count, (len(scores) + 1) // 2)
    order = np.argsort(-scores, kind="stable").tolist()
    best = order[:count]
    rest = np.argsort(scores, kind="stable").tolist()
    return best, [i for i in rest if i not in best][:count]


def _predicted(
    found: Mapping[str, Tensor], classes: Sequence[str], threshold: float
) -> list[_Object]:
    scores = found["scores"].detach().cpu()
    order = [int(i) for i in scores.argsort() if float(scores[i]) >= threshold]
    masks = found.get("masks")
    return [
        _Object(
            _as_box(found["boxes"][i].tolist()),
            f"{_name(int(found['labels'][i]), classes)} {float(scores[i]):.2f}",
            _colour(int(found["labels"][i])),
            None if masks is None else np.asarray((masks[i, 0].detach().cpu() > 0.5).numpy()),
        )
        for i in order
    ]


def _annotated(target: Target, classes: Sequence[str]) -> list[_Object]:
    return [
        _Object(
            _as_box(target.boxes[i].tolist()),
            _name(int(label), classes) + (" (crowd)" if target.crowd[i] else ""),
            _colour(int(label)),
            None if target.masks is None else target.masks[i] > 0,
        )
        for i, label in enumerate(target.labels)
    ]


def _as_box(corners: Sequence[float]) -> _Box:
    left, top, right, bottom = corners
    return left, top, right, bottom


def _name(label: int, classes: Sequence[str]) -> str:
    if not 1 <= label <= len(classes):
        raise InputError(f"label {label} has no name among {len(classes)} classes (1 is the first)")
    return classes[label - 1]


def _colour(label: int) -> str:
    return COLOURS[(label - 1) % len(COLOURS)]


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


def _paint_mask(drawn: Image.Image, mask: Flags, colour: str) -> None:
    cover = Image.fromarray(mask.astype(np.uint8) * np.uint8(110), mode="L")
    if cover.size != drawn.size:
        cover = cover.resize(drawn.size, Image.Resampling.NEAREST)
    drawn.paste(colour, (0, 0), cover)


def _paint_box(
    pen: ImageDraw.ImageDraw, box: _Box, colour: str, line: int, size: tuple[int, int]
) -> None:
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(size[0] - 1.0, box[2]), min(size[1] - 1.0, box[3])
    if right < left or bottom < top:
        return
    # A dark rim, so that a bright line is seen on a bright picture.
    pen.rectangle((left, top, right, bottom), outline="black", width=line + 2)
    if right - left > 2 and bottom - top > 2:
        pen.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=colour, width=line)


def _paint_labels(
    pen: ImageDraw.ImageDraw, objects: list[_Object], scale: int, size: tuple[int, int]
) -> None:
    """The topmost object's first; the others where they cover none of those, if there is room."""
    font = _font(max(12, round(max(size) / 45)))
    placed: list[_Box] = []
    for item in reversed(objects):
        box = [side * scale for side in item.box]
        low, high = (int(end) for end in pen.textbbox((0, 0), item.words, font=font)[1::2])
        wide, tall = pen.textlength(item.words, font=font) + 6, high - low + 6
        left = min(max(0.0, box[0]), max(0.0, size[0] - wide))
        tops = (box[1] - tall, box[1], box[3], box[3] - tall)
        spots = [(left, min(max(0.0, top), max(0.0, size[1] - tall))) for top in tops]
        areas: list[_Box] = [(x, y, x + wide, y + tall) for x, y in spots]
        area = next((a for a in areas if not any(_meet(a, p) for p in placed)), areas[0])
        placed.append(area)
        pen.rectangle(area, fill=item.colour)
        bright = float(_rgb(item.colour) @ (0.299, 0.587, 0.114)) > 120
        pen.text(
            (area[0] + 3, area[1] + 3 - low),
            item.words,
            fill="black" if bright else "white",
            font=font,
        )


def _meet(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _fit(picture: Image.Image, width: int) -> Image.Image:
    height = max(1, round(picture.height * width / picture.width))
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font has no Greek, Cyrillic and the like; this one comes with matplotlib.
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
