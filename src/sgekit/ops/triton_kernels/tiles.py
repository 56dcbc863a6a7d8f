"""What the kernels share: where a tile lies, and the equations on a tile.

A tile has the axes group, channel of the group, position; in memory the first two are one, so that
a thread reads neighbours of both at once. `groups`, `d` and `n` are a map's; GROUPS, DEPTH and
POSITIONS, powers of two, are the tile's. What a tile has beyond its map is masked and counts as 0;
EXACT says that only positions are. ALIGN divides n, and EVEN the number of groups.
"""

import functools

import triton
import triton.language as tl

kernel = functools.partial(
    triton.jit,
    do_not_specialize=(
        "samples", "groups", "n", "blocks", "chunks", "span", "many", "sets", "lag", "count",
    ),
)  # fmt: skip
"""What is called from Python: compiled for what its `tl.constexpr` say, not once more for each
size that happens to be 1 or a multiple of 16."""


@triton.jit
def program(blocks, chunks, LAST: tl.constexpr, LATEST: tl.constexpr):
    """Sample, block of groups and chunk of positions of this program.

    Neighbours in memory are neighbours in time. LATEST: from the end on, so that a second reading
    begins with what the first read last, which the cache still holds.
    """
    pid = tl.program_id(0)
    if LATEST:
        pid = tl.num_programs(0) - 1 - pid
    if LAST:
        return pid // (blocks * chunks), pid % blocks, pid // blocks % chunks
    return pid // (blocks * chunks), pid // chunks % blocks, pid % chunks


@triton.jit
def aligned(n, ALIGN: tl.constexpr):
    """n, of which the compiler then knows what divides it; loads are as wide as that allows."""
    return n // ALIGN * ALIGN


@triton.jit
def sized(n, ALIGN: tl.constexpr, SIZE: tl.constexpr):
    """n, known when compiled where that is SIZE: then a thread's addresses differ by constants."""
    if not SIZE:
        return aligned(n, ALIGN)
    return SIZE


