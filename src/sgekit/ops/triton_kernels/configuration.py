"""How large the kernels' tiles are: a short fixed table, no search at a user's first step.

A tile stays in registers with room for several programs on a processor, as the compiler reports
for compute capability 8.0 to 10.0 (tests/ops/test_triton_compiled.py). No GPU has timed it yet.
"""

from typing import Any, NamedTuple, cast

import torch


class Sizes(NamedTuple):
    """Numbers of a tile, for memory that is read in 8 bytes at a time or more, or in less."""

    tile: int
    """Where a group has more than the next."""
    once: int
    """That holds all of its groups: they are read once and stay on the chip."""
    gathered: int
    """That small groups are gathered to."""
    thread: int
    """That a thread has. What it does once for its tile is spread over them, and as many bytes are
    on their way at a time as memory's latency wants."""


ONE = Sizes(tile=8192, once=8192, gathered=8192, thread=64)
"""For kernels that hold one map at a time."""
TWO = Sizes(tile=4096, once=8192, gathered=4096, thread=32)
"""For those of the gradient, which hold x and dy."""
FEW = Sizes(tile=2048, once=4096, gathered=2048, thread=16)
"""For gradients of groups of one channel; and where positions of whole channels are read one by
one."""
NARROW = Sizes(tile=2048, once=2048, gathered=1024, thread=8)
"""Where channels are read one by one: each number has an address of its own in a thread."""
GPUS = ("cuda", "xpu")
"""Where Triton's kernels run; "cuda" is ROCm's name as well."""
DEEP = 1024
"""Channels of a group, beyond which what belongs to each of them is what fills registers."""
DEEPEST = 4096
"""Channels of a group, at most: a tile holds all of them."""
ADJACENT = 16
"""Channels that a tile has next to one another where they are in memory: a sector of 32 bytes."""
ALIGN = 16
"""What may divide the numbers of groups and positions is of interest up to this."""
NEAR = 2**16
"""Bytes that a program's groups may have where it goes over them more than once. What it has
read is then in the cache next to it; those of all programs of a GPU at a time fit into the one
behind, of 40 to 60 MB."""
SMALL = 64
"""Positions up to which the kernels are compiled for their number."""
SET = 2**19
"""Numbers whose steps follow closely on one another where groups are too large for that."""
APART = 768
"""Programs that begin between the end of a set's step and its next, more than a GPU has at a time:
what the next step waits for is done by then."""
MERGED = 1024
"""Statistics of chunks that one program puts together at a time."""
SPAN = 64
"""Bytes side by side in memory that one set has at least: what memory hands out at once."""


class Tile(NamedTuple):
    """Groups, channels of a group and positions, each a power of two."""

    groups: int
    depth: int
    positions: int
    thread: int

    @property
    def warps(self) -> int:
        """4 or 8, or 16 where a thread would have too much of a group's channels."""
        if self.depth > DEEP:
            return 16
        return min(max(self.groups * self.depth * self.positions // (32 * self.thread), 4), 8)

    def chunks(self, n: int) -> int:
        """How many of them a group takes."""
        return -(-n // self.positions)

    def blocks(self, groups: int) -> int:
        """How many of them a sample takes beside one another."""
        return -(-groups // self.groups)

    def near(self, n: int, itemsize: int) -> bool:
        """Whether one program goes over all chunks of its groups."""
        return self.groups * self.depth * n * itemsize <= NEAR

    def lies(self, channels: int, groups: int, n: int, last: bool) -> dict[str, Any]:
        """What kernels on tiles of such maps are compiled for, but for their type."""
        return {
            "LAST": last,
            "WIDE": self.wide(channels, n, last),
            "EXACT": groups % self.groups == 0 and self.depth * groups == channels,
            "EVEN": divisor(groups),
            "ALIGN": divisor(n),
            "SIZE": n if n <= SMALL else 0,
            "POSITIONS": self.positions,
        }

    def turns(
        self, samples: int, groups: int, n: int, last: bool, itemsize: int, steps: int
    ) -> "Turns":
        """How maps of which a program has one chunk are gone over."""
        block, blocks = self.groups * self.depth * n, self.blocks(groups)
        least = -(-SPAN // (self.groups * self.depth * itemsize)) if last else 1
        span = 1
        for k in (k for k in range(2, blocks + 1) if blocks % k == 0):
            if k * block > SET:
                break
            span = k
        while span < least and blocks % (2 * span) == 0:
            span *= 2
        column = span * block
        many = torch.sym_max((SET + column // 2) // column, 1)
        columns = samples * (blocks // span)
        if isinstance(samples, int):  # in a graph with any number of samples it is none
            many = torch.sym_min(many, -(-columns // steps))
        sets = -(-columns // many)
        # Programs between a column's last chunk in one step and its first in the next: those of
        # lag * many - 1 columns in each step.
        apart = -(-APART // (steps * span * self.chunks(n))) + 1
        lag = torch.sym_max(torch.sym_min(-(-apart // many), sets // (steps - 1)), 1)
        return Turns(*cast(tuple[int, int, int, int], (span, many, sets, lag)))

    @property
    def merged(self) -> int:
        """Chunks whose statistics are put together at a time."""
        return max(MERGED // (self.groups * self.depth), 1)

    def wide(self, channels: int, n: int, last: bool) -> bool:
        """Whether offsets inside a tile need more than 32 bits."""
        return (self.positions * channels if last else self.groups * self.depth * n) >= 2**31


class Turns(NamedTuple):
    """The order in which programs with a chunk each take their steps; `turns.turn` tells more."""

    span: int
    """Blocks of groups that a column of a set has side by side."""
    many: int
    """Columns of a set."""
    sets: int
    lag: int
    """Sets from one step of a set to its next."""

    def programs(self, chunks: int, steps: int) -> int:
        """How many there are, those included whose column the last set lacks."""
        return steps * self.sets * self.many * self.span * chunks


def tile(groups: int, d: int, n: int, last: bool, maps: int) -> Tile:
    """For maps of n positions with groups of d channels, adjacent in memory or not.

    `maps`: how many a program gates at a time, one or two, or none where it takes sums alone.
    """
    depth = power(d)
    adjacent = groups * d if last and depth == d else 1 if last else n
    alone = d == 1 and maps > 0  # each number has a likeness and a gate: as much as a map more
    sizes = (ONE, TWO, FEW)[max(maps - 1, 0) + alone]
    if adjacent % 4 != 0:
        sizes = NARROW if last else FEW
    together = max(min(ADJACENT // depth, power(groups)), 1) if last else 1
    positions = power(n) if n <= sizes.once else 2 * sizes.once  # a graph holds for all larger
    if together * depth * positions > sizes.once:
        positions = min(max(sizes.tile // (together * depth), 1), positions)
    while together < groups and 2 * together * depth * positions <= sizes.gathered:
        together *= 2
    return Tile(together, depth, positions, sizes.thread)


def power(number: int) -> int:
    """The least power of two that is not less."""
    found = 1
    while found < number:  # a graph holds for all numbers between two powers
        found *= 2
    return found


def divisor(number: int) -> int:
    """The largest power of two up to ALIGN that divides it."""
    found = ALIGN
    while number % found:
        found //= 2
    return found
