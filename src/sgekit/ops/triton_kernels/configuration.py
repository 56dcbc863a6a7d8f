"""How large the kernels' tiles are: a short fixed table, no search at a user's first step.

A tile stays in registers with room for several programs on a processor, as the compiler reports
for compute capability 8.0 to 10.0 (tests/ops/test_triton_compiled.py). No GPU has timed it yet.
"""

from typing import NamedTuple

TILE = 2048
"""Numbers of a tile, where a group has so many."""
GATHERED = 1024
"""Numbers that small groups are gathered to."""
THREAD = 8
"""Numbers a thread has."""
DEEPEST = 4096
"""Channels of a group, at most: a tile holds all of them."""
ADJACENT = 16
"""Channels that a tile has next to one another where they are in memory: a sector of 32 bytes."""
NEAR = 2**18
"""Bytes that a program's groups may have where it goes over them more than once. What it has
read is then in the cache next to it, or in the one behind."""


class Tile(NamedTuple):
    """Groups, channels of a group and positions, each a power of two."""

    groups: int
    depth: int
    positions: int

    @property
    def warps(self) -> int:
        """4 or 8."""
        return min(max(self.groups * self.depth * self.positions // (32 * THREAD), 4), 8)

    def chunks(self, n: int) -> int:
        """How many of them a group takes."""
        return -(-n // self.positions)

    def blocks(self, groups: int) -> int:
        """How many of them a sample takes beside one another."""
        return -(-groups // self.groups)

    def near(self, n: int, itemsize: int) -> bool:
        """Whether one program goes over all chunks of its groups."""
        return self.groups * self.depth * n * itemsize <= NEAR

    def wide(self, channels: int, n: int, last: bool) -> bool:
        """Whether offsets inside a tile need more than 32 bits."""
        return (self.positions * channels if last else self.groups * self.depth * n) >= 2**31


def tile(groups: int, d: int, n: int, last: bool) -> Tile:
    """For maps of n positions with groups of d channels, adjacent in memory or not."""
    depth = power(d)
    together = max(min(ADJACENT // depth, power(groups)), 1) if last else 1
    positions = min(max(TILE // (together * depth), 1), power(n))
    while together < groups and 2 * together * depth * positions <= GATHERED:
        together *= 2
    return Tile(together, depth, positions)


def power(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(number - 1, 0).bit_length()
