"""The kernel that writes results."""

import triton
import triton.language as tl

from sgekit.ops.triton_kernels.tiles import (
    affine,
    aligned,
    centred,
    channels_of,
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
    write,
)


@triton.jit
def enhance(
    x, y, residual, weight, bias, g, mean, std, means, norm_mean, norm_invstd, norm_weight,
    norm_bias, groups, d: tl.constexpr, n, blocks, chunks, eps,
    WHOLE: tl.constexpr, ONCE: tl.constexpr, GIVEN: tl.constexpr, RELU: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """activation(SGE(norm(x)) + residual); without `means` there is no norm.

    WHOLE: the program goes over all chunks of its groups, which the cache next to it holds
    after the first time: for the means, for the deviation, to write. The statistics are stored.
    ONCE: there is one chunk, which stays on the chip. Otherwise statistics are read, and the
    program writes one chunk. GIVEN: `means` hold those of x.
    """
    groups = aligned(groups, EVEN)
    n = aligned(n, ALIGN)
    sample, block, only = program(blocks, 1 if WHOLE else chunks, LAST, not WHOLE)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    group, there = groups_of(block, groups, GROUPS)
    row = sample.to(tl.int64) * groups * d + channel
    to = sample.to(tl.int64) * groups + group

    if ONCE:
        inside = within(block, 0, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
        valid, _ = positions_of(0, n, POSITIONS)
        base = start(sample, block, 0, groups, d, n, LAST, GROUPS, POSITIONS)
        xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    if WHOLE and not GIVEN:
        if ONCE:
            total = xs
        else:
            total = tl.zeros([GROUPS, DEPTH, POSITIONS], tl.float32)
            for chunk in range(chunks):
                inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
                valid, _ = positions_of(chunk, n, POSITIONS)
                base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
                total += read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
        descriptor = snapped(tl.sum(total, 2) / n, x, channel, present, sample, groups, d, n, LAST)
        if means is not None:
            # float32 would not do for the norm: see `affine`.
            if ONCE:
                total = tl.where(valid[:, None, :], xs - descriptor[:, :, None], 0.0)
            else:
                total = tl.zeros([GROUPS, DEPTH, POSITIONS], tl.float32)
                for chunk in range(chunks):
                    inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
                    valid, _ = positions_of(chunk, n, POSITIONS)
                    base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
                    xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
                    total += tl.where(valid[:, None, :], xs - descriptor[:, :, None], 0.0)
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
        if ONCE:
            rest = centred(xs, high, low)
            linear = tl.where(valid, likeness(rest, likened), 0.0)
            square = linear * linear
        else:
            linear = tl.zeros([GROUPS, POSITIONS], tl.float32)
            square = tl.zeros([GROUPS, POSITIONS], tl.float32)
            for chunk in range(chunks):
                inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
                valid, _ = positions_of(chunk, n, POSITIONS)
                base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
                xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
                c = tl.where(valid, likeness(centred(xs, high, low), likened), 0.0)
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

    for step in range(chunks if WHOLE and not ONCE else 1):
        if not ONCE:
            chunk = step if WHOLE else only
            inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
            valid, _ = positions_of(chunk, n, POSITIONS)
            base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
            xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
            rest = centred(xs, high, low)
        t, s = gate(likeness(rest, likened), middle, spread, w, b, eps, valid)
        if means is not None:
            out = (rest * scale[:, :, None] + descriptor[:, :, None]) * s[:, None, :]
        else:
            out = xs * s[:, None, :]
        if residual is not None:
            out += read(residual + base, at, inside, GROUPS, DEPTH, POSITIONS)
        if RELU:
            out = tl.maximum(out, 0.0, propagate_nan=tl.PropagateNan.ALL)
        write(y + base, at, inside, out, GROUPS, DEPTH, POSITIONS)
