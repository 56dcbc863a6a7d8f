"""How large the kernels' tiles are: a short fixed table, no search at a user's first step.

A tile stays in registers with room for several programs on a processor, as the compiler reports
for compute capability 8.0 to 10.0 (tests/ops/test_triton_compiled.py). No GPU has timed it yet.
"""

import math
from typing import Any, NamedTuple


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


SIZES = Sizes(tile=4096, once=8192, gathered=4096, thread=32)
NARROW = Sizes(tile=2048, once=2048, gathered=1024, thread=8)
"""Where each number has an address of its own in a thread, there is room for fewer."""
DEEPEST = 4096
"""Channels of a group, at most: a tile holds all of them."""
ADJACENT = 16
"""Channels that a tile has next to one another where they are in memory: a sector of 32 bytes."""
ALIGN = 16
"""What may divide the numbers of groups and positions is of interest up to this."""
NEAR = 2**18
"""Bytes that a program's groups may have where it goes over them more than once. What it has
read is then in the cache next to it, or in the one behind."""


class Tile(NamedTuple):
    """Groups, channels of a group and positions, each a power of two."""

    groups: int
    depth: int
    positions: int
    thread: int = SIZES.thread

    @property
    def warps(self) -> int:
        """4 or 8."""
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
            "EVEN": math.gcd(groups, ALIGN),
            "ALIGN": math.gcd(n, ALIGN),
            "POSITIONS": self.positions,
        }

    def wide(self, channels: int, n: int, last: bool) -> bool:
        """Whether offsets inside a tile need more than 32 bits."""
        return (self.positions * channels if last else self.groups * self.depth * n) >= 2**31


def tile(groups: int, d: int, n: int, last: bool) -> Tile:
    """For maps of n positions with groups of d channels, adjacent in memory or not."""
    depth = power(d)
    adjacent = groups * d if last and depth == d else 1 if last else n
    sizes = SIZES if adjacent % 4 == 0 else NARROW
    together = max(min(ADJACENT // depth, power(groups)), 1) if last else 1
    positions = power(n)
    if together * depth * positions > sizes.once:
        positions = min(max(sizes.tile // (together * depth), 1), positions)
    while together < groups and 2 * together * depth * positions <= sizes.gathered:
        together *= 2
    return Tile(together, depth, positions, sizes.thread)


def power(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(number - 1, 0).bit_length()
