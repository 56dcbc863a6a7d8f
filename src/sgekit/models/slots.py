"""Where a timm network has room for attention, and putting it there."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import timm.models.res2net
import timm.models.resnet
import timm.models.sknet
from torch import nn

BLOCKS: tuple[type[nn.Module], ...] = (
    timm.models.resnet.BasicBlock,
    timm.models.resnet.Bottleneck,
    timm.models.sknet.SelectiveKernelBasic,
    timm.models.sknet.SelectiveKernelBottleneck,
    timm.models.res2net.Bottle2neck,
)
"""timm's blocks with a slot `se` after the last BatchNorm and before the residual add."""


class Slot(NamedTuple):
    """One place for attention."""

    name: str
    """The attention layer's name in the model, such as "layer1.0.se"."""
    block: nn.Module
    channels: int


def slots(model: nn.Module) -> Iterator[Slot]:
    """Every slot of `model`, in the order of its blocks; none for other families."""
    for name, block in model.named_modules():
        if isinstance(block, BLOCKS):
            yield Slot(f"{name}.se" if name else "se", block, _out_channels(block))


def _out_channels(block: nn.Module) -> int:
    # The convolution, not the norm: a GroupNorm calls its width by another name.
    last = block.conv3 if hasattr(block, "conv3") else block.conv2
    return int(last.out_channels)  # type: ignore[union-attr, arg-type]


def fill(slot: Slot, make: Callable[..., nn.Module]) -> None:
    """Put `make(channels, device=, dtype=)` into the slot, made where the block's weights are."""
    weight = next(slot.block.parameters())
    layer = make(slot.channels, device=weight.device, dtype=weight.dtype)
    layer.train(slot.block.training)
    slot.block.se = layer
