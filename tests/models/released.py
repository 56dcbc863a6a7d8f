"""The released networks again, from the paper's facts alone: their files and what they compute.

Nothing here uses sgekit: `shapes` lists what a released file holds, `logits` evaluates such a
file in float64 with the equations written out.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

PLANES = (64, 128, 256, 512)
LAYERS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
KINDS = ("plain", "sge", "se", "sk", "cbam", "bam")


def _norm(name: str, width: int) -> Shapes:
    return {
        f"{name}.weight": (width,),
        f"{name}.bias": (width,),
        f"{name}.running_mean": (width,),
        f"{name}.running_var": (width,),
        f"{name}.num_batches_tracked": (),
    }


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _conv(name: str, inputs: int, outputs: int, kernel: int, bias: bool = False) -> Shapes:
    weight = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return weight | ({f"{name}.bias": (outputs,)} if bias else {})


def _block(name: str, inputs: int, planes: int, kind: str, first: bool) -> Shapes:
    width = 4 * planes
    found = _conv(f"{name}.conv1", inputs, planes, 1) | _norm(f"{name}.bn1", planes)
    found |= _conv(f"{name}.conv2", planes, planes, 3) | _norm(f"{name}.bn2", planes)
    found |= _conv(f"{name}.conv3", planes, width, 1) | _norm(f"{name}.bn3", width)
    if first:
        found |= _conv(f"{name}.downsample.0", inputs, width, 1)
        found |= _norm(f"{name}.downsample.1", width)
    if kind == "sge":
        found |= {f"{name}.sge.{part}": (1, 64, 1, 1) for part in ("weight", "bias")}
    if kind == "se":
        found |= _linear(f"{name}.se.fc.0", width, width // 16)
        found |= _linear(f"{name}.se.fc.2", width // 16, width)
    if kind == "cbam":
        found |= _linear(f"{name}.cbam.ChannelGate.mlp.1", width, width // 16)
        found |= _linear(f"{name}.cbam.ChannelGate.mlp.3", width // 16, width)
        found |= _conv(f"{name}.cbam.SpatialGate.spatial.conv", 2, 1, 7)
        found |= _norm(f"{name}.cbam.SpatialGate.spatial.bn", 1)
    if kind == "sk":
        found |= _conv(f"{name}.conv2g", planes // 32, planes, 3) | _norm(f"{name}.bn2g", planes)
        found |= _conv(f"{name}.conv_fc1", planes, planes // 16, 1)
        found |= _norm(f"{name}.bn_fc1", planes // 16)
        found |= _conv(f"{name}.conv_fc2", planes // 16, 2 * planes, 1)
    return found


def _bam(stage: int, width: int) -> Shapes:
    hidden = width // 16
    channel = f"bam{stage}.channel_att.gate_c.gate_c_"
    spatial = f"bam{stage}.spatial_att.gate_s.gate_s_"
    found = _linear(f"{channel}fc_0", width, hidden) | _norm(f"{channel}bn_1", hidden)
    found |= _linear(f"{channel}fc_final", hidden, width)
    found |= _conv(f"{spatial}conv_reduce0", width, hidden, 1, bias=True)
    found |= _norm(f"{spatial}bn_reduce0", hidden)
    for number in (0, 1):
        found |= _conv(f"{spatial}conv_di_{number}", hidden, hidden, 3, bias=True)
        found |= _norm(f"{spatial}bn_di_{number}", hidden)
    return found | _conv(f"{spatial}conv_final", hidden, 1, 1, bias=True)


def shapes(kind: str, depth: int = 50) -> Shapes:
    """Every weight of a released classification network, without the prefix `module.`."""
    found = _conv("conv1", 3, 64, 7) | _norm("bn1", 64)
    inputs = 64
    for stage, (planes, blocks) in enumerate(zip(PLANES, LAYERS[depth], strict=True), start=1):
        for block in range(blocks):
            found |= _block(f"layer{stage}.{block}", inputs, planes, kind, block == 0)
            inputs = 4 * planes
        if kind == "bam" and stage < 4:
            found |= _bam(stage, inputs)
    return found | _linear("fc", inputs, 1000)


def parameters(wanted: Mapping[str, tuple[int, ...]]) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(
        torch.Size(shape).numel() for name, shape in wanted.items() if not name.endswith(buffers)
    )


def state(wanted: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random weights that keep a network's numbers in range, running statistics included."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in wanted.items():
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(500_400)
        elif name.endswith("running_var"):
            found[name] = torch.empty(shape).uniform_(0.5, 2, generator=draw)
        elif "sge.bias" in name:
            found[name] = 1 + 0.3 * torch.randn(shape, generator=draw)
        elif "sge.weight" in name:
            found[name] = 0.5 * torch.randn(shape, generator=draw)
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            found[name] = torch.randn(shape, generator=draw) * (1.5 / fan_in) ** 0.5
        elif name.endswith("weight"):
            most = 0.6 if "bn3" in name else 1.5
            found[name] = torch.empty(shape).uniform_(0.3, most, generator=draw)
        else:
            found[name] = 0.2 * torch.randn(shape, generator=draw)
    return found


def file_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the released files hold: `module.` before every name, accuracies, the optimiser."""
    momentum = {0: {"momentum_buffer": torch.zeros(3)}}
    return {
        "epoch": 100,
        "state_dict": {f"module.{name}": value for name, value in weights.items()},
        "acc": torch.tensor(77.5),
        "best_acc": torch.tensor(77.584),
        "optimizer": {"state": momentum, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    }


class _Evaluation:
    """The equations, on one file's weights in float64."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = {name: value.double() for name, value in weights.items()}

    def conv(self, x: Tensor, name: str, **options: Any) -> Tensor:
        bias = self.weights.get(f"{name}.bias")
        return F.conv2d(x, self.weights[f"{name}.weight"], bias, **options)

    def norm(self, x: Tensor, name: str) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        wide = (1, -1) + (1,) * (x.ndim - 2)
        mean, var, weight, bias = (self.weights[f"{name}.{part}"].view(wide) for part in parts)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def sge(self, x: Tensor, name: str) -> Tensor:
        b, c, h, w = x.shape
        weight, bias = (
            self.weights[f"{name}.{part}"].view(1, -1, 1) for part in ("weight", "bias")
        )
        vectors = x.view(b, weight.shape[1], -1, h * w)
        likeness = (vectors * vectors.mean(3, keepdim=True)).sum(2)
        centred = likeness - likeness.mean(2, keepdim=True)
        deviation = (centred.square().sum(2, keepdim=True) / (h * w - 1)).sqrt()
        gate = torch.sigmoid(weight * centred / (deviation + 1e-5) + bias)
        return (vectors * gate[:, :, None]).view(b, c, h, w)

    def se(self, x: Tensor, name: str) -> Tensor:
        hidden = self.linear(x.mean((2, 3)), f"{name}.fc.0").relu()
        return x * self.linear(hidden, f"{name}.fc.2").sigmoid()[:, :, None, None]

    def cbam(self, x: Tensor, name: str) -> Tensor:
        mlp = f"{name}.ChannelGate.mlp"
        both = [
            self.linear(self.linear(pooled, f"{mlp}.1").relu(), f"{mlp}.3")
            for pooled in (x.mean((2, 3)), x.flatten(2).max(2).values)
        ]
        x = x * (both[0] + both[1]).sigmoid()[:, :, None, None]
        maps = torch.stack((x.max(1).values, x.mean(1)), 1)
        spatial = f"{name}.SpatialGate.spatial"
        return (
            x * self.norm(self.conv(maps, f"{spatial}.conv", padding=3), f"{spatial}.bn").sigmoid()
        )

    def bam(self, x: Tensor, name: str) -> Tensor:
        channel = f"{name}.channel_att.gate_c.gate_c_"
        hidden = self.norm(self.linear(x.mean((2, 3)), f"{channel}fc_0"), f"{channel}bn_1").relu()
        of_channel = self.linear(hidden, f"{channel}fc_final")[:, :, None, None]
        spatial = f"{name}.spatial_att.gate_s.gate_s_"
        y = self.norm(self.conv(x, f"{spatial}conv_reduce0"), f"{spatial}bn_reduce0").relu()
        for number in (0, 1):
            y = self.conv(y, f"{spatial}conv_di_{number}", padding=4, dilation=4)
            y = self.norm(y, f"{spatial}bn_di_{number}").relu()
        return x * (1 + (of_channel * self.conv(y, f"{spatial}conv_final")).sigmoid())

    def sk(self, x: Tensor, name: str, stride: int) -> Tensor:
        options = {"padding": 1, "stride": stride}
        dense = self.norm(self.conv(x, f"{name}.conv2", **options), f"{name}.bn2").relu()
        grouped = self.conv(x, f"{name}.conv2g", groups=32, **options)
        grouped = self.norm(grouped, f"{name}.bn2g").relu()
        pooled = (dense + grouped).mean((2, 3), keepdim=True)
        hidden = self.norm(self.conv(pooled, f"{name}.conv_fc1"), f"{name}.bn_fc1").relu()
        first, second = self.conv(hidden, f"{name}.conv_fc2").exp().chunk(2, 1)
        return (first * dense + second * grouped) / (first + second)

    def block(self, x: Tensor, name: str, stride: int, kind: str) -> Tensor:
        y = self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
        if kind == "sk":
            y = self.sk(y, name, stride)
        else:
            y = self.conv(y, f"{name}.conv2", padding=1, stride=stride)
            y = self.norm(y, f"{name}.bn2").relu()
        y = self.norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3")
        if kind in ("sge", "se", "cbam"):
            y = getattr(self, kind)(y, f"{name}.{kind}")
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.conv(x, f"{name}.downsample.0", stride=stride)
            x = self.norm(x, f"{name}.downsample.1")
        return (x + y).relu()


def logits(weights: Mapping[str, Tensor], x: Tensor, kind: str, depth: int = 50) -> Tensor:
    """What the network of a released file computes, in float64 and evaluation mode."""
    net = _Evaluation(weights)
    y = net.norm(net.conv(x.double(), "conv1", stride=2, padding=3), "bn1").relu()
    y = F.max_pool2d(y, 3, stride=2, padding=1)
    for stage, blocks in enumerate(LAYERS[depth], start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            y = net.block(y, f"layer{stage}.{block}", stride, kind)
        if kind == "bam" and stage < 4:
            y = net.bam(y, f"bam{stage}")
    return net.linear(y.mean((2, 3)), "fc")
