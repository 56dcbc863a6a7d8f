"""The equations of the papers, written from them alone: what the layers are tested against.

Each function takes x `(B, C, H, W)` and a layer's parameters and running statistics by name,
and returns what the paper says; `training` tells whose statistics BatchNorm takes. Sums are
written out by einsum and by shifted copies, not by the calls that the layers make.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def mean_of(x: Tensor) -> Tensor:
    """The mean of each channel, (B, C)."""
    return torch.einsum("bchw->bc", x) / (x.shape[2] * x.shape[3])


def linear(z: Tensor, state: State, name: str) -> Tensor:
    """A layer on (B, C, ...), from the weight of a 1x1 convolution."""
    weight = state[f"{name}.weight"]
    out = torch.einsum("oi,bi...->bo...", weight.reshape(weight.shape[:2]), z)
    bias = state.get(f"{name}.bias")
    return out if bias is None else out + bias.reshape(-1, *[1] * (z.dim() - 2))


def conv(x: Tensor, weight: Tensor, dilation: int = 1, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution with an odd square kernel that keeps the size at stride 1, sum by sum."""
    size = weight.shape[-1]
    reach = dilation * (size // 2)
    padded = F.pad(x, (reach, reach, reach, reach))
    height, width = x.shape[2:]
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    out: Any = 0
    for i in range(size):
        for j in range(size):
            top, left = i * dilation, j * dilation
            seen = padded[:, :, top : top + height : stride, left : left + width : stride]
            seen = seen.reshape(x.shape[0], groups, -1, *seen.shape[2:])
            out = out + torch.einsum("goi,bgihw->bgohw", parts[..., i, j], seen)
    flat: Tensor = out.flatten(1, 2)
    return flat


def batch_norm(z: Tensor, state: State, name: str, training: bool) -> Tensor:
    shape = (1, -1, *[1] * (z.dim() - 2))
    if training:
        rest = [0, *range(2, z.dim())]
        mean = z.mean(rest, keepdim=True)
        var = ((z - mean) ** 2).mean(rest, keepdim=True)
    else:
        mean = state[f"{name}.running_mean"].reshape(shape)
        var = state[f"{name}.running_var"].reshape(shape)
    scale, shift = (state[f"{name}.{part}"].reshape(shape) for part in ("weight", "bias"))
    return (z - mean) / torch.sqrt(var + 1e-5) * scale + shift


def each_channel_normed(x: Tensor, state: State) -> Tensor:
    """GN with as many groups as channels, on (B, G, width, H, W) with parameters per width."""
    mean = x.mean((-2, -1), keepdim=True)
    var = ((x - mean) ** 2).mean((-2, -1), keepdim=True)
    scale, shift = (state[f"norm.{part}"][:, None, None] for part in ("weight", "bias"))
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift


def se(x: Tensor, state: State, training: bool) -> Tensor:
    hidden = linear(mean_of(x), state, "fc1").clamp(min=0)
    return x * torch.sigmoid(linear(hidden, state, "fc2"))[:, :, None, None]


def cbam(x: Tensor, state: State, training: bool) -> Tensor:
    def mlp(z: Tensor) -> Tensor:
        return linear(linear(z, state, "channel.fc1").clamp(min=0), state, "channel.fc2")

    x = x * torch.sigmoid(mlp(mean_of(x)) + mlp(x.flatten(2).max(2).values))[:, :, None, None]
    seen = torch.stack((x.sum(1) / x.shape[1], x.max(1).values), 1)
    seen = conv(seen, state["spatial.conv.conv.weight"])
    return x * torch.sigmoid(batch_norm(seen, state, "spatial.conv.bn", training))


def bam(x: Tensor, state: State, training: bool) -> Tensor:
    def norm(z: Tensor, name: str) -> Tensor:
        return batch_norm(z, state, name, training)

    z = norm(linear(mean_of(x), state, "channel.1"), "channel.2").clamp(min=0)
    of_channels = norm(linear(z, state, "channel.4"), "channel.5")
    s = norm(linear(x, state, "spatial.0"), "spatial.1").clamp(min=0)
    for place in (3, 6):
        s = conv(s, state[f"spatial.{place}.weight"], dilation=4)
        s = norm(s, f"spatial.{place + 1}").clamp(min=0)
    of_positions = norm(linear(s, state, "spatial.9"), "spatial.10")
    return x + x * torch.sigmoid(of_channels[:, :, None, None] + of_positions)


def sk(x: Tensor, state: State, training: bool) -> Tensor:
    branches = []
    for i in range(2):
        weight = state[f"paths.{i}.conv.weight"]
        u = conv(x, weight, dilation=i + 1, groups=x.shape[1] // weight.shape[1])
        branches.append(batch_norm(u, state, f"paths.{i}.bn", training).clamp(min=0))
    z = linear(mean_of(branches[0] + branches[1]), state, "attn.fc_reduce")
    z = batch_norm(z, state, "attn.bn", training).clamp(min=0)
    first, second = linear(z, state, "attn.fc_select").chunk(2, 1)
    share = torch.exp(first) / (torch.exp(first) + torch.exp(second))
    share = share[:, :, None, None]
    return share * branches[0] + (1 - share) * branches[1]


def gc(x: Tensor, state: State, training: bool) -> Tensor:
    scores = torch.exp(linear(x, state, "conv_attn")[:, 0])
    shares = scores / scores.sum((1, 2), keepdim=True)
    context = torch.einsum("bchw,bhw->bc", x, shares)
    hidden = linear(context, state, "mlp_add.fc1")
    centred = hidden - hidden.mean(1, keepdim=True)
    hidden = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-6)
    hidden = hidden * state["mlp_add.norm.weight"] + state["mlp_add.norm.bias"]
    return x + linear(hidden.clamp(min=0), state, "mlp_add.fc2")[:, :, None, None]


def ge(x: Tensor, state: State, training: bool) -> Tensor:
    gathered = x
    for i in (1, 2, 3):
        weight = state[f"gather.conv{i}.weight"]
        gathered = conv(gathered, weight, stride=2, groups=x.shape[1])
        gathered = batch_norm(gathered, state, f"gather.norm{i}", training)
        gathered = gathered.clamp(min=0) if i < 3 else gathered
    rows, columns = (
        torch.tensor([place * small // large for place in range(large)])
        for small, large in zip(gathered.shape[2:], x.shape[2:], strict=True)
    )
    return x * torch.sigmoid(gathered[:, :, rows][:, :, :, columns])


def eca(x: Tensor, state: State, training: bool) -> Tensor:
    kernel = state["conv.weight"].flatten()
    reach = len(kernel) // 2
    padded = F.pad(mean_of(x), (reach, reach))
    shifted = [k * padded[:, i : i + x.shape[1]] for i, k in enumerate(kernel)]
    return x * torch.sigmoid(torch.stack(shifted).sum(0))[:, :, None, None]


def srm(x: Tensor, state: State, training: bool) -> Tensor:
    mean = mean_of(x)
    std = torch.sqrt(mean_of((x - mean[:, :, None, None]) ** 2))
    z = state["weight"][:, 0] * mean + state["weight"][:, 1] * std
    return x * torch.sigmoid(batch_norm(z, state, "norm", training))[:, :, None, None]


def simam(x: Tensor, state: State, training: bool) -> Tensor:
    square = (x - mean_of(x)[:, :, None, None]) ** 2
    var = square.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    energy = 4 * (var + 1e-4) / (square + 2 * var + 2e-4)
    return x * torch.sigmoid(1 / energy)


def coord(x: Tensor, state: State, training: bool) -> Tensor:
    height, width = x.shape[2:]
    along = torch.cat((x.sum(3) / width, x.sum(2) / height), 2)
    f = batch_norm(linear(along, state, "conv1"), state, "bn1", training)
    f = f * (f + 3).clamp(0, 6) / 6
    of_rows = torch.sigmoid(linear(f[:, :, :height], state, "conv_h"))
    of_columns = torch.sigmoid(linear(f[:, :, height:], state, "conv_w"))
    return torch.einsum("bchw,bch,bcw->bchw", x, of_rows, of_columns)


def sa(x: Tensor, state: State, training: bool) -> Tensor:
    width = len(state["channel_weight"])
    xs = x.reshape(x.shape[0], -1, 2 * width, *x.shape[2:])
    weights = {name: value[:, None, None] for name, value in state.items() if "norm" not in name}
    first, second = xs[:, :, :width], xs[:, :, width:]
    mean = first.mean((3, 4), keepdim=True)
    first = first * torch.sigmoid(weights["channel_weight"] * mean + weights["channel_bias"])
    normed = each_channel_normed(second, state)
    second = second * torch.sigmoid(weights["position_weight"] * normed + weights["position_bias"])
    before = torch.cat((first, second), 2).flatten(1, 2)
    half = x.shape[1] // 2
    return before[:, [k + h * half for k in range(half) for h in (0, 1)]]


def triplet(x: Tensor, state: State, training: bool) -> Tensor:
    def branch(turned: Tensor, name: str) -> Tensor:
        pooled = torch.stack((turned.max(1).values, turned.sum(1) / turned.shape[1]), 1)
        gate = batch_norm(conv(pooled, state[f"{name}.0.weight"]), state, f"{name}.1", training)
        return turned * torch.sigmoid(gate)

    of_rows = branch(x.permute(0, 3, 2, 1), "over_columns").permute(0, 3, 2, 1)
    of_columns = branch(x.permute(0, 2, 1, 3), "over_rows").permute(0, 2, 1, 3)
    return (of_rows + of_columns + branch(x, "over_channels")) / 3


def ema(x: Tensor, state: State, training: bool) -> Tensor:
    width = len(state["norm.weight"])
    gated = []
    for group in torch.split(x, width, 1):
        rows, columns = (
            torch.sigmoid(linear(means, state, "conv1")) for means in (group.mean(3), group.mean(2))
        )
        scaled = torch.einsum("bchw,bch,bcw->bchw", group, rows, columns)
        first = each_channel_normed(scaled, state)
        second = conv(group, state["conv3.weight"]) + state["conv3.bias"][:, None, None]
        seen: Any = 0
        for one, other in ((first, second), (second, first)):
            share = torch.exp(mean_of(one))
            share = share / share.sum(1, keepdim=True)
            seen = seen + torch.einsum("bc,bchw->bhw", share, other)
        gated.append(group * torch.sigmoid(seen)[:, None])
    return torch.cat(gated, 1)


EQUATIONS: dict[str, Callable[[Tensor, State, bool], Tensor]] = {
    function.__name__: function
    for function in (
        se, cbam, bam, sk, gc, ge, eca, srm, simam, coord, sa, triplet, ema,
    )
}  # fmt: skip
