"""Antialiased shapes from signed distances, painted on a small canvas with numpy.

Distances use additions, products, divisions and square roots alone, in float32:
IEEE 754 fixes their results, so a picture is the same on every machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Colour: TypeAlias = tuple[float, float, float]
Distance: TypeAlias = Callable[[Floats, Floats], Floats]


_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)


@dataclass(frozen=True)
class Shape:
    """A signed distance (negative inside) in a frame's units, and a disc that holds the shape."""

    distance: Distance
    centre: tuple[float, float]
    reach: float


@dataclass(frozen=True)
class Frame:
    """Where a drawing sits: local (u, v) units are turned, perhaps mirrored, scaled and moved."""

    x: float
    y: float
    unit: float
    angle: float = 0.0
    mirrored: bool = False

    def to_pixels(self, u: float, v: float) -> tuple[float, float]:
        """The pixel position (x, y) of the local point (u, v)."""
        u = -u if self.mirrored else u
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.x + self.unit * (cos * u - sin * v), self.y + self.unit * (sin * u + cos * v)


def ellipse(cu: float, cv: float, ru: float, rv: float, angle: float = 0.0) -> Shape:
    """An ellipse around (cu, cv) with radii ru and rv, turned by angle (radians)."""
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    inv_u, inv_v = np.float32(1 / ru), np.float32(1 / rv)
    off_u, off_v = np.float32(cu), np.float32(cv)

    def distance(u: Floats, v: Floats) -> Floats:
        du, dv = u - off_u, v - off_v
        p = (cos * du + sin * dv) * inv_u
        q = (cos * dv - sin * du) * inv_v
        level = p * p + q * q
        if ru == rv:
            return (np.sqrt(level) - _ONE) * np.float32(ru)
        # The level set's value over the length of its gradient: exact to first order at the rim.
        p *= inv_u
        q *= inv_v
        slope = np.sqrt(p * p + q * q) + np.float32(1e-6)
        return (level - _ONE) * _HALF / slope

    return Shape(distance, (cu, cv), max(ru, rv))


def polygon(points: tuple[tuple[float, float], ...], rounding: float = 0.0) -> Shape:
    """A convex polygon, corners in either order, grown by rounding."""
    mid_u = sum(p[0] for p in points) / len(points)
    mid_v = sum(p[1] for p in points) / len(points)
    edges: list[tuple[np.float32, np.float32, np.float32]] = []
    for (u0, v0), (u1, v1) in zip(points, points[1:] + points[:1], strict=True):
        length = math.sqrt((u1 - u0) ** 2 + (v1 - v0) ** 2)
        nu, nv = (v1 - v0) / length, (u0 - u1) / length
        if nu * (mid_u - u0) + nv * (mid_v - v0) > 0:
            nu, nv = -nu, -nv
        edges.append((np.float32(nu), np.float32(nv), np.float32(nu * u0 + nv * v0 + rounding)))

    def distance(u: Floats, v: Floats) -> Floats:
        nu, nv, offset = edges[0]
        result = nu * u + nv * v - offset
        for nu, nv, offset in edges[1:]:
            result = np.maximum(result, nu * u + nv * v - offset)
        return result

    reach = max(math.sqrt((u - mid_u) ** 2 + (v - mid_v) ** 2) for u, v in points)
    return Shape(distance, (mid_u, mid_v), reach + 2 * rounding)


def stroke(points: tuple[tuple[float, float], ...], radii: tuple[float, ...]) -> Shape:
    """A line through points whose half width changes from radius to radius."""
    segments = []
    for (u0, v0), (u1, v1), r0, r1 in zip(points, points[1:], radii, radii[1:], strict=False):
        du, dv = u1 - u0, v1 - v0
        scale = 1 / (du * du + dv * dv)
        segments.append(tuple(np.float32(n) for n in (u0, v0, du, dv, scale, r0, r1 - r0)))

    def distance(u: Floats, v: Floats) -> Floats:
        result: Floats | None = None
        for u0, v0, du, dv, scale, r0, dr in segments:
            pu, pv = u - u0, v - v0
            along = _cover((pu * du + pv * dv) * scale)
            pu, pv = pu - along * du, pv - along * dv
            d = np.sqrt(pu * pu + pv * pv) - (r0 + along * dr)
            result = d if result is None else np.minimum(result, d)
        if result is None:
            raise ValueError("a stroke needs at least two points")
        return result

    mid_u = (min(p[0] for p in points) + max(p[0] for p in points)) / 2
    mid_v = (min(p[1] for p in points) + max(p[1] for p in points)) / 2
    reach = max(math.sqrt((u - mid_u) ** 2 + (v - mid_v) ** 2) for u, v in points)
    return Shape(distance, (mid_u, mid_v), reach + max(radii))


