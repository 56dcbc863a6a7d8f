"""Statistics of maps too large for one program: of a chunk, and of all chunks."""

import triton
import triton.language as tl

from sgekit.ops.triton_kernels.tiles import (
    aligned,
    channels_of,
    kernel,
    means_of_tile,
    offsets,
    positions_of,
    program,
    read,
    sized,
    start,
    within,
)


@kernel
def moments(
    x, means, squares, samples, groups, d: tl.constexpr, n, blocks, chunks,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr, SIZE: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each channel in each chunk, `(chunks, B, C)`."""
    groups = aligned(groups, EVEN)
    n = sized(n, ALIGN, SIZE)
    sample, block, chunk = program(blocks, chunks, LAST, False)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
    base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
    xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    valid, count = positions_of(chunk, n, POSITIONS)
    high, low, rest = means_of_tile(xs, valid, count)
    # `low` is what rounding left of the mean, so that its square takes no digits.
    square = tl.maximum(tl.sum(rest * rest, 2) - low * low * count, 0.0,
                        propagate_nan=tl.PropagateNan.ALL)  # fmt: skip
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    to = (chunk * samples + sample).to(tl.int64) * groups * d + channel
    tl.store(means + to, high.to(tl.float64) + low.to(tl.float64), mask=present)
    tl.store(squares + to, square, mask=present)


@triton.jit
def counts_of(first, chunks, n, POSITIONS: tl.constexpr, MERGED: tl.constexpr):
    """So many chunks from `first` on, [1, 1, MERGED], and how many positions each has; 0 where
    there is none."""
    chunk = (first + tl.arange(0, MERGED))[None, None, :]
    count = tl.maximum(tl.minimum(n - chunk * POSITIONS, POSITIONS), 0)
    return chunk.to(tl.int64), count.to(tl.float64)


@triton.jit
def part(pointer, present, plane, chunk, chunks):
    """Of so many chunks what other programs left for them, each a plane further on."""
    mask = present[:, :, None] & (chunk < chunks)
    found = tl.load(pointer[:, :, None] + chunk * plane, mask=mask, other=0.0, cache_modifier=".cg")
    return found.to(tl.float64)


@triton.jit
def mean_of(
    pointer, present, plane, chunks, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr, MERGED: tl.constexpr,
):  # fmt: skip
    """The mean over a map of what has one for each chunk, [ROWS, COLUMNS], float64."""
    total = tl.zeros([ROWS, COLUMNS], tl.float64)
    for first in range(0, chunks, MERGED):
        chunk, count = counts_of(first, chunks, n, POSITIONS, MERGED)
        total += tl.sum(part(pointer, present, plane, chunk, chunks) * count, 2)
    return total / n


@triton.jit
def squares_of(
    means, squares, mean, present, plane, chunks, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr, MERGED: tl.constexpr,
):  # fmt: skip
    """Chan's merge of sums of squared deviations."""
    total = tl.zeros([ROWS, COLUMNS], tl.float64)
    for first in range(0, chunks, MERGED):
        chunk, count = counts_of(first, chunks, n, POSITIONS, MERGED)
        away = part(means, present, plane, chunk, chunks) - mean[:, :, None]
        inside = part(squares, present, plane, chunk, chunks)
        total += tl.sum(inside + away * away * count, 2)
    return total


@triton.jit
def sum_of(
    pointer, present, plane, chunks, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    MERGED: tl.constexpr,
):  # fmt: skip
    """The sum over chunks."""
    total = tl.zeros([ROWS, COLUMNS], tl.float64)
    for first in range(0, chunks, MERGED):
        chunk = (first + tl.arange(0, MERGED))[None, None, :].to(tl.int64)
        total += tl.sum(part(pointer, present, plane, chunk, chunks), 2)
    return total.to(tl.float32)