@triton.jit
def offsets(
    groups, d: tl.constexpr, n, LAST: tl.constexpr, WIDE: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Where the numbers of a tile lie from its first, [GROUPS * DEPTH, POSITIONS]; WIDE where 32
    bits don't hold that."""
    channel = tl.arange(0, GROUPS * DEPTH)[:, None]
    if d != DEPTH:
        channel = channel // DEPTH * d + channel % DEPTH
    position = tl.arange(0, POSITIONS)[None, :]
    if LAST:
        if WIDE:
            position = position.to(tl.int64)
        return position * (groups * d) + channel
    if WIDE:
        channel = channel.to(tl.int64)
    return channel * n + position


@triton.jit
def start(
    sample, block, chunk, groups, d, n, LAST: tl.constexpr,
    GROUPS: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Where a tile lies from the first number of all."""
    first = sample.to(tl.int64) * groups * d * n
    channel = tl.cast(block, tl.int64) * GROUPS * d
    position = tl.cast(chunk, tl.int64) * POSITIONS
    if LAST:
        return first + position * groups * d + channel
    return first + channel * n + position


@triton.jit
def within(
    block, chunk, groups, d: tl.constexpr, n, EXACT: tl.constexpr,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Which numbers of a tile its map has, as they lie in memory."""
    inside = (chunk * POSITIONS + tl.arange(0, POSITIONS) < n)[None, :]
    if not EXACT:
        channel = tl.arange(0, GROUPS * DEPTH)[:, None]
        there = (block * GROUPS + channel // DEPTH < groups) & (channel % DEPTH < d)
        inside = there & inside
    return inside


@triton.jit
def read(pointer, at, inside, GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr):
    """A tile in float32."""
    found = tl.load(pointer + at, mask=inside, other=0.0)
    return tl.reshape(found, [GROUPS, DEPTH, POSITIONS]).to(tl.float32)


@triton.jit
def write(
    pointer, at, inside, tile, GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr
):
    """A tile in the type of the map."""
    flat = tl.reshape(tile.to(pointer.dtype.element_ty), [GROUPS * DEPTH, POSITIONS])
    tl.store(pointer + at, flat, mask=inside)


@triton.jit
def fetched(pointer, present):
    """What another program may just have written: from the cache that all programs share."""
    return tl.load(pointer, mask=present, other=0.0, cache_modifier=".cg")


@triton.jit
def positions_of(chunk, n, POSITIONS: tl.constexpr):
    """Which positions the map has, [1, POSITIONS], and how many of them."""
    first = chunk * POSITIONS
    return (first + tl.arange(0, POSITIONS) < n)[None, :], tl.minimum(n - first, POSITIONS)


@triton.jit
def groups_of(block, groups, GROUPS: tl.constexpr):
    """The block's groups and which of them there are."""
    group = block * GROUPS + tl.arange(0, GROUPS)
    return group, group < groups


@triton.jit
def channels_of(block, groups, d, GROUPS: tl.constexpr, DEPTH: tl.constexpr):
    """The channels of the block's groups, [GROUPS, DEPTH], and which of them there are."""
    group = block * GROUPS + tl.arange(0, GROUPS)[:, None]
    row = tl.arange(0, DEPTH)[None, :]
    return group * d + row, (group < groups) & (row < d)


@triton.jit
def snapped(mean, x, channel, present, sample, groups, d, n, LAST: tl.constexpr):
    """On a constant map exactly its value, which the rounded mean of it is not."""
    base = sample.to(tl.int64) * groups * d * n
    if LAST:
        first = base + channel
        last = first + tl.cast(n - 1, tl.int64) * groups * d
    else:
        first = base + channel.to(tl.int64) * n
        last = first + (n - 1)
    one = tl.load(x + first, mask=present, other=0.0).to(tl.float32)
    other = tl.load(x + last, mask=present, other=0.0).to(tl.float32)
    near = tl.abs(one - mean) <= 9.6e-7 * tl.abs(one)  # 8 units of the last place
    return tl.where(near & (one == other), one, mean)


@triton.jit
def means_of_tile(xs, valid, count):
    """Of each channel of a tile that is 0 beyond its map: the mean, in two parts whose sum has
    twice the digits, and what the first part leaves."""
    part = 1.0 / count
    high = tl.sum(xs, 2) * part
    rest = tl.where(valid[:, None, :], xs - high[:, :, None], 0.0)
    return high, tl.sum(rest, 2) * part, rest


@triton.jit
def in_two(wide):
    """A float64 as the sum of two float32."""
    high = wide.to(tl.float32)
    return high, (wide - high.to(tl.float64)).to(tl.float32)


@triton.jit
def affine(norm_mean, norm_invstd, norm_weight, norm_bias, means, channel, present):
    """What the norm does to a channel: its scale, the mean that it gives z in this sample, and
    how far the sample's mean is from the norm's.

    `means` are those of x in this sample. They and the norm's are float64: what float32 rounds
    off a mean is more than it rounds off z where the mean is a thousand deviations.
    """
    scale = tl.load(norm_invstd + channel, mask=present, other=0.0)
    if norm_weight is not None:
        scale *= tl.load(norm_weight + channel, mask=present, other=0.0).to(tl.float64)
    away = means - tl.load(norm_mean + channel, mask=present, other=0.0)
    g = scale * away  # which may all but cancel the bias
    if norm_bias is not None:
        g += tl.load(norm_bias + channel, mask=present, other=0.0).to(tl.float64)
    return scale.to(tl.float32), g.to(tl.float32), away.to(tl.float32)


@triton.jit
def centred(xs, high, low):
    """x less its sample's mean, which comes in two parts; anything at positions beyond the map."""
    return (xs - high[:, :, None]) - low[:, :, None]


@triton.jit
def likeness(rest, g):
    """Equation 2, [GROUPS, POSITIONS]: how much each position resembles the group's mean."""
    return tl.sum(rest * g[:, :, None], 1)


@triton.jit
def features(xs, g, means, norm_mean, norm_invstd, norm_weight, norm_bias, row, channel, present):
    """Of a tile: x less its sample's mean, the likeness c, and z, which the gate multiplies.

    Then, of each channel, the norm's scale, the mean of z, and how far the mean of x is from
    the norm's. Without a norm z is x, and the scale and the last mean nothing.
    """
    if means is not None:
        wide = fetched(means + row, present)
        high, low = in_two(wide)
        scale, descriptor, away = affine(
            norm_mean, norm_invstd, norm_weight, norm_bias, wide, channel, present
        )
        rest = centred(xs, high, low)
        c = likeness(rest, scale * descriptor)
        z = rest * scale[:, :, None] + descriptor[:, :, None]
    else:
        descriptor = fetched(g + row, present)
        rest = xs - descriptor[:, :, None]
        c = likeness(rest, descriptor)
        z = xs
        scale = descriptor
        away = descriptor
    return rest, c, z, scale, descriptor, away


@triton.jit
def numbers_of(weight, bias, mean, std, group, to, there):
    """What belongs to each group: the parameters, and the likeness's mean and deviation."""
    w = tl.load(weight + group, mask=there, other=0.0).to(tl.float32)
    b = tl.load(bias + group, mask=there, other=0.0).to(tl.float32)
    return w, b, fetched(mean + to, there), fetched(std + to, there)


@triton.jit
def gate(c, mean, std, weight, bias, eps, valid):
    """Equations 3 and 4: the normalised likeness, 0 beyond the map, and its gate."""
    t = tl.where(valid, (c - mean[:, None]) / (std + eps)[:, None], 0.0)
    return t, tl.sigmoid(weight[:, None] * t + bias[:, None])


@triton.jit
def arrives(dy, y, at, inside, GROUPS: tl.constexpr, DEPTH: tl.constexpr, POSITIONS: tl.constexpr):
    """What arrives before the ReLU, or dy itself where there is no y."""
    dz = read(dy, at, inside, GROUPS, DEPTH, POSITIONS)
    if y is not None:
        dz = tl.where(read(y, at, inside, GROUPS, DEPTH, POSITIONS) <= 0, 0.0, dz)
    return dz


@triton.jit
def slopes(dweight, weight, std, n, eps):
    """kappa and weight / D, as `sgekit.ops.derivatives` has them."""
    deviation = std + eps
    some = std > 0
    kappa = dweight * deviation / (tl.maximum(n - 1, 1) * tl.where(some, std, 1.0))
    return tl.where(some, kappa, 0.0), weight / deviation
