"""One built-in scene: a small creature on a textured background, drawn from a seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgekit.data.creatures import ANATOMY, PARTS, PATTERNS, Coat, draw_creature
from sgekit.data.drawing import Canvas, Colour, Floats, Frame, smooth_noise
from sgekit.errors import InputError

SPLITS = ("train", "val")
_HUES: tuple[Colour, ...] = (
    (0.80, 0.46, 0.20),
    (0.55, 0.38, 0.26),
    (0.88, 0.76, 0.52),
    (0.62, 0.62, 0.66),
    (0.36, 0.40, 0.50),
    (0.86, 0.56, 0.60),
    (0.46, 0.60, 0.44),
    (0.50, 0.46, 0.70),
)
_NOSES: tuple[Colour, ...] = (
    (0.14, 0.11, 0.13),
    (0.92, 0.45, 0.45),
    (0.96, 0.68, 0.16),
)
_FRAGMENTS = (
    frozenset({"body", "feet", "tail"}),
    frozenset({"head", "ears"}),
    frozenset({"head", "nose"}),
    frozenset({"eyes"}),
    frozenset({"tail"}),
    frozenset({"body", "head"}),
)


@dataclass(frozen=True)
class SceneConfig:
    """Every setting of the scenes. Scenes of one seed differ from those of any other.

    creature_sizes: heights of the body and head in pixels of a 64-pixel scene (ears and long
    tails reach further); larger scenes scale them. noise: amplitude of the noise on every pixel,
    texture: strength of the background's bumps, both as a share of the brightness range.
    distractors: most look-alikes in a scene (their number is drawn from 0 to this).
    """

    image_size: int = 64
    classes: tuple[str, ...] = tuple(ANATOMY)
    train: int = 2000
    val: int = 1000
    seed: int = 0
    noise: float = 0.07
    texture: float = 0.28
    distractors: int = 2
    creature_sizes: tuple[float, ...] = (30.0, 36.0, 42.0)

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in ANATOMY]
        if unknown:
            known = ", ".join(ANATOMY)
            raise InputError(f"scenes have no class {unknown[0]!r}; choose from {known}")
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise InputError(f"scenes need two or more different classes, not {self.classes}")
        if self.image_size < 16:
            raise InputError(f"scenes need 16 pixels or more, not {self.image_size}")
        if self.train < 1 or self.val < 1:
            raise InputError(f"scenes need images: train={self.train}, val={self.val}")
        if self.seed < 0 or self.distractors < 0:
            raise InputError(
                f"seed and distractors of the scenes are 0 or more, "
                f"not {self.seed} and {self.distractors}"
            )
        if min(self.noise, self.texture) < 0:
            raise InputError(
                f"noise and texture are 0 or more, not {self.noise} and {self.texture}"
            )
        if not self.creature_sizes or min(self.creature_sizes) < 8:
            raise InputError(f"creature sizes are 8 pixels or more, not {self.creature_sizes}")

    def count(self, split: str) -> int:
        """The number of scenes in split "train" or "val"."""
        return self.train if split == "train" else self.val


@dataclass(frozen=True)
class Distractor:
    """A look-alike: at most one telling part of the class it is taken from."""

    kind: str
    parts: tuple[str, ...]
    centre: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """One picture and all that is known about it.

    image (H, W, 3) uint8; label indexes the configuration's classes; part_index (H, W) uint8
    holds 0 or the number of the part on top (`PARTS` order, from 1).
    """

    image: NDArray[np.uint8]
    label: int
    part_index: NDArray[np.uint8]
    distractors: tuple[Distractor, ...]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W): where the creature is seen."""
        return self.part_index > 0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) in pixels around the mask, x1 and y1 exclusive."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        columns = np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def parts(self) -> dict[str, NDArray[np.bool_]]:
        """The visible pixels of every part that this creature has; they do not overlap."""
        present = {name: self.part_index == number for number, name in enumerate(PARTS, 1)}
        return {name: mask for name, mask in present.items() if mask.any()}


def draw_scene(config: SceneConfig, split: str, index: int) -> Scene:
    """The scene at index of split "train" or "val": a function of its arguments alone.

    Raises InputError for another split and IndexError for an index out of range. Labels go
    round the classes, so every class is equally frequent.
    """
    if split not in SPLITS:
        raise InputError(f"scenes have the splits train and val, not {split!r}")
    if not 0 <= index < config.count(split):
        raise IndexError(f"scene {index} of {config.count(split)} in {split}")
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, SPLITS.index(split), index]))
    label = index % len(config.classes)
    background, ground = _background(rng, config)
    canvas = Canvas(background)
    frame = _frame(rng, config)
    coat = _coat(rng, ground)
    distractors = tuple(
        _distract(rng, config, canvas, frame, ground)
        for _ in range(int(rng.random() * (config.distractors + 1)))
    )
    draw_creature(canvas, frame, ANATOMY[config.classes[label]], coat)
    return Scene(_develop(rng, config, canvas.rgb), label, canvas.parts, distractors)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _pick(rng: np.random.Generator, count: int) -> int:
    return int(rng.random() * count)


