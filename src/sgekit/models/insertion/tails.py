"""Residual blocks whose end, BatchNorm, SGE, the shortcut's sum and ReLU, runs in one pass.

A block's class is exchanged for a subclass of it: names, weights and function stay. Where one
pass can't be taken (compiled, exported or traced networks, hooks on a layer of the tail,
another device) the block does what its own class does.
"""

from typing import Any

import timm.models.resnet as of_timm
import torch
import torchvision.models.resnet as of_torchvision
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torchvision.ops.misc import FrozenBatchNorm2d

from sgekit.models.insertion.host import Host, is_host, own_class
from sgekit.modules import SpatialGroupEnhance
from sgekit.ops.api import spatial_group_enhance, traced
from sgekit.ops.tail import Norm, fusible, residual_tail


class FusedTail(nn.Module):
    """What a block has besides its own class; the names are those of the block's layers."""

    tail_convolution = "conv3"
    tail_norm = "bn3"
    tail_activation = "act3"

    def branch(self: Any, x: Tensor) -> Tensor:
        """From the block's input to the last convolution's output."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        compiling = torch.compiler.is_dynamo_compiling()
        if compiling and not fusible(x, x):
            return self._compiled(x)
        layer = None if traced() and not compiling else attention(self)
        if layer is None or not _plain(self, layer) or not fusible(x, x) or x.dim() != 4:
            out: Tensor = super().forward(x)
            return out
        u = self.branch(x)
        downsample: Any = getattr(self, "downsample")  # noqa: B009  (of the block's class)
        shortcut: Tensor = x if downsample is None else downsample(x)
        norm: Any = getattr(self, self.tail_norm)
        of_norm = [getattr(norm, name, None) for name in _OF_NORM] if _is_plain(norm) else []
        if not fusible(u, shortcut, (layer.weight, layer.bias), of_norm):
            activation: Any = getattr(self, self.tail_activation)
            gated = norm(u) if isinstance(norm, Host) else layer(norm(u))
            summed: Tensor = activation(gated + shortcut)
            return summed
        known = _numbers(norm)
        if known is None:
            u = own_class(norm).forward(norm, u)
        last = getattr(self, self.tail_convolution)
        return residual_tail(
            u, known, layer.weight, layer.bias, shortcut, layer.eps,
            overwrite=not watched(last) and not isinstance(last, Host),
        )  # fmt: skip

    def _compiled(self, x: Tensor) -> Tensor:
        """On a CPU: gate, sum and ReLU are one operation where nothing is learnt."""
        layer = attention(self)
        if layer is None or torch.is_grad_enabled() or not _plain(self, layer):
            plain: Tensor = super().forward(x)
            return plain
        downsample: Any = getattr(self, "downsample")  # noqa: B009
        norm: Any = getattr(self, self.tail_norm)
        u = self.branch(x)
        shortcut = x if downsample is None else downsample(x)
        z = own_class(norm).forward(norm, u)
        return spatial_group_enhance(z, layer.weight, layer.bias, layer.eps, 1, shortcut, "relu")


class BasicBlockWithTail(FusedTail, of_timm.BasicBlock):
    """timm's BasicBlock."""

    tail_convolution, tail_norm, tail_activation = "conv2", "bn2", "act2"

    def branch(self: Any, x: Tensor) -> Tensor:
        x = self.act1(self.drop_block(self.bn1(self.conv1(x))))
        out: Tensor = self.conv2(self.aa(x))
        return out


class BottleneckWithTail(FusedTail, of_timm.Bottleneck):
    """timm's Bottleneck."""

    def branch(self: Any, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.drop_block(self.bn2(self.conv2(x))))
        out: Tensor = self.conv3(self.aa(x))
        return out


class TorchvisionBasicBlockWithTail(FusedTail, of_torchvision.BasicBlock):  # type: ignore[misc]
    """torchvision's BasicBlock."""

    tail_convolution, tail_norm, tail_activation = "conv2", "bn2", "relu"

    def branch(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.relu(self.bn1(self.conv1(x))))
        return out


class TorchvisionBottleneckWithTail(FusedTail, of_torchvision.Bottleneck):  # type: ignore[misc]
    """torchvision's Bottleneck."""

    tail_activation = "relu"

    def branch(self: Any, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.conv3(self.relu(self.bn2(self.conv2(x))))
        return out


_FUSED: dict[type[nn.Module], type[FusedTail]] = {
    of_timm.BasicBlock: BasicBlockWithTail,
    of_timm.Bottleneck: BottleneckWithTail,
    of_torchvision.BasicBlock: TorchvisionBasicBlockWithTail,
    of_torchvision.Bottleneck: TorchvisionBottleneckWithTail,
}
_OWN: dict[type[nn.Module], type[nn.Module]] = {fused: own for own, fused in _FUSED.items()}


def set_tails(model: nn.Module) -> None:
    """Exchange the class of every block that ends in SGE, and give the others their own back."""
    for module in model.modules():
        fused = _FUSED.get(_OWN.get(type(module), type(module)))
        if fused is not None:
            found = attention(module, fused.tail_norm)
            module.__class__ = _OWN[fused] if found is None else fused


def attention(block: nn.Module, norm: str | None = None) -> SpatialGroupEnhance | None:
    """SGE between the block's last norm and the sum: in the slot `se`, or behind the norm."""
    last: Any = getattr(block, norm or block.tail_norm, None)  # type: ignore[arg-type]
    layer = getattr(block, "se", None)
    if is_host(last, itself=True):
        inside = not last.attention_moves and last.attention_scale is None
        layer = last.attention if layer is None and inside else None
    return layer if type(layer) is SpatialGroupEnhance else None


def _plain(block: FusedTail, layer: SpatialGroupEnhance) -> bool:
    """Whether what one pass leaves out of the blocks' own way is nothing that somebody set."""
    activation = getattr(block, block.tail_activation)
    drop: Any = getattr(block, "drop_path", None)
    dropping = drop is not None and not isinstance(drop, nn.Identity) and drop.training
    return (
        type(activation) is nn.ReLU
        and not dropping
        and layer.normalize
        and layer.unbiased
        and layer.channel_dim == 1
        and isinstance(getattr(block, block.tail_convolution), nn.Conv2d)
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
        and not any(map(watched, (getattr(block, block.tail_norm), layer, activation, drop)))
    )


def watched(module: nn.Module | None) -> bool:
    """Whether somebody follows, or has replaced, what the module does."""
    return module is not None and bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )


_OF_NORM = ("weight", "bias", "running_mean", "running_var")


def _is_plain(norm: nn.Module) -> bool:
    """Whether the norm's numbers can be taken into the pass.

    SyncBatchNorm's can't: its statistics are those of all processes.
    """
    return own_class(norm) in (nn.BatchNorm2d, FrozenBatchNorm2d)


def _numbers(norm: Any) -> Norm | None:
    """What a BatchNorm computes with now, counting the batch as it does; None: another norm."""
    if not _is_plain(norm):
        return None
    if own_class(norm) is FrozenBatchNorm2d:
        return Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0, norm.eps)
    mean, var, momentum = norm.running_mean, norm.running_var, norm.momentum or 0.0
    if norm.training:
        if norm.track_running_stats and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if norm.momentum is None:  # the cumulative average
                momentum = 1.0 / float(norm.num_batches_tracked)
        elif not norm.track_running_stats:
            mean = var = None
    batch = norm.training or mean is None
    return Norm(mean, var, norm.weight, norm.bias, batch, momentum, norm.eps)
