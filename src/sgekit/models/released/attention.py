"""CBAM and BAM in the variants of the released networks."""

from typing import Any

import torch
from torch import Tensor, nn


class ReleasedCbam(nn.Module):
    """Scales every channel, then every position, by a gate from average and maximum pooling.

    CBAM (arXiv 1807.06521, equations 2 and 3) as the authors of SGE trained it: the MLP has
    biases, the 7x7 convolution sees the maximum before the mean, and its BatchNorm's weight
    starts at 0, so that every position starts with the gate 1/2.

    Takes and returns `(B, channels, H, W)`.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.reduce = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.expand = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(1, momentum=0.01, device=device, dtype=dtype)
        nn.init.zeros_(self.reduce.bias)
        nn.init.zeros_(self.expand.bias)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        sums = self._mlp(x.mean((2, 3))) + self._mlp(x.amax((2, 3)))
        x = x * torch.sigmoid(sums)[:, :, None, None]
        maps = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.norm(self.conv(maps)))

    def _mlp(self, pooled: Tensor) -> Tensor:
        out: Tensor = self.expand(self.reduce(pooled).relu())
        return out


class ReleasedBam(nn.Module):
    """x * (1 + sigmoid(channel gate * spatial gate)), made for the place between two stages.

    BAM (arXiv 1807.06514, equations 3 to 5; r = 16, dilation 4) as the authors of SGE trained
    it: the two gates are multiplied, where BAM's paper adds them. Each gate's last layer starts
    with the usual random weights and every bias at 0.

    Takes and returns `(B, channels, H, W)`. In training the channel gate's BatchNorm needs
    two images or more, as PyTorch's does.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        dilation: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(
            nn.Linear(channels, hidden, **dd),
            nn.BatchNorm1d(hidden, **dd),
            nn.ReLU(),
            nn.Linear(hidden, channels, **dd),
        )
        layers: list[nn.Module] = []
        for kernel, width in ((1, channels), (3, hidden), (3, hidden)):
            spread = dilation if kernel == 3 else 1
            padding = spread * (kernel // 2)
            layers += [
                nn.Conv2d(width, hidden, kernel, padding=padding, dilation=spread, **dd),
                nn.BatchNorm2d(hidden, **dd),
                nn.ReLU(),
            ]
        self.spatial = nn.Sequential(*layers, nn.Conv2d(hidden, 1, 1, **dd))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        channel = self.channel(x.mean((2, 3)))[:, :, None, None]
        return x * (1 + torch.sigmoid(channel * self.spatial(x)))
