"""Where batch, groups, channels and positions lie in a tensor, as views only.

Shapes use one notation throughout: B samples, C = G * d channels in G groups of d,
n positions (the product of the spatial sizes).
"""

from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """How `(B, C, *spatial)` or `(B, *spatial, C)` splits into groups.

    Splitting only ever divides the channel axis, which is a view whatever the strides, so
    a tensor in channels_last stays in channels_last.
    """

    groups: int
    channel_dim: int
    """The channel axis, 1 or -1."""
    channels: int
    """The axis of the d channels of one group, after `split`."""
    positions: tuple[int, ...]
    """The axes of the n positions, after `split`."""

    @classmethod
    def of(cls, x: Tensor, groups: int, channel_dim: int) -> "Layout":
        """The layout of `x`, whose channel axis is `channel_dim` (1 or -1)."""
        if channel_dim == 1:
            return cls(groups, 1, 2, tuple(range(3, x.dim() + 1)))
        return cls(groups, -1, x.dim(), tuple(range(1, x.dim() - 1)))

    def split(self, x: Tensor) -> Tensor:
        """The channel axis in two: `(B, G, d, *spatial)` or `(B, *spatial, G, d)`."""
        d = x.shape[self.channel_dim] // self.groups
        view: Tensor = x.unflatten(self.channel_dim, (self.groups, d))  # type: ignore[no-untyped-call]
        return view

    def merge(self, x: Tensor) -> Tensor:
        """The inverse of `split`; a view for every dense tensor that kept its strides."""
        return x.flatten(self.channels - 1, self.channels)

    def per_group(self, vector: Tensor) -> Tensor:
        """`(G,)` reshaped so that it broadcasts against split tensors."""
        shape = [1] * (3 + len(self.positions))
        shape[self.channels - 1] = self.groups
        return vector.reshape(shape)

    def pack(self, value: Tensor) -> Tensor:
        """A split tensor with one position as `(B, G, d)`, or `(B, G)` where d was summed too."""
        packed = value.squeeze(self.positions)
        return packed.squeeze(2) if value.shape[self.channels] == 1 else packed

    def unpack(self, value: Tensor) -> Tensor:
        """`(B, G)` or `(B, G, d)` reshaped so that it broadcasts against split tensors."""
        inner = value.shape[2] if value.dim() == 3 else 1
        ones = [1] * len(self.positions)
        if self.channel_dim == 1:
            return value.reshape([value.shape[0], self.groups, inner, *ones])
        return value.reshape([value.shape[0], *ones, self.groups, inner])

    def corner(self, split: Tensor, end: int) -> Tensor:
        """The first (0) or last (-1) position of a split tensor; empty where there is none."""
        for axis in self.positions:
            index = slice(None, 1) if end == 0 else slice(-1, None)
            split = split[(slice(None),) * axis + (index,)]
        return split

    def count(self, split: Tensor) -> int:
        """n, the number of positions of a split tensor."""
        n = 1
        for axis in self.positions:
            n *= split.shape[axis]
        return n
