"""Kernels that take gradients; `sgekit.ops.derivatives` states what they compute.

A group that the cache next to a program holds takes one of them, `whole`, which goes over it
twice. The others take `in_turns`, in which a program has one chunk, and every group behind a norm
with the batch's statistics takes `sums`, `finish` and `apply`, which are its steps on their own:
their gradient depends on sums over the batch.
"""

import triton
import triton.language as tl

from sgekit.ops.triton_kernels.statistics import sum_of
from sgekit.ops.triton_kernels.tiles import (
    affine,
    aligned,
    arrives,
    channels_of,
    features,
    fetched,
    gate,
    groups_of,
    kernel,
    likeness,
    numbers_of,
    offsets,
    positions_of,
    program,
    read,
    sized,
    slopes,
    start,
    within,
    write,
)
from sgekit.ops.triton_kernels.turns import arrive, open_up, turn, wait


@triton.jit
def seen(
    dy, x, y, descriptor, middle, spread, w, b, base, at, inside, chunk, n, eps,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Of a chunk, without a norm: what arrives, x less its mean, and t, s, da.

    It returns nothing that an address is made of: torch.compile would take what this reads for
    written.
    """
    valid, _ = positions_of(chunk, n, POSITIONS)
    xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    rest = xs - descriptor[:, :, None]
    t, s = gate(likeness(rest, descriptor), middle, spread, w, b, eps, valid)
    if y is not None:
        source = arrives(dy + base, y + base, at, inside, GROUPS, DEPTH, POSITIONS)
    else:
        source = read(dy + base, at, inside, GROUPS, DEPTH, POSITIONS)
    da = tl.sum(source * xs, 1) * s * (1 - s)
    return source, rest, t, s, da


@kernel
def whole(
    dy, x, y, weight, bias, g, mean, std, dx, dz, dweight, dbias, groups, d: tl.constexpr, n,
    blocks, chunks, eps, ONCE: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr, SIZE: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """dx, dz where there is a y, and the parameters' gradients of each sample.

    ONCE: the groups are one chunk, which stays on the chip.
    """
    groups = aligned(groups, EVEN)
    n = sized(n, ALIGN, SIZE)
    sample, block, _ = program(blocks, 1, LAST, False)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    group, there = groups_of(block, groups, GROUPS)
    row = sample.to(tl.int64) * groups * d + channel
    to = sample.to(tl.int64) * groups + group
    descriptor = fetched(g + row, present)
    w, b, middle, spread = numbers_of(weight, bias, mean, std, group, to, there)

    if ONCE:
        inside = within(block, 0, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
        base = start(sample, block, 0, groups, d, n, LAST, GROUPS, POSITIONS)
        source, rest, t, s, da = seen(
            dy, x, y, descriptor, middle, spread, w, b, base, at, inside, 0, n, eps, GROUPS,
            DEPTH, POSITIONS,
        )  # fmt: skip
        of_bias = da
        of_weight = da * t
        da_rest = tl.sum(rest * da[:, None, :], 2)
        t_rest = tl.sum(rest * t[:, None, :], 2)
    else:
        of_bias = tl.zeros([GROUPS, POSITIONS], tl.float32)
        of_weight = tl.zeros([GROUPS, POSITIONS], tl.float32)
        da_rest = tl.zeros([GROUPS, DEPTH], tl.float32)
        t_rest = tl.zeros([GROUPS, DEPTH], tl.float32)
        for chunk in range(chunks):
            inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
            base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
            source, rest, t, s, da = seen(
                dy, x, y, descriptor, middle, spread, w, b, base, at, inside, chunk, n, eps,
                GROUPS, DEPTH, POSITIONS,
            )  # fmt: skip
            of_bias += da
            of_weight += da * t
            da_rest += tl.sum(rest * da[:, None, :], 2)
            t_rest += tl.sum(rest * t[:, None, :], 2)
    sum_da = tl.sum(of_bias, 1)
    sum_da_t = tl.sum(of_weight, 1)
    tl.store(dbias + to, sum_da, mask=there)
    tl.store(dweight + to, sum_da_t, mask=there)
    kappa, slope = slopes(sum_da_t, w, spread, n, eps)
    each = 1.0 / n
    of_mean = sum_da * each
    # The sum of `rest` over positions is 0, so that the mean of da takes no part.
    h = slope[:, None] * (da_rest - kappa[:, None] * t_rest) * each

    for chunk in range(1 if ONCE else chunks):
        if not ONCE:
            inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
            base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
            source, rest, t, s, da = seen(
                dy, x, y, descriptor, middle, spread, w, b, base, at, inside, chunk, n, eps,
                GROUPS, DEPTH, POSITIONS,
            )  # fmt: skip
        if y is not None:
            write(dz + base, at, inside, source, GROUPS, DEPTH, POSITIONS)
        dc = slope[:, None] * ((da - of_mean[:, None]) - kappa[:, None] * t)
        out = source * s[:, None, :] + dc[:, None, :] * descriptor[:, :, None] + h[:, :, None]
        write(dx + base, at, inside, out, GROUPS, DEPTH, POSITIONS)


@triton.jit
def add_up(
    source, xs, weight, bias, g, mean, std, means, norm_mean, norm_invstd, norm_weight, norm_bias,
    of_groups, of_channels, samples, groups, d: tl.constexpr, n, sample, block, chunk, chunks, eps,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Of a chunk what `sum_up` adds.

    `of_groups` (2, chunks, B, G): the sums of da and of da * t. `of_channels` (2 or, with a
    norm, 4, chunks, B, C): those of da * r, t * r, dz * s and dz * s * r, with r = x less its
    sample's mean.
    """
    valid, _ = positions_of(chunk, n, POSITIONS)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    group, there = groups_of(block, groups, GROUPS)
    row = sample.to(tl.int64) * groups * d + channel
    to = sample.to(tl.int64) * groups + group
    w, b, middle, spread = numbers_of(weight, bias, mean, std, group, to, there)
    rest, c, z, scale, descriptor, away = features(
        xs, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, row, channel, present
    )
    t, s = gate(c, middle, spread, w, b, eps, valid)
    da = tl.sum(source * z, 1) * s * (1 - s)

    every = tl.cast(samples, tl.int64) * groups
    to += chunk * every
    tl.store(of_groups + to, tl.sum(da, 1), mask=there)
    tl.store(of_groups + chunks * every + to, tl.sum(da * t, 1), mask=there)
    every *= d
    row += chunk * every
    plane = chunks * every
    tl.store(of_channels + row, tl.sum(rest * da[:, None, :], 2), mask=present)
    tl.store(of_channels + plane + row, tl.sum(rest * t[:, None, :], 2), mask=present)
    if means is not None:
        through = source * s[:, None, :]
        tl.store(of_channels + 2 * plane + row, tl.sum(through, 2), mask=present)
        tl.store(of_channels + 3 * plane + row, tl.sum(through * rest, 2), mask=present)


@triton.jit
def sum_up(
    of_groups, of_channels, weight, std, means, norm_mean, norm_invstd, norm_weight, norm_bias,
    dweight, dbias, h, of_norm, samples, groups, d: tl.constexpr, n, sample, block, chunks, eps,
    MERGED: tl.constexpr, GROUPS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The parameters' gradients of each sample, and h, what every position of a channel gets.

    With a norm also `of_norm` (2, B, C): each sample's part of the gradients of its bias and,
    but for its 1 / deviation, of its weight.
    """
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    group, there = groups_of(block, groups, GROUPS)
    row = sample.to(tl.int64) * groups * d + channel
    to = sample.to(tl.int64) * groups + group
    every = tl.cast(samples, tl.int64) * groups
    places, those = to[:, None], there[:, None]
    of_bias = sum_of(of_groups + places, those, every, chunks, GROUPS, 1, MERGED)
    of_weight = sum_of(of_groups + chunks * every + places, those, every, chunks, GROUPS, 1, MERGED)
    tl.store(dbias + places, of_bias, mask=those)
    tl.store(dweight + places, of_weight, mask=those)
    w = tl.load(weight + group, mask=there, other=0.0).to(tl.float32)
    spread = fetched(std + to, there)
    kappa, slope = slopes(tl.reshape(of_weight, [GROUPS]), w, spread, n, eps)
    every *= d
    plane = chunks * every
    da_rest = sum_of(of_channels + row, present, every, chunks, GROUPS, DEPTH, MERGED)
    t_rest = sum_of(of_channels + plane + row, present, every, chunks, GROUPS, DEPTH, MERGED)
    # The sum over positions of dc * r; the sum of r is 0.
    q = slope[:, None] * (da_rest - kappa[:, None] * t_rest)
    if means is not None:
        wide = fetched(means + row, present)
        scale, descriptor, away = affine(
            norm_mean, norm_invstd, norm_weight, norm_bias, wide, channel, present
        )
        shift = scale * q
        tl.store(h + row, shift / n, mask=present)
        two, three = of_channels + 2 * plane + row, of_channels + 3 * plane + row
        through = sum_of(two, present, every, chunks, GROUPS, DEPTH, MERGED) + shift
        tl.store(of_norm + row, through, mask=present)
        through_rest = sum_of(three, present, every, chunks, GROUPS, DEPTH, MERGED)
        through_rest += descriptor * q + away * through
        tl.store(of_norm + every + row, through_rest, mask=present)
    else:
        tl.store(h + row, q / n, mask=present)


@triton.jit
def put(
    source, xs, base, at, inside, weight, bias, g, mean, std, dweight, dbias, h, means, norm_mean,
    norm_invstd, norm_weight, norm_bias, dnorm_weight, dnorm_bias, dx, groups, d: tl.constexpr, n,
    sample, block, chunk, count, eps,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """dx of a chunk, from what `sum_up` left.

    `dnorm_weight` and `dnorm_bias`, where given, are the norm's gradients over the batch, whose
    `count` numbers a channel its statistics were taken from.
    """
    valid, _ = positions_of(chunk, n, POSITIONS)
    channel, present = channels_of(block, groups, d, GROUPS, DEPTH)
    group, there = groups_of(block, groups, GROUPS)
    row = sample.to(tl.int64) * groups * d + channel
    to = sample.to(tl.int64) * groups + group
    w, b, middle, spread = numbers_of(weight, bias, mean, std, group, to, there)
    of_weight = fetched(dweight + to, there)
    of_mean = fetched(dbias + to, there) / n
    shift = fetched(h + row, present)
    rest, c, z, scale, descriptor, away = features(
        xs, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, row, channel, present
    )
    t, s = gate(c, middle, spread, w, b, eps, valid)
    da = tl.sum(source * z, 1) * s * (1 - s)
    kappa, slope = slopes(of_weight, w, spread, n, eps)
    dc = slope[:, None] * ((da - of_mean[:, None]) - kappa[:, None] * t)
    out = source * s[:, None, :] + dc[:, None, :] * descriptor[:, :, None] + shift[:, :, None]
    if means is not None:
        if dnorm_bias is not None:
            invstd = tl.load(norm_invstd + channel, mask=present, other=0.0).to(tl.float32)
            of_norm = tl.load(dnorm_weight + channel, mask=present, other=0.0) * invstd / count
            offset = tl.load(dnorm_bias + channel, mask=present, other=0.0) / count
            offset += of_norm * away
            out -= offset[:, :, None] + of_norm[:, :, None] * rest
        out *= scale[:, :, None]
    write(dx + base, at, inside, out, GROUPS, DEPTH, POSITIONS)


@kernel
def sums(
    dy, x, y, weight, bias, g, mean, std, means, norm_mean, norm_invstd, norm_weight, norm_bias,
    dz, of_groups, of_channels, samples, groups, d: tl.constexpr, n, blocks, chunks, eps,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr, SIZE: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """dz where there is a y, and what `add_up` leaves of each chunk."""
    groups = aligned(groups, EVEN)
    n = sized(n, ALIGN, SIZE)
    sample, block, chunk = program(blocks, chunks, LAST, False)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
    base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
    if y is not None:
        source = arrives(dy + base, y + base, at, inside, GROUPS, DEPTH, POSITIONS)
        write(dz + base, at, inside, source, GROUPS, DEPTH, POSITIONS)
    else:
        source = read(dy + base, at, inside, GROUPS, DEPTH, POSITIONS)
    xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    add_up(
        source, xs, weight, bias, g, mean, std, means, norm_mean, norm_invstd, norm_weight,
        norm_bias, of_groups, of_channels, samples, groups, d, n, sample, block, chunk, chunks,
        eps, GROUPS, DEPTH, POSITIONS,
    )  # fmt: skip


@kernel
def finish(
    of_groups, of_channels, weight, std, means, norm_mean, norm_invstd, norm_weight, norm_bias,
    dweight, dbias, h, of_norm, samples, groups, d: tl.constexpr, n, blocks, chunks, eps,
    MERGED: tl.constexpr, GROUPS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """`sum_up` for each block of groups."""
    sample, block, _ = program(blocks, 1, False, False)
    sum_up(
        of_groups, of_channels, weight, std, means, norm_mean, norm_invstd, norm_weight,
        norm_bias, dweight, dbias, h, of_norm, samples, groups, d, n, sample, block, chunks, eps,
        MERGED, GROUPS, DEPTH,
    )  # fmt: skip


@kernel
def apply(
    dz, x, weight, bias, g, mean, std, dweight, dbias, h, means, norm_mean, norm_invstd,
    norm_weight, norm_bias, dnorm_weight, dnorm_bias, dx, groups, d: tl.constexpr, n, blocks,
    chunks, count, eps,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr, SIZE: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """dx from dz, x and what `finish` left, from the last chunk on: the cache holds it still."""
    groups = aligned(groups, EVEN)
    n = sized(n, ALIGN, SIZE)
    sample, block, chunk = program(blocks, chunks, LAST, True)
    at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
    inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
    base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
    source = read(dz + base, at, inside, GROUPS, DEPTH, POSITIONS)
    xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
    put(
        source, xs, base, at, inside, weight, bias, g, mean, std, dweight, dbias, h, means,
        norm_mean, norm_invstd, norm_weight, norm_bias, dnorm_weight, dnorm_bias, dx, groups, d,
        n, sample, block, chunk, count, eps, GROUPS, DEPTH, POSITIONS,
    )  # fmt: skip


@kernel
def in_turns(
    dy, x, y, weight, bias, g, mean, std, means, norm_mean, norm_invstd, norm_weight, norm_bias,
    dz, dx, dweight, dbias, h, of_norm, of_groups, of_channels, state, samples, groups,
    d: tl.constexpr, n, blocks, chunks, span, many, sets, lag, eps,
    LAST: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr, SIZE: tl.constexpr, MERGED: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """All three, where a norm, if any, keeps its statistics: a program adds up a chunk, or, when
    the sums are there, writes dx. `state` (1 + B * blocks) begins with zeros."""
    groups = aligned(groups, EVEN)
    n = sized(n, ALIGN, SIZE)
    step, sample, block, chunk, some = turn(
        state, samples, blocks, chunks, span, many, sets, lag, 2, LAST
    )
    if some:
        at = offsets(groups, d, n, LAST, WIDE, GROUPS, DEPTH, POSITIONS)
        inside = within(block, chunk, groups, d, n, EXACT, GROUPS, DEPTH, POSITIONS)
        base = start(sample, block, chunk, groups, d, n, LAST, GROUPS, POSITIONS)
        if y is not None:
            source = arrives(dy + base, y + base, at, inside, GROUPS, DEPTH, POSITIONS)
        else:
            source = read(dy + base, at, inside, GROUPS, DEPTH, POSITIONS)
        xs = read(x + base, at, inside, GROUPS, DEPTH, POSITIONS)
        added = state + 1 + sample * blocks + block
        if step == 0:
            if y is not None:
                write(dz + base, at, inside, source, GROUPS, DEPTH, POSITIONS)
            add_up(
                source, xs, weight, bias, g, mean, std, means, norm_mean, norm_invstd,
                norm_weight, norm_bias, of_groups, of_channels, samples, groups, d, n, sample,
                block, chunk, chunks, eps, GROUPS, DEPTH, POSITIONS,
            )  # fmt: skip
            if arrive(added, chunks):
                sum_up(
                    of_groups, of_channels, weight, std, means, norm_mean, norm_invstd,
                    norm_weight, norm_bias, dweight, dbias, h, of_norm, samples, groups, d, n,
                    sample, block, chunks, eps, MERGED, GROUPS, DEPTH,
                )  # fmt: skip
                open_up(added)
        else:
            wait(added, chunks)
            put(
                source, xs, base, at, inside, weight, bias, g, mean, std, dweight, dbias, h,
                means, norm_mean, norm_invstd, norm_weight, norm_bias, None, None, dx, groups, d,
                n, sample, block, chunk, n, eps, GROUPS, DEPTH, POSITIONS,
            )  # fmt: skip
