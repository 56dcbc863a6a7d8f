"""The bottleneck of the released SK networks."""

from typing import Any

import torch
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

GROUPED = 32


class SelectiveBottleneck(Bottleneck):
    """timm's bottleneck whose 3x3 convolution is chosen, channel by channel, from two.

    Selective kernels (arXiv 1903.06586, section 3.1) as the authors of SGE trained them: one
    branch is a dense 3x3 convolution, the other a 3x3 convolution in 32 groups, both without
    dilation; r = 16 and no lower bound on the hidden width.

    Takes what timm's bottleneck takes, apart from a cardinality, anti-aliasing and DropBlock.
    """

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(inplanes, planes, stride, downsample, **kwargs, **dd)
        dense = self.conv2
        width, hidden = dense.out_channels, dense.out_channels // 16
        norm = type(self.bn2)
        self.conv2_grouped = nn.Conv2d(
            width,
            width,
            3,
            stride=dense.stride,  # type: ignore[arg-type]
            padding=dense.padding,  # type: ignore[arg-type]
            dilation=dense.dilation,  # type: ignore[arg-type]
            groups=GROUPED,
            bias=False,
            **dd,
        )
        self.bn2_grouped = norm(width, **dd)
        self.squeeze = nn.Conv2d(width, hidden, 1, bias=False, **dd)
        self.squeeze_bn = norm(hidden, **dd)
        self.select = nn.Conv2d(hidden, 2 * width, 1, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        dense = self.act2(self.bn2(self.conv2(x)))
        grouped = self.act2(self.bn2_grouped(self.conv2_grouped(x)))
        pooled = dense.mean((2, 3), keepdim=True) + grouped.mean((2, 3), keepdim=True)
        scores = self.select(self.squeeze_bn(self.squeeze(pooled)).relu())
        # The first half of the channels is the dense branch's.
        share = torch.softmax(scores.unflatten(1, (2, -1)), dim=1)
        x = self.bn3(self.conv3(dense * share[:, 0] + grouped * share[:, 1]))
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        out: Tensor = self.act3(x + shortcut)
        return out
