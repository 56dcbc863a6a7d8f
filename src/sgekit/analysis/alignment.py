"""Where a map is high against where something is: pointing, energy, AUROC, IoU.

Everything is counted in the map's own cells, so that a coarse map is not made to look precise. A
region reaches into a cell by a share between 0 and 1. Beside each measure stands what the same
values would reach at shuffled positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sgekit.errors import InputError


class Alignment(NamedTuple):
    """Of B images, G groups and R regions; (B, G, R) but for those that no group changes, (B, R),
    and ``peak`` (B, G, h, w) and ``held`` (B, R, h, w).

    counted: whether the region is in the image and leaves some of it out; the rest means
    nothing where it is not. pointing: 1 where the highest cell holds a part of the region, else
    0 (of several equally high ones the share that does). energy: the share of the map's sum
    inside the region, share the region's share of the area, which it would be at shuffled
    positions. auroc: how often a position inside is higher than one outside, ties counting
    half; 0.5 if shuffled. iou: of the region and the cells above a threshold, at the image's
    best threshold; iou_shuffled the same after one shuffle. contrast: the mean inside over the
    mean outside. peak: where each map is highest, 1 in all (of several equally high cells each
    has its share). held: 1 where a cell holds a part of the region.
    """

    counted: Tensor
    pointing: Tensor
    energy: Tensor
    share: Tensor
    auroc: Tensor
    iou: Tensor
    iou_shuffled: Tensor
    contrast: Tensor
    peak: Tensor
    held: Tensor

    @property
    def chance(self) -> Tensor:
        """(B, R): of pointing at shuffled positions, the share of cells that hold a part."""
        return self.held.flatten(2).mean(2)


def coverage(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of each cell a region covers: masks (..., H, W) of 0 and 1 on a map of ``size``."""
    lead = masks.shape[:-2]
    pooled = adaptive_avg_pool2d(masks.reshape(-1, 1, *masks.shape[-2:]).float(), size)
    return pooled.reshape(*lead, *size)


def align(maps: Tensor, cover: Tensor, generator: torch.Generator) -> Alignment:
    """Measures of maps (B, G, h, w) against cover (B, R, h, w), see `coverage`.

    ``generator``, of the maps' device, shuffles the positions. Raises InputError where the shapes
    don't fit.
    """
    if maps.dim() != 4 or cover.dim() != 4 or maps.shape[0] != cover.shape[0]:
        raise InputError(
            f"maps (B, G, h, w) and cover (B, R, h, w) are needed, not {tuple(maps.shape)} and "
            f"{tuple(cover.shape)}"
        )
    if maps.shape[2:] != cover.shape[2:]:
        raise InputError(
            f"the maps have {tuple(maps.shape[2:])} cells and the regions "
            f"{tuple(cover.shape[2:])}; use coverage() with the maps' size"
        )
    values, cells = maps.flatten(2).float(), cover.flatten(2).float()
    count = values.shape[2]
    area = cells.sum(2)
    counted = (area > 0) & (area < count)
    ordered, order = values.sort(dim=2, descending=True)
    runs = _Runs(ordered)
    highest = runs.first / runs.first.sum(2, keepdim=True)
    peak = torch.zeros_like(highest).scatter(2, order, highest)
    held = (cells > 0).to(highest)
    shuffle = torch.randperm(count, generator=generator, device=maps.device)
    found: list[tuple[Tensor, ...]] = []
    total = values.sum(2)
    for region in range(cells.shape[1]):
        cell = cells[:, region]
        inside = _along(cell, order)
        energy = (values * cell[:, None]).sum(2)
        size = area[:, region, None]
        within = energy / size
        without = (total - energy) / (count - size)
        roc, iou = _curves(runs.flatten(inside), size, count)
        _, shuffled = _curves(runs.flatten(_along(cell[:, shuffle], order)), size, count)
        pointing = (held[:, None, region] * peak).sum(2)
        found.append((pointing, energy / total, roc, iou, shuffled, within / without))
    pointing, energy, auroc, iou, shuffled, contrast = (
        torch.stack(values, 2) for values in zip(*found, strict=True)
    )
    return Alignment(
        counted,
        pointing,
        energy,
        area / count,
        auroc,
        iou,
        shuffled,
        contrast,
        peak.reshape(maps.shape),
        held.reshape(cover.shape),
    )


class _Runs:
    """Runs of equal values in a descending order, (B, G, n)."""

    def __init__(self, ordered: Tensor) -> None:
        starts = torch.ones_like(ordered, dtype=torch.bool)
        starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
        self.run = starts.cumsum(2) - 1
        self.single = bool(starts.all())
        self.first = (self.run == 0).float()

    def flatten(self, values: Tensor) -> Tensor:
        """The mean of its run in place of each value, so that the order in a run is none."""
        if self.single:
            return values
        zeros = torch.zeros_like(values)
        sums = zeros.scatter_add(2, self.run, values)
        counts = zeros.scatter_add(2, self.run, torch.ones_like(values))
        return (sums / counts.clamp_min(1)).gather(2, self.run)


def _along(cells: Tensor, order: Tensor) -> Tensor:
    """cells (B, n) of every group, (B, G, n), from its highest position to its lowest."""
    return cells[:, None].expand_as(order).gather(2, order)


def _curves(inside: Tensor, size: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The area under the ROC and the best IoU, (B, G), from inside (B, G, n) in order."""
    hits = inside.cumsum(2)
    taken = torch.arange(1, count + 1, device=inside.device, dtype=inside.dtype)
    best = (hits / (taken + size[..., None] - hits)).amax(2)
    # Trapezoids: each step to the right is 1 - inside, at the height midway up.
    height = hits - 0.5 * inside
    area = (height * (1 - inside)).sum(2) / (size * (count - size))
    return area, best
