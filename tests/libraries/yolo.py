"""A detector of the YOLO kind from `torch.nn` alone, its parts named for what they do."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Unit(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Bottleneck(nn.Module):
    """Two 3x3 units, with a shortcut around them in the backbone."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.first = Unit(channels, channels, 3)
        self.second = Unit(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return x + out if self.shortcut else out


class Partial(nn.Module):
    """A cross-stage partial block: one half goes by, the other through bottlenecks, all joined."""

    def __init__(self, inputs: int, outputs: int, depth: int, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.enter = Unit(inputs, outputs)
        self.blocks = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(depth))
        self.leave = Unit(half * (2 + depth), outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        out: Tensor = self.leave(torch.cat(parts, 1))
        return out


class Pooling(nn.Module):
    """Spatial pyramid pooling: one maximum over 5x5 taken again and again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = Unit(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = Unit(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        out: Tensor = self.leave(torch.cat(parts, 1))
        return out


class Backbone(nn.Module):
    """Maps at strides 8, 16 and 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = Unit(3, width, 3, 2)
        self.stages = nn.ModuleList()
        for index, depth in enumerate((1, 2, 2, 1)):
            inputs, outputs = width << index, width << index + 1
            layers = [Unit(inputs, outputs, 3, 2), Partial(outputs, outputs, depth, shortcut=True)]
            self.stages.append(nn.Sequential(*layers))
        self.pooling = Pooling(width * 16)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps[1:3], self.pooling(x)]


class Neck(nn.Module):
    """Coarse maps are carried down to fine ones, and these up again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        fine, middle, coarse = width * 4, width * 8, width * 16
        self.up = nn.Upsample(scale_factor=2)
        self.down_middle = Partial(coarse + middle, middle, 1, shortcut=False)
        self.down_fine = Partial(middle + fine, fine, 1, shortcut=False)
        self.shrink_fine = Unit(fine, fine, 3, 2)
        self.up_middle = Partial(fine + middle, middle, 1, shortcut=False)
        self.shrink_middle = Unit(middle, middle, 3, 2)
        self.up_coarse = Partial(middle + coarse, coarse, 1, shortcut=False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        middle = self.down_middle(torch.cat([self.up(coarse), middle], 1))
        fine = self.down_fine(torch.cat([self.up(middle), fine], 1))
        middle = self.up_middle(torch.cat([self.shrink_fine(fine), middle], 1))
        coarse = self.up_coarse(torch.cat([self.shrink_middle(middle), coarse], 1))
        return [fine, middle, coarse]


class Head(nn.Module):
    """At every level a branch for boxes and one for classes."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.boxes = nn.ModuleList(self._branch(width, 4) for width in widths)
        self.classes = nn.ModuleList(self._branch(width, classes) for width in widths)

    def _branch(self, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(Unit(width, width, 3), nn.Conv2d(width, outputs, 1))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = zip(maps, self.boxes, self.classes, strict=True)
        return [torch.cat([boxes(x), classes(x)], 1) for x, boxes, classes in levels]


class Yolo(nn.Module):
    """Returns a map (B, 4 + classes, H, W) at strides 8, 16 and 32."""

    def __init__(self, classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.backbone = Backbone(width)
        self.neck = Neck(width)
        self.head = Head([width * 4, width * 8, width * 16], classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        out: list[Tensor] = self.head(self.neck(self.backbone(x)))
        return out