class Canvas:
    """A square picture and, beside it, the number of the part on top at every pixel.

    `rgb` is (3, H, W) float32 in 0..1, channels first since numpy is fast along a row;
    `parts` is (H, W) uint8, 0 where no part was painted.
    """

    def __init__(self, background: Floats) -> None:
        self.rgb = background
        self.parts = np.zeros(background.shape[1:], dtype=np.uint8)
        self._axis = np.arange(background.shape[1], dtype=np.float32) + _HALF
        self._grid: tuple[Frame, Floats, Floats] | None = None

    def paint(
        self,
        shape: Shape,
        frame: Frame,
        colour: Colour,
        *,
        part: int = 0,
        outline: Colour | None = None,
        outline_px: float = 0.8,
        second: Colour | None = None,
        pattern: Distance | None = None,
    ) -> None:
        """Paint shape over what is there; its pixels (coverage above one half) become `part`.

        outline: a rim of outline_px pixels in this colour. pattern with second: where the
        pattern, in frame units, is negative, the second colour is used.
        A shape outside the canvas changes nothing.
        """
        size = len(self._axis)
        x, y = frame.to_pixels(*shape.centre)
        margin = shape.reach * frame.unit + outline_px + 1.5
        x0, x1 = max(0, int(x - margin)), min(size, int(x + margin) + 1)
        y0, y1 = max(0, int(y - margin)), min(size, int(y + margin) + 1)
        if x0 >= x1 or y0 >= y1:
            return
        u, v = (axis[y0:y1, x0:x1] for axis in self._local(frame))
        depth = _HALF - shape.distance(u, v) * np.float32(frame.unit)

        window = self.rgb[:, y0:y1, x0:x1]
        fill = _column(colour)
        if pattern is not None and second is not None:
            share = _cover(_HALF - pattern(u, v) * np.float32(frame.unit))
            fill = fill + share * (_column(second) - fill)
        reach = depth
        if outline is not None:
            reach = depth + np.float32(outline_px)
            rim = _column(outline)
            fill = rim + _cover(depth) * (fill - rim)
        window += _cover(reach) * (fill - window)
        self.parts[y0:y1, x0:x1][reach > _HALF] = part

    def _local(self, frame: Frame) -> tuple[Floats, Floats]:
        """Every pixel's (u, v); shapes of one frame follow each other, so the last one is kept."""
        if self._grid is None or self._grid[0] is not frame:
            cos, sin = math.cos(frame.angle) / frame.unit, math.sin(frame.angle) / frame.unit
            flip = -1.0 if frame.mirrored else 1.0
            dx = self._axis - np.float32(frame.x)
            dy = (self._axis - np.float32(frame.y))[:, None]
            u = np.float32(flip * cos) * dx + np.float32(flip * sin) * dy
            self._grid = frame, u, np.float32(cos) * dy - np.float32(sin) * dx
        return self._grid[1:]


def _column(colour: Colour) -> Floats:
    return np.array(colour, dtype=np.float32)[:, None, None]


def _cover(depth: Floats) -> Floats:
    return np.minimum(np.maximum(depth, _ZERO), _ONE)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Noise of about `cells` bumps across, (size, size) float32 in 0..1, bilinear between knots."""
    knots = rng.random((cells + 1, cells + 1), dtype=np.float32)
    at = np.arange(size, dtype=np.float32) * np.float32(cells / size)
    low = at.astype(np.intp)
    share = at - low.astype(np.float32)
    rows = knots[low] + share[:, None] * (knots[low + 1] - knots[low])
    smooth: Floats = rows[:, low] + share * (rows[:, low + 1] - rows[:, low])
    return smooth
