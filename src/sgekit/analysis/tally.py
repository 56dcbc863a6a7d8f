"""Adding up alignments over images, in blocks from which intervals can be taken."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from sgekit.analysis.alignment import Alignment

BLOCKS = 10
"""Even and odd ones are the two halves of the images."""
FINEST = 28
"""Cells a side in which the places of maps of several sizes are counted."""

_BY_GROUP = ("pointing", "energy", "auroc", "iou", "iou_shuffled", "contrast")


def block_of(numbers: Tensor) -> Tensor:
    """The block, from 0 to BLOCKS - 1, of each image's number.

    As if by lot, and always the same: by turns, data whose classes go round would have other
    classes in one half than in the other.
    """
    mixed = numbers.long() + 0x9E3779B9
    for shift in (16, 15, 16):
        mixed = ((mixed ^ (mixed >> shift)) * 0x45D9F3B) & 0xFFFFFFFF
    return (mixed >> 8) % BLOCKS


@dataclass
class Tally:
    """Sums of one map's alignment with R regions, (BLOCKS, G, R) float64.

    ``sums`` of the measures and, as "name_squares", of their squares; "contrast" is summed as its
    logarithm. ``images`` (BLOCKS, R) counts, ``chance`` and ``share`` (BLOCKS, R) are sums.
    ``cells`` counts for each region how often a map of n cells held it in k of them. ``places``
    (BLOCKS, G, h, w) counts where each group points in all images, ``held`` (BLOCKS, R, h, w)
    where each region is in those that count for it, on the maps' cells; on FINEST² where images
    have maps of several sizes.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    images: Tensor | None = None
    chance: Tensor | None = None
    share: Tensor | None = None
    cells: list[Counter[tuple[int, int]]] = field(default_factory=list)
    places: Tensor | None = None
    held: Tensor | None = None

    def add(self, found: Alignment, first: int) -> None:
        """Count a batch of images, of which the first one is the ``first``-th of all."""
        batch, _, regions = found.pointing.shape
        counted = found.counted.cpu()
        block = block_of(first + torch.arange(batch))
        if self.images is None:
            self.images, self.chance, self.share = (
                torch.zeros(BLOCKS, regions, dtype=torch.float64) for _ in range(3)
            )
            self.cells = [Counter() for _ in range(regions)]
        assert self.chance is not None
        assert self.share is not None
        self.images.index_add_(0, block, counted.double())
        chance = torch.where(counted, found.chance.cpu().double(), 0)
        self.chance.index_add_(0, block, chance)
        self.share.index_add_(0, block, torch.where(counted, found.share.cpu().double(), 0))
        for name in _BY_GROUP:
            values = getattr(found, name).cpu().double()
            if name == "contrast":
                values = values.clamp(1e-6, 1e6).log()
            values = torch.where(counted[:, None], values, 0)
            self._sum(name, block, values)
            self._sum(f"{name}_squares", block, values.square())
        self._place(found, counted, block)
        cells = found.held.shape[2:].numel()
        held = found.held.flatten(2).sum(2).long().cpu()
        for image, region in counted.nonzero().tolist():
            self.cells[region][int(held[image, region]), cells] += 1

    def _place(self, found: Alignment, counted: Tensor, block: Tensor) -> None:
        peak, held = found.peak.float().cpu(), found.held.float().cpu()
        held = torch.where(counted[..., None, None], held, 0)
        if self.places is None or self.held is None:
            self.places = torch.zeros(BLOCKS, *peak.shape[1:])
            self.held = torch.zeros(BLOCKS, *held.shape[1:])
        if peak.shape[2:] != self.places.shape[2:]:
            peak, held = _moved(peak), _spread(held)
            self.places, self.held = _moved(self.places), _spread(self.held)
        self.places.index_add_(0, block, peak)
        self.held.index_add_(0, block, held)

    def _sum(self, name: str, block: Tensor, values: Tensor) -> None:
        if name not in self.sums:
            self.sums[name] = torch.zeros(BLOCKS, *values.shape[1:], dtype=torch.float64)
        self.sums[name].index_add_(0, block, values)

    @property
    def count(self) -> Tensor:
        """(R,): the images in which each region was counted."""
        assert self.images is not None
        return self.images.sum(0)

    def mean(self, name: str, blocks: Tensor | None = None) -> Tensor:
        """(G, R) over the counted images of ``blocks`` (all); NaN where there is none."""
        assert self.images is not None
        some = slice(None) if blocks is None else blocks
        return self.sums[name][some].sum(0) / self.images[some].sum(0)

    def error(self, name: str) -> Tensor:
        """(G, R): the standard error of the mean over images; NaN below two images."""
        count = self.count
        mean = self.mean(name)
        spread = self.mean(f"{name}_squares") - mean.square()
        return (spread.clamp_min(0) / (count - 1)).sqrt()

    def chance_of(self, blocks: Tensor | None = None) -> Tensor:
        """(G, R): the mean chance of pointing at each region without following it.

        The larger of two: that of positions drawn blindly, and that of a group which points where
        it does in other images (`habit_of`).
        """
        assert self.images is not None
        assert self.chance is not None
        some = slice(None) if blocks is None else blocks
        shuffled = self.chance[some].sum(0) / self.images[some].sum(0)
        habit = self.habit_of(blocks)
        return torch.where(habit > shuffled, habit, shuffled)  # NaN, no pair of images: shuffled

    def habit_of(self, blocks: Tensor | None = None) -> Tensor:
        """(G, R): how often each group would hit a region if images had swapped their maps.

        The mean over all pairs of one image's map and another's region: how often the group points
        at a cell, in all images, times how often the region is there, in those that it is in; as
        the chance in Cohen's kappa. NaN without a pair of images.
        """
        assert self.images is not None
        assert self.places is not None
        assert self.held is not None
        some = slice(None) if blocks is None else blocks
        places = self.places[some].sum(0).flatten(1).double()
        held = self.held[some].sum(0).flatten(1).double()
        pairs = places[0].sum() - 1
        # Without each map and its own image's region, which make the hits.
        swapped = places @ held.T - self.sums["pointing"][some].sum(0)
        return swapped / (self.images[some].sum(0) * pairs)

    @property
    def area(self) -> Tensor:
        """(R,): the mean share of the map that each region covers."""
        assert self.share is not None
        return self.share.sum(0) / self.count


def _moved(peak: Tensor) -> Tensor:
    """Places (B, G, h, w) on FINEST² cells, each in that of its centre."""
    for dim in (2, 3):
        cells = peak.shape[dim]
        target = ((torch.arange(cells) + 0.5) * FINEST / cells).long()
        shape = list(peak.shape)
        shape[dim] = FINEST
        peak = peak.new_zeros(shape).index_add(dim, target, peak)
    return peak


def _spread(held: Tensor) -> Tensor:
    """Regions (B, R, h, w) on FINEST² cells: those whose centre lies in a cell that holds one."""
    if max(held.shape[2:]) > FINEST:
        held = adaptive_max_pool2d(held, (min(held.shape[2], FINEST), min(held.shape[3], FINEST)))
    return interpolate(held, (FINEST, FINEST), mode="nearest-exact")