def _tint(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    light = _between(rng, 0.8, 1.15)
    r, g, b = (min(1.0, max(0.0, light * c + _between(rng, -spread, spread))) for c in colour)
    return r, g, b


def _background(rng: np.random.Generator, config: SceneConfig) -> tuple[Floats, Colour]:
    ground = _tint(rng, _HUES[_pick(rng, len(_HUES))], 0.1)
    size = config.image_size
    rgb = np.empty((3, size, size), dtype=np.float32)
    coarse = smooth_noise(rng, size, 3 + _pick(rng, 3))
    fine = smooth_noise(rng, size, 9 + _pick(rng, 12))
    share = np.float32(_between(rng, 0.25, 0.75))
    bumps = (coarse * share + fine * (np.float32(1) - share) - np.float32(0.5)) * np.float32(
        2 * config.texture
    )
    for channel in range(3):
        rgb[channel] = np.float32(ground[channel]) + bumps * np.float32(_between(rng, 0.6, 1.2))
    return rgb, ground


def _frame(rng: np.random.Generator, config: SceneConfig) -> Frame:
    scale = config.image_size / 64
    height = config.creature_sizes[_pick(rng, len(config.creature_sizes))]
    unit = height * _between(rng, 0.92, 1.08) * scale / 2.6
    room = max(0.0, config.image_size / 2 - 1.75 * unit)
    x = config.image_size / 2 + _between(rng, -room, room)
    y = config.image_size / 2 + 0.2 * unit + _between(rng, -room, room)
    return Frame(x, y, unit, _between(rng, -0.25, 0.25), rng.random() < 0.5)


def _coat(rng: np.random.Generator, ground: Colour) -> Coat:
    main = _tint(rng, _HUES[_pick(rng, len(_HUES))], 0.06)
    for _ in range(8):
        if sum(abs(a - b) for a, b in zip(main, ground, strict=True)) > 0.45:
            break
        main = _tint(rng, _HUES[_pick(rng, len(_HUES))], 0.06)
    second = _tint(rng, _HUES[_pick(rng, len(_HUES))], 0.06)
    dark = _between(rng, 0.2, 0.45)
    outline = (main[0] * dark, main[1] * dark, main[2] * dark)
    nose = _NOSES[_pick(rng, len(_NOSES))]
    return Coat(main, second, outline, nose, tuple(PATTERNS)[_pick(rng, len(PATTERNS))])


def _distract(
    rng: np.random.Generator,
    config: SceneConfig,
    canvas: Canvas,
    near: Frame,
    ground: Colour,
) -> Distractor:
    """Paint a fragment of some class behind the creature's place, clear of its middle."""
    kinds = tuple(ANATOMY)
    kind = kinds[_pick(rng, len(kinds))]
    keep = _FRAGMENTS[_pick(rng, len(_FRAGMENTS))]
    frame = _frame(rng, config)
    for _ in range(4):
        if abs(frame.x - near.x) + abs(frame.y - near.y) > 1.8 * near.unit:
            break
        frame = _anywhere(rng, config, frame)
    draw_creature(canvas, frame, ANATOMY[kind], _coat(rng, ground), keep, marked=False)
    return Distractor(kind, tuple(p for p in PARTS if p in keep), (frame.x, frame.y))


def _anywhere(rng: np.random.Generator, config: SceneConfig, frame: Frame) -> Frame:
    x, y = (_between(rng, 0.0, config.image_size) for _ in range(2))
    return Frame(x, y, frame.unit, frame.angle, frame.mirrored)


def _develop(rng: np.random.Generator, config: SceneConfig, rgb: Floats) -> NDArray[np.uint8]:
    noise = rng.random(rgb.shape, dtype=np.float32) - np.float32(0.5)
    exposed = rgb * np.float32(_between(rng, 0.85, 1.1)) + noise * np.float32(2 * config.noise)
    levels = np.minimum(np.maximum(exposed, np.float32(0)), np.float32(1)) * np.float32(255)
    return np.ascontiguousarray((levels + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0))
