"""The kernels that write results."""

import triton
import triton.language as tl

from sgekit.ops.triton_kernels.statistics import mean_of, squares_of
from sgekit.ops.triton_kernels.tiles import (
    affine,
    aligned,
    centred,
    channels_of,
    features,
    fetched,
    groups_of,
    in_two,
    kernel,
    likeness,
    means_of_tile,
    numbers_of,
    offsets,
    positions_of,
    program,
    read,
    sized,
    snapped,
    start,
    within,
    write,
)
from sgekit.ops.triton_kernels.turns import arrive, open_up, turn, wait


@triton.jit
def put(
    y, residual, base, at, inside, z, c, middle, spread, w, b, eps, RELU: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """activation(z * gate + residual), to y."""
    slope = w / (spread + eps)
    s = tl.sigmoid((c - middle[:, None]) * slope[:, None] + b[:, None])
    out = z * s[:, None, :]
    if residual is not None:
        out += read(residual + base, at, inside, GROUPS, DEPTH, POSITIONS)
    if RELU:
        out = tl.maximum(out, 0.0, propagate_nan=tl.PropagateNan.ALL)
    write(y + base, at, inside, out, GROUPS, DEPTH, POSITIONS)


@kernel
def enhance(
    x, y, residual, weight, bias, g, mean, std, means, norm_mean, norm_invstd, norm_weight,
    norm_bias, groups, d: tl.constexpr, n, blocks, chunks, eps,
    ONCE: tl.constexpr, GIVEN: tl.constexpr, RELU: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr, SIZE: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """activation(SGE(norm(x)) + residual); without `means` there is no norm.

    The program goes over all chunks of its groups, which the cache next to it holds after the
    first time: for the means, for the deviation, to write. The statistics are stored. ONCE:
    there is one chunk, which stays on the chip. GIVEN: `means` hold those of x.
    """
    groups = aligned(groups, EVEN)
    n = sized(n, ALIGN, SIZE)
    sample, block, _ = program(blocks, 1, LAST, False)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    group, there = groups_of(block, groups, GROUPS)
    row = sample.to(tl.int64) * groups * d + channel
    to = sample.to(tl.int64) * groups + group
    each = 1.0 / n

    if ONCE:
        inside = within(block, 0, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
        valid, _ = positions_of(0, n, POSITIONS)
        base = start(sample, block, 0, groups, d, n, LAST, GROUPS, POSITIONS)
        xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    if not GIVEN:
        if ONCE:
            total = xs
        else:
            total = tl.zeros([GROUPS, DEPTH, POSITIONS], tl.float32)
            for chunk in range(chunks):
                inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
                base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
                total += read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
        descriptor = snapped(
            tl.sum(total, 2) * each, x, channel, present, sample, groups, d, n, LAST
        )
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
            wide = descriptor.to(tl.float64) + (tl.sum(total, 2) * each).to(tl.float64)
            tl.store(means + row, wide, mask=present)
        else:
            tl.store(g + row, descriptor, mask=present)
    elif means is not None:
        wide = fetched(means + row, present)
    else:
        descriptor = fetched(g + row, present)

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

    # The mean of c is a rounding error, so that its square takes no digits from the sum.
    if ONCE:
        rest = centred(xs, high, low)
        c = likeness(rest, likened)
        linear = tl.where(valid, c, 0.0)
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
    middle = tl.sum(linear, 1) * each
    variance = tl.maximum(tl.sum(square, 1) - middle * middle * n, 0.0,
                          propagate_nan=tl.PropagateNan.ALL)  # fmt: skip
    spread = tl.sqrt_rn(variance / tl.maximum(n - 1, 1))
    tl.store(mean + to, middle, mask=there)
    tl.store(std + to, spread, mask=there)
    w = tl.load(weight + group, mask=there, other=0.0).to(tl.float32)
    b = tl.load(bias + group, mask=there, other=0.0).to(tl.float32)

    for chunk in range(1 if ONCE else chunks):
        if not ONCE:
            inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
            base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
            xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
            rest = centred(xs, high, low)
            c = likeness(rest, likened)
        if means is not None:
            xs = rest * scale[:, :, None] + descriptor[:, :, None]
        put(
            y, residual, base, at, inside, xs, c, middle, spread, w, b, eps, RELU, GROUPS, DEPTH,
            POSITIONS,
        )  # fmt: skip


@kernel
def enhance_in_turns(
    x, y, residual, weight, bias, g, mean, std, means, norm_mean, norm_invstd, norm_weight,
    norm_bias, part_means, part_middles, part_squares, state, samples, groups, d: tl.constexpr, n,
    blocks, chunks, span, many, sets, lag, eps, GIVEN: tl.constexpr, RELU: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr, SIZE: tl.constexpr, MERGED: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """The same where a program has one chunk: it takes the means, or the deviation, or writes.

    `part_means` (chunks, B, C) float64, `part_middles` and `part_squares` (chunks, B, G) float32
    take a chunk's statistics, `state` (1 + 2 * B * blocks) begins with zeros.
    """
    groups = aligned(groups, EVEN)
    n = sized(n, ALIGN, SIZE)
    step, sample, block, chunk, some = turn(
        state, samples, blocks, chunks, span, many, sets, lag, 2 if GIVEN else 3, LAST
    )
    if GIVEN:
        step += 1
    if some:
        at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
        inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
        valid, count = positions_of(chunk, n, POSITIONS)
        base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
        # Before this waits for anything.
        xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
        channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
        group, there = groups_of(block, groups, GROUPS)
        row = sample.to(tl.int64) * groups * d + channel
        to = sample.to(tl.int64) * groups + group
        plane = tl.cast(samples, tl.int64) * groups
        scored = state + 1 + sample * blocks + block
        described = scored + samples * blocks

        if step == 0:
            if not GIVEN:
                high, low, rest = means_of_tile(xs, valid, count)
                mine = chunk * plane * d + row
                tl.store(part_means + mine, high.to(tl.float64) + low.to(tl.float64), mask=present)
                if arrive(described, chunks):
                    wide = mean_of(
                        part_means + row, present, plane * d, chunks, n, GROUPS, DEPTH, POSITIONS,
                        MERGED,
                    )  # fmt: skip
                    if means is not None:
                        tl.store(means + row, wide, mask=present)
                    else:
                        tl.store(g + row, wide.to(tl.float32), mask=present)
                    open_up(described)
        elif step == 1:
            if not GIVEN:
                wait(described, chunks)
            _, c, _, _, _, _ = features(
                xs, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, row, channel,
                present,
            )  # fmt: skip
            centre = tl.sum(tl.where(valid, c, 0.0), 1) / count
            away = tl.where(valid, c - centre[:, None], 0.0)
            left = tl.sum(away, 1) / count
            away = tl.where(valid, away - left[:, None], 0.0)
            tl.store(part_middles + chunk * plane + to, centre + left, mask=there)
            tl.store(part_squares + chunk * plane + to, tl.sum(away * away, 1), mask=there)
            if arrive(scored, chunks):
                places, those = to[:, None], there[:, None]
                middle = mean_of(
                    part_middles + places, those, plane, chunks, n, GROUPS, 1, POSITIONS, MERGED
                )
                squares = squares_of(
                    part_middles + places, part_squares + places, middle, those, plane, chunks,
                    n, GROUPS, 1, POSITIONS, MERGED,
                )  # fmt: skip
                variance = (squares / tl.maximum(n - 1, 1)).to(tl.float32)
                tl.store(mean + places, middle.to(tl.float32), mask=those)
                tl.store(std + places, tl.sqrt_rn(variance), mask=those)
                open_up(scored)
        else:
            wait(scored, chunks)
            _, c, z, _, _, _ = features(
                xs, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, row, channel,
                present,
            )  # fmt: skip
            w, b, middle, spread = numbers_of(weight, bias, mean, std, group, to, there)
            put(
                y, residual, base, at, inside, z, c, middle, spread, w, b, eps, RELU, GROUPS,
                DEPTH, POSITIONS,
            )  # fmt: skip
