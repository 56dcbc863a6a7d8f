"""Statistics that a batch norm wants, for `triton_tail`."""

from typing import NamedTuple

import torch
from torch import Tensor

from sgekit.ops.triton_kernels import configuration
from sgekit.ops.triton_maps import Maps, floats, launch


class Norm(NamedTuple):
    """A norm's numbers a channel: mean and 1 / deviation in float64, weight and bias."""

    mean: Tensor
    invstd: Tensor
    weight: Tensor | None
    bias: Tensor | None


NO_NORM = (None,) * 4


def means_of(x: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
    """Mean, float64, and sum of squared deviations of each sample's channels, `(B, C)`."""
    from sgekit.ops.triton_kernels import statistics as kernels

    channels, n = maps.channels, maps.n
    # A channel is a group of its own here.
    tile = configuration.tile(channels, 1, n, maps.last, 0)
    chunks = tile.chunks(n)
    sizes = chunks, maps.samples, channels
    means = torch.empty(sizes, dtype=torch.float64, device=x.device)
    squares = floats(x, *sizes)
    launch(
        kernels.moments, tile, maps.programs(tile, channels) * chunks, x, means, squares,
        maps.samples, channels, 1, n, tile.blocks(channels), chunks, **maps.lies(tile, channels),
    )  # fmt: skip
    return _merged(means, squares, n, tile.positions)


def _merged(means: Tensor, squares: Tensor, n: int, positions: int) -> tuple[Tensor, Tensor]:
    """Chan's merge over the first axis, of chunks of so many positions and a last of the rest."""
    chunks = means.shape[0]
    if chunks == 1:
        return means[0], squares[0]
    counts = torch.full((chunks, 1, 1), float(positions), dtype=torch.float64, device=means.device)
    counts[-1] = n - (chunks - 1) * positions
    wide = means.double()
    mean = (wide * counts).sum(0) / n
    between = ((wide - mean).square_() * counts).sum(0)
    return mean, squares.double().sum(0) + between
