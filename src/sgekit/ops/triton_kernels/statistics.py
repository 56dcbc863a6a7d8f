"""Kernels that take the statistics of maps too large for one program, chunk by chunk."""

import triton
import triton.language as tl

from sgekit.ops.triton_kernels.tiles import (
    aligned,
    channels_of,
    features,
    groups_of,
    offsets,
    positions_of,
    program,
    read,
    start,
    within,
)


@triton.jit
def moments(
    x, means, squares, samples, groups, d: tl.constexpr, n, blocks, chunks,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each channel in each chunk, `(chunks, B, C)`."""
    groups = aligned(groups, EVEN)
    n = aligned(n, ALIGN)
    sample, block, chunk = program(blocks, chunks, LAST, False)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
    base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
    xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    valid, count = positions_of(chunk, n, POSITIONS)
    # In two parts, whose sum has twice the digits.
    high = tl.sum(xs, 2) / count
    rest = tl.where(valid[:, None, :], xs - high[:, :, None], 0.0)
    low = tl.sum(rest, 2) / count
    rest = tl.where(valid[:, None, :], rest - low[:, :, None], 0.0)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    to = (chunk * samples + sample).to(tl.int64) * groups * d + channel
    tl.store(means + to, high.to(tl.float64) + low.to(tl.float64), mask=present)
    tl.store(squares + to, tl.sum(rest * rest, 2), mask=present)


@triton.jit
def scores(
    x, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, part_means, part_squares,
    samples, groups, d: tl.constexpr, n, blocks, chunks,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """The same of the likeness c, `(chunks, B, G)`, given g or what the norm makes of `means`."""
    groups = aligned(groups, EVEN)
    n = aligned(n, ALIGN)
    sample, block, chunk = program(blocks, chunks, LAST, False)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
    base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
    xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    row = sample.to(tl.int64) * groups * d + channel
    _, c, _, _, _, _ = features(
        xs, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, row, channel, present
    )
    valid, count = positions_of(chunk, n, POSITIONS)
    mean = tl.sum(tl.where(valid, c, 0.0), 1) / count
    rest = tl.where(valid, c - mean[:, None], 0.0)
    left = tl.sum(rest, 1) / count
    rest = tl.where(valid, rest - left[:, None], 0.0)
    group, there = groups_of(block, groups, GROUPS)
    to = (chunk * samples + sample).to(tl.int64) * groups + group
    tl.store(part_means + to, mean + left, mask=there)
    tl.store(part_squares + to, tl.sum(rest * rest, 1), mask=there)
