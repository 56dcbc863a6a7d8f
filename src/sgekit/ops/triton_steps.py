"""How `triton` and `triton_tail` run their kernels: in one program a group, or in turns."""

import torch
from torch import Tensor

from sgekit.ops.triton_kernels import configuration
from sgekit.ops.triton_kernels.configuration import Tile
from sgekit.ops.triton_maps import Maps, floats, launch
from sgekit.ops.triton_statistics import NO_NORM, Norm


def enhance(
    maps: Maps, x: Tensor, y: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor,
    g: Tensor | None, mean: Tensor, std: Tensor, means: Tensor | None, norm: Norm | None,
    given: bool, eps: float, activation: str | None,
) -> None:  # fmt: skip
    """Writes y, mean, std and, unless they are given, the means: g, or with a norm `means`."""
    from sgekit.ops.triton_kernels import forward as kernels

    groups, n, samples = weight.shape[0], maps.n, maps.samples
    d = maps.channels // groups
    # A norm that keeps its statistics has more to hold: means of x too.
    tile = configuration.tile(groups, d, n, maps.last, 1 if given or norm is None else 2)
    blocks, chunks = tile.blocks(groups), tile.chunks(n)
    shared = (
        x, y, residual, weight.contiguous(), bias.contiguous(), g, mean, std, means,
        *(norm or NO_NORM),
    )  # fmt: skip
    how = {"GIVEN": given, "RELU": activation == "relu", **maps.lies(tile, groups)}
    if tile.near(n, x.element_size()):
        launch(
            kernels.enhance, tile, maps.programs(tile, groups), *shared, groups, d, n, blocks,
            chunks, eps, ONCE=chunks == 1, **how,
        )  # fmt: skip
        return
    steps = 2 if given else 3
    part_means = None
    if not given:
        sizes = chunks, samples, maps.channels
        part_means = torch.empty(sizes, dtype=torch.float64, device=x.device)
    part_middles, part_squares = (floats(x, chunks, samples, groups) for _ in range(2))
    turns = tile.turns(samples, groups, n, maps.last, x.element_size(), steps)
    state = _state(x, maps, tile, groups, steps)
    launch(
        kernels.enhance_in_turns, tile, turns.programs(chunks, steps), *shared,
        part_means, part_middles, part_squares, state, samples, groups, d, n, blocks, chunks,
        *turns, eps, MERGED=tile.merged, **how,
    )  # fmt: skip


def _state(x: Tensor, maps: Maps, tile: Tile, groups: int, steps: int) -> Tensor:
    """How many programs began, and for each step but the last how many are done with a block."""
    counters = 1 + (steps - 1) * maps.programs(tile, groups)
    return torch.zeros(counters, dtype=torch.int32, device=x.device)


def backward(
    maps: Maps, dy: Tensor, x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor,
    g: Tensor | None, mean: Tensor, std: Tensor, means: Tensor | None, norm: Norm | None,
    dz: Tensor | None, dx: Tensor, dweight: Tensor, dbias: Tensor, eps: float, batch: bool,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """Writes dz where there is one, dx, dweight and dbias; a program takes one chunk.

    Returns the gradients of the norm's weight and bias where there is a norm; `batch` says
    that its statistics were those of x.
    """
    from sgekit.ops.triton_kernels import backward as kernels

    groups, n, samples = weight.shape[0], maps.n, maps.samples
    d = maps.channels // groups
    tile = configuration.tile(groups, d, n, maps.last, 2)
    blocks, chunks = tile.blocks(groups), tile.chunks(n)
    of_groups = floats(x, 2, chunks, samples, groups)
    of_channels = floats(x, 2 if norm is None else 4, chunks, samples, maps.channels)
    h = floats(x, samples, maps.channels)
    of_norm = None if norm is None else floats(x, 2, samples, maps.channels)
    with_norm = (means, *(norm or NO_NORM))
    lies = maps.lies(tile, groups)
    if not batch and not tile.near(n, 2 * x.element_size()):  # dy and x
        turns = tile.turns(samples, groups, n, maps.last, x.element_size(), 2)
        launch(
            kernels.in_turns, tile, turns.programs(chunks, 2), dy, x, y, weight,
            bias, g, mean, std, *with_norm, dz, dx, dweight, dbias, h, of_norm, of_groups,
            of_channels, _state(x, maps, tile, groups, 2), samples, groups, d, n, blocks, chunks,
            *turns, eps, MERGED=tile.merged, **lies,
        )  # fmt: skip
        return None if of_norm is None or norm is None else _of_norm(of_norm, norm)
    programs = maps.programs(tile, groups)
    launch(
        kernels.sums, tile, programs * chunks, dy, x, y, weight, bias, g, mean, std, *with_norm,
        dz, of_groups, of_channels, samples, groups, d, n, blocks, chunks, eps, **lies,
    )  # fmt: skip
    launch(
        kernels.finish, tile, programs, of_groups, of_channels, weight, std, *with_norm, dweight,
        dbias, h, of_norm, samples, groups, d, n, blocks, chunks, eps, MERGED=tile.merged,
    )  # fmt: skip
    of_both = None if of_norm is None or norm is None else _of_norm(of_norm, norm)
    over_batch = of_both if batch and of_both is not None else (None, None)
    launch(
        kernels.apply, tile, programs * chunks, dy if dz is None else dz, x, weight, bias, g, mean,
        std, dweight, dbias, h, *with_norm, *over_batch, dx, groups, d, n, blocks, chunks,
        samples * n, eps, **lies,
    )  # fmt: skip
    return of_both


def _of_norm(of_norm: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    of_bias, of_weight = of_norm.sum(1, dtype=torch.float64).unbind()
    return (of_weight * norm.invstd).float(), of_bias.float()
