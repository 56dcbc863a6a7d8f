"""Small networks, one for each way that blocks are made."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 8


class Residual(nn.Module):
    """`after(branch(x) + shortcut(x))`."""

    def __init__(
        self,
        branch: nn.Module,
        shortcut: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()
        self.after = after or nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x)
        out += self.shortcut(x)
        return self.after(out)  # type: ignore[no-any-return]


class Scale(nn.Module):
    """Layer scale: a parameter for each channel."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Gate(nn.Module):
    """Multiplies every number by one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x).sigmoid()  # type: ignore[no-any-return]


class Surroundings(nn.Module):
    """Multiplies by what a map of half the size says, as GhostNetV2 and gather-excite do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.interpolate(self.conv(x), x.shape[2:]).sigmoid()


class Permuted(nn.Module):
    """A part that works on `(B, H, W, C)`."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


class Split(nn.Module):
    """Res2Net's middle: every slice goes through a convolution with the result of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(2, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, 2, 1)
        out = [self.convs[0](parts[0])]
        for part, layer in zip(parts[1:3], self.convs[1:], strict=False):
            out.append(layer(out[-1] + part))
        return torch.cat([*out, parts[3]], 1)


class Dense(nn.Module):
    """`cat(x, branch(x))`."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


class Shuffle(nn.Module):
    """ShuffleNetV2's: half of the channels pass, then all are shuffled."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, 1)
        out = torch.cat([one, self.branch(two)], 1)
        b, c, h, w = out.shape
        return out.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class Parallel(nn.Module):
    """Several branches, concatenated or added."""

    def __init__(self, *branches: nn.Module, add: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        return F.relu(sum(parts[1:], parts[0])) if self.add else torch.cat(parts, 1)


class UNet(nn.Module):
    """One step down and up, the map from before concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3), conv(stride=2)
        self.up = nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2)
        self.last = conv(2 * CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu(self.stem(x))
        up = self.up(F.relu(self.down(wide)))
        return self.last(torch.cat([wide, up], 1))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Tokens, on `(B, H, W, C)`: the residual stream of a Swin block."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(1, 2)).chunk(3, -1)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out).view(x.shape)  # type: ignore[no-any-return]


def conv(inputs: int = CHANNELS, outputs: int = CHANNELS, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


def chain(*last: nn.Module, outputs: int = CHANNELS, stride: int = 1) -> nn.Sequential:
    """conv, norm, ReLU, conv (which is "3"), and `last` (from "4")."""
    return nn.Sequential(
        conv(stride=stride), nn.BatchNorm2d(CHANNELS), nn.ReLU(True), conv(outputs=outputs), *last
    )


def norm(channels: int = CHANNELS) -> nn.BatchNorm2d:
    """A BatchNorm that has been trained."""
    made = nn.BatchNorm2d(channels)
    for tensor in (made.weight, made.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    for tensor in (made.bias, made.running_mean):
        nn.init.normal_(tensor, 0, 0.1)  # type: ignore[arg-type]
    return made


def net(*blocks: nn.Module, stem: nn.Module | None = None) -> Any:
    """A stem, `blocks` and a mean over the positions."""
    parts = OrderedDict(stem=stem or conv(3), blocks=nn.Sequential(*blocks))
    parts["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(parts)


def basic() -> Any:
    """Two residual blocks that end in "blocks.0.branch.4" and "blocks.1.branch.4"."""
    return net(Residual(chain(norm())), Residual(chain(norm())))


def image(size: int = 8) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
