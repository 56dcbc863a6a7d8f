"""Kernels that take the statistics of maps too large for one program, chunk by chunk."""

import triton
import triton.language as tl

from sgekit.ops.triton_kernels.tiles import (
    affine,
    aligned,
    channels_of,
    features,
    groups_of,
    in_two,
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
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, ALIGN: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each channel in each chunk, `(chunks, B, C)`."""
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
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, ALIGN: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """The same of the likeness c, `(chunks, B, G)`, given g or what the norm makes of `means`."""
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


@triton.jit
def rows_of(tile, GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr):
    """Each channel of a tile on its own, [GROUPS, POSITIONS]; 1, 2 or 4 of them."""
    last = tl.permute(tile, [0, 2, 1])
    if DEPTH == 1:
        return (tl.reshape(last, [GROUPS, POSITIONS]),)
    elif DEPTH == 2:  # noqa: RET505  (both branches would be compiled)
        return tl.split(last)
    else:
        even, odd = tl.split(tl.reshape(last, [GROUPS, POSITIONS, 2, 2]))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        return (first, second, third, fourth)


@triton.jit
def relations(
    x, means, products, samples, groups, d: tl.constexpr, n, blocks, chunks,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, ALIGN: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Mean of each channel in each chunk, `(chunks, B, C)`, and the sums of the products of its
    deviations with those of the channels before it in its group, and its own: the lower triangle
    of `(chunks, B, G, d, d)`.

    The deviation of the likeness follows from them, whatever the group's mean turns out to be: one
    reading does for both.
    """
    n = aligned(n, ALIGN)
    sample, block, chunk = program(blocks, chunks, LAST, False)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
    base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
    xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    valid, count = positions_of(chunk, n, POSITIONS)
    high = tl.sum(xs, 2) / count
    rest = tl.where(valid[:, None, :], xs - high[:, :, None], 0.0)
    low = tl.sum(rest, 2) / count
    rest = tl.where(valid[:, None, :], rest - low[:, :, None], 0.0)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    part = (chunk * samples + sample).to(tl.int64) * groups
    tl.store(means + part * d + channel, high.to(tl.float64) + low.to(tl.float64), mask=present)

    rows = rows_of(rest, GROUPS, DEPTH, POSITIONS)
    group, there = groups_of(block, groups, GROUPS)
    to = products + (part + group) * (d * d)
    for i in tl.static_range(d):
        for j in tl.static_range(i + 1):
            tl.store(to + (i * d + j), tl.sum(rows[i] * rows[j], 1), mask=there)


@triton.jit
def merge(
    part_means, products, norm_mean, norm_invstd, norm_weight, norm_bias, g, means, mean, std,
    samples, groups, d: tl.constexpr, n, chunks, positions,
    DEPTH: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """A group's g or, behind a norm, its channels' `means`, and the likeness's mean and deviation,
    from what `relations` left for chunks of so many positions: Chan's merge, in float64."""
    sample = tl.program_id(0) // groups
    group = tl.program_id(0) % groups
    row = tl.arange(0, DEPTH)
    present = row < d
    channel = group * d + row
    total = tl.zeros([DEPTH], tl.float64)
    for first in range(0, chunks, CHUNKS):
        chunk = first + tl.arange(0, CHUNKS)
        inside = (chunk < chunks)[:, None] & present[None, :]
        count = tl.minimum(n - chunk * positions, positions).to(tl.float64)
        at = (chunk * samples + sample).to(tl.int64)[:, None] * groups * d + channel[None, :]
        found = tl.load(part_means + at, mask=inside, other=0.0)
        total += tl.sum(tl.where(inside, found * count[:, None], 0.0), 0)
    wide = total / n

    to = sample.to(tl.int64) * groups + group
    if means is not None:
        tl.store(means + to * d + row, wide, mask=present)
        high, low = in_two(wide)
        scale, descriptor, _ = affine(
            norm_mean, norm_invstd, norm_weight, norm_bias, wide, channel, present
        )
        likened = (scale * descriptor).to(tl.float64)
        used = high.to(tl.float64) + low.to(tl.float64)
    else:
        descriptor = wide.to(tl.float32)
        tl.store(g + to * d + row, descriptor, mask=present)
        likened = descriptor.to(tl.float64)
        used = likened
        # Of a constant map the mean is its value, but for a rounding error of float64.
        wide = tl.where(tl.abs(wide - used) <= 4e-12 * tl.abs(used), used, wide)
    # What `centred` takes off is the mean but for its rounding.
    middle = tl.sum((wide - used) * likened, 0)

    variance = tl.zeros([CHUNKS], tl.float64)
    for first in range(0, chunks, CHUNKS):
        chunk = first + tl.arange(0, CHUNKS)
        some = chunk < chunks
        inside = some[:, None] & present[None, :]
        count = tl.minimum(n - chunk * positions, positions).to(tl.float64)
        at = (chunk * samples + sample).to(tl.int64)[:, None] * groups * d + channel[None, :]
        away = tl.load(part_means + at, mask=inside, other=0.0) - wide[None, :]
        between = tl.sum(tl.where(inside, away * likened[None, :], 0.0), 1)
        square = at[:, :, None] * d + row[None, None, :]
        both = inside[:, :, None] & (row[None, None, :] <= row[None, :, None])
        product = tl.load(products + square, mask=both, other=0.0).to(tl.float64)
        product *= likened[None, :, None] * likened[None, None, :]
        product *= tl.where(row[None, None, :] < row[None, :, None], 2.0, 1.0)
        within_chunk = tl.sum(tl.sum(product, 2), 1)
        variance += tl.where(some, within_chunk + between * between * count, 0.0)
    # Rounding may leave less than nothing of a likeness that is the same everywhere.
    left = tl.maximum(tl.sum(variance, 0), 0.0, propagate_nan=tl.PropagateNan.ALL)
    spread = tl.sqrt_rn((left / tl.maximum(n - 1, 1)).to(tl.float32))
    tl.store(mean + to, middle.to(tl.float32))
    tl.store(std + to, spread)
