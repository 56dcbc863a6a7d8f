"""Kernels that take statistics and write results."""

import triton
import triton.language as tl

from sgekit.ops.triton_kernels.tiles import (
    affine,
    centred,
    channels_of,
    features,
    gate,
    groups_of,
    in_two,
    likeness,
    offsets,
    positions_of,
    program,
    read,
    snapped,
    start,
    within,
)


@triton.jit
def moments(
    x, means, squares, samples, groups, d, n, blocks, chunks, LAST: tl.constexpr,
    WIDE: tl.constexpr, GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each channel in each chunk, `(chunks, B, C)`."""
    sample, block, chunk = program(blocks, chunks, LAST)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    inside = within(block, chunk, groups, d, n, GROUPS, DEPTH, POSITIONS)
    xs = read(x + start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS), at, inside)
    _, count = positions_of(chunk, n, POSITIONS)
    # In two parts, whose sum has twice the digits.
    high = tl.sum(xs, 2) / count
    rest = tl.where(inside, xs - high[:, :, None], 0.0)
    low = tl.sum(rest, 2) / count
    rest = tl.where(inside, rest - low[:, :, None], 0.0)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    to = (chunk * samples + sample).to(tl.int64) * groups * d + channel
    tl.store(means + to, high.to(tl.float64) + low.to(tl.float64), mask=present)
    tl.store(squares + to, tl.sum(rest * rest, 2), mask=present)


@triton.jit
def scores(
    x, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, part_means, part_squares,
    samples, groups, d, n, blocks, chunks, LAST: tl.constexpr, WIDE: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """The same of the likeness c, `(chunks, B, G)`, given g or what the norm makes of `means`."""
    sample, block, chunk = program(blocks, chunks, LAST)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    inside = within(block, chunk, groups, d, n, GROUPS, DEPTH, POSITIONS)
    xs = read(x + start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS), at, inside)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    row = sample.to(tl.int64) * groups * d + channel
    _, c, _, _, _, _ = features(
        xs, inside, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, row, channel, present
    )
    valid, count = positions_of(chunk, n, POSITIONS)
    mean = tl.sum(c, 1) / count
    rest = tl.where(valid, c - mean[:, None], 0.0)
    left = tl.sum(rest, 1) / count
    rest = tl.where(valid, rest - left[:, None], 0.0)
    group, there = groups_of(block, groups, GROUPS)
    to = (chunk * samples + sample).to(tl.int64) * groups + group
    tl.store(part_means + to, mean + left, mask=there)
    tl.store(part_squares + to, tl.sum(rest * rest, 1), mask=there)


@triton.jit
def enhance(
    x, y, residual, weight, bias, g, mean, std, means, norm_mean, norm_invstd, norm_weight,
    norm_bias, groups, d, n, blocks, chunks, eps, WHOLE: tl.constexpr, GIVEN: tl.constexpr,
    RELU: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """activation(SGE(norm(x)) + residual); without `means` there is no norm.

    WHOLE: the program goes over all chunks of its groups, which the cache next to it holds
    after the first time: for the means, for the deviation, to write. The statistics are stored.
    Otherwise they are read, and the program writes one chunk. GIVEN: `means` hold those of x.
    """
    sample, block, only = program(blocks, 1 if WHOLE else chunks, LAST)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    group, there = groups_of(block, groups, GROUPS)
    row = sample.to(tl.int64) * groups * d + channel
    to = sample.to(tl.int64) * groups + group

    if WHOLE and not GIVEN:
        total = tl.zeros([GROUPS, DEPTH, POSITIONS], tl.float32)
        for chunk in range(chunks):
            inside = within(block, chunk, groups, d, n, GROUPS, DEPTH, POSITIONS)
            base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
            total += read(x + base, at, inside)
        descriptor = snapped(tl.sum(total, 2) / n, x, channel, present, sample, groups, d, n, LAST)
        if means is not None:
            # float32 would not do for the norm: see `affine`.
            total = tl.zeros([GROUPS, DEPTH, POSITIONS], tl.float32)
            for chunk in range(chunks):
                inside = within(block, chunk, groups, d, n, GROUPS, DEPTH, POSITIONS)
                base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
                total += tl.where(inside, read(x + base, at, inside) - descriptor[:, :, None], 0.0)
            wide = descriptor.to(tl.float64) + (tl.sum(total, 2) / n).to(tl.float64)
            tl.store(means + row, wide, mask=present)
        else:
            tl.store(g + row, descriptor, mask=present)
    elif means is not None:
        wide = tl.load(means + row, mask=present, other=0.0)
    else:
        descriptor = tl.load(g + row, mask=present, other=0.0)

    if means is not None:
        high, low = in_two(wide)
        scale, descriptor, away = affine(
            norm_mean, norm_invstd, norm_weight, norm_bias, wide, channel, present
        )
    else:
        high = descriptor
        low = tl.zeros_like(descriptor)
        scale = tl.full(descriptor.shape, 1.0, tl.float32)
    likened = scale * descriptor

    if WHOLE:
        # The mean of c is a rounding error, so that its square takes no digits from the sum.
        linear = tl.zeros([GROUPS, POSITIONS], tl.float32)
        square = tl.zeros([GROUPS, POSITIONS], tl.float32)
        for chunk in range(chunks):
            inside = within(block, chunk, groups, d, n, GROUPS, DEPTH, POSITIONS)
            base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
            c = likeness(centred(read(x + base, at, inside), high, low, inside), likened)
            linear += c
            square += c * c
        middle = tl.sum(linear, 1) / n
        variance = tl.maximum(tl.sum(square, 1) - middle * middle * n, 0.0,
                              propagate_nan=tl.PropagateNan.ALL)  # fmt: skip
        spread = tl.sqrt_rn(variance / tl.maximum(n - 1, 1))
        tl.store(mean + to, middle, mask=there)
        tl.store(std + to, spread, mask=there)
    else:
        middle = tl.load(mean + to, mask=there, other=0.0)
        spread = tl.load(std + to, mask=there, other=0.0)
    w = tl.load(weight + group, mask=there, other=0.0).to(tl.float32)
    b = tl.load(bias + group, mask=there, other=0.0).to(tl.float32)

    for step in range(chunks if WHOLE else 1):
        chunk = step if WHOLE else only
        inside = within(block, chunk, groups, d, n, GROUPS, DEPTH, POSITIONS)
        base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
        xs = read(x + base, at, inside)
        rest = centred(xs, high, low, inside)
        t, s = gate(likeness(rest, likened), middle, spread, w, b, eps)
        if means is not None:
            out = (rest * scale[:, :, None] + descriptor[:, :, None]) * s[:, None, :]
        else:
            out = xs * s[:, None, :]
        if residual is not None:
            out += read(residual + base, at, inside)
        if RELU:
            out = tl.maximum(out, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(y + base + at, out.to(y.dtype.element_ty), mask=inside)
