"""Gather-Excite as a layer."""

from collections import OrderedDict
from typing import ClassVar

import torch
from timm.layers import gather_excite
from timm.layers.mlp import ConvMlp
from torch import nn

from sgekit.errors import InputError
from sgekit.modules.widths import hidden_channels, zero


class GatherExcite(gather_excite.GatherExcite):
    """Scales every position of every channel by a gate from the channel's wider surroundings.

    From "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks", arXiv
    1810.12348, section 2: x * sigmoid(interpolate(gather(x))), nearest neighbours. timm's
    layer; the parts with parameters are made here, timm's constructor can't make them.

    `extent` e is by how much the gathered map is smaller, a power of two, or 0 for the whole
    map. `learned` gathers by log2(e) depthwise 3x3 convolutions of stride 2 with BatchNorm,
    ReLU between them (the paper's GE-theta); else it is the mean over 2 e - 1 positions each way
    (GE-theta-). `mlp` puts two layers, C to C/r and back, before the sigmoid (GE-theta+).
    A learned gathering of the whole map would fix its size: InputError.

    Takes and returns `(B, channels, H, W)`. In training with `learned`, BatchNorm refuses one
    image whose gathered map is 1x1, as that of a map up to e x e is.
    """

    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        extent: int = 8,
        learned: bool = True,
        mlp: bool = False,
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if extent == 1 or extent < 0 or extent & (extent - 1):
            raise InputError(f"extent must be 2, 4, 8, ... or 0 for the whole map, not {extent}")
        if learned and extent == 0:
            raise InputError(
                "a learned gathering of the whole map (extent=0) would fix the map's size; "
                "choose extent=8, or learned=False"
            )
        super().__init__(channels, extent=extent, use_mlp=False, device=device, dtype=dtype)
        if learned:
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            steps = extent.bit_length() - 1
            for i in range(1, steps + 1):
                parts[f"conv{i}"] = nn.Conv2d(
                    channels, channels, 3, 2, 1, groups=channels, bias=False,
                    device=device, dtype=dtype,
                )  # fmt: skip
                parts[f"norm{i}"] = nn.BatchNorm2d(channels, device=device, dtype=dtype)
                if i < steps:
                    parts[f"act{i}"] = nn.ReLU(inplace=True)
            self.gather = nn.Sequential(parts)
        if mlp:
            hidden = hidden_channels(channels, reduction)
            self.mlp = ConvMlp(channels, hidden, device=device, dtype=dtype)

    def neutralize(self) -> float:
        """Make every gate sigmoid(0), whatever the input, and return it.

        Raises InputError where the layer has no parameters.
        """
        if isinstance(self.mlp, ConvMlp):
            zero(self.mlp.fc2)
        elif self.gather is not None:
            zero(self.gather[-1])
        else:
            raise InputError(
                "ge without learned and mlp has no parameters, so it can't leave a trained "
                "network's function as it is; insert it with preserve=False and train"
            )
        return 0.5
