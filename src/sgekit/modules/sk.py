"""Selective Kernel convolution as a layer."""

from math import gcd
from typing import ClassVar, Literal

import torch
from timm.layers import selective_kernel

from sgekit.errors import InputError
from sgekit.modules.groups import resolve_groups
from sgekit.modules.widths import check_reduction

DEFAULT_GROUPS = 32
LEAST_HIDDEN = 32


class SelectiveKernel(selective_kernel.SelectiveKernel):
    """A 3x3 convolution whose channels choose between two sizes of the receptive field.

    From "Selective Kernel Networks", arXiv 1903.06586, section 3.1: two grouped 3x3
    convolutions with dilation 1 and 2, each with BatchNorm and ReLU; from the means of their
    sum two layers, C to max(C/r, 32) with BatchNorm and ReLU and to 2 C, and a softmax between
    the two for each channel weighs them. r = 16, 32 groups. timm's layer, without its split
    of the input.

    No gate: it takes the place of a 3x3 convolution together with its norm and activation,
    and so takes `out_channels` (None: `channels`), `stride` and `dilation` as well.
    `groups="auto"` is the number nearest to 32 that divides both channels.

    Takes `(B, channels, H, W)` and returns `(B, out_channels, H', W')`. In training it needs a
    batch of two or more: PyTorch's BatchNorm refuses the means of one image.
    """

    placement: ClassVar[str] = "conv"
    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int | Literal["auto"] = "auto",
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_reduction(reduction)
        out = channels if out_channels is None else out_channels
        super().__init__(
            channels,
            out,
            stride=stride,
            dilation=dilation,
            groups=resolve_groups(gcd(channels, out), groups, DEFAULT_GROUPS),
            rd_channels=max(out // reduction, LEAST_HIDDEN),
            split_input=False,
            device=device,
            dtype=dtype,
        )

    def neutralize(self) -> float:
        """Raises InputError: a convolution can't multiply its input by a constant."""
        raise InputError(
            "sk is a convolution, so it can't leave a trained network's function as it is; "
            "insert it with preserve=False and train"
        )
