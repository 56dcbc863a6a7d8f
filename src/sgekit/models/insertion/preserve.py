"""Keeping a trained network's function: what comes before a gate is made larger by as much."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sgekit.models.insertion.host import own_class
from sgekit.models.insertion.places import bends, norm_of

# Where forwards are defined that are linear in the layer's weight and bias.
_LINEAR_IN_WEIGHTS = (
    "torch.nn.modules.conv", "torch.nn.modules.linear", "torch.nn.modules.batchnorm",
    "torch.nn.modules.instancenorm", "torch.nn.modules.normalization", "timm.layers.conv2d_same",
    "timm.layers.mixed_conv2d", "timm.layers.norm", "timm.layers.norm_act",
    "torchvision.ops.misc", "torchvision.models.convnext",
)  # fmt: skip


Users = Mapping[str, set[str]]
"""The modules in which each weight is used: see `Graph`."""


def weights_behind(model: nn.Module, name: str, users: Users | None = None) -> list[Tensor]:
    """The tensors that a norm's, convolution's or linear layer's output is linear in.

    None where the layer has no weights of its own (a norm without an affine part), shares
    them, computes them from others, or does more behind them; and where `users` tells that
    something else computes with them too.
    """
    modules = dict(model.named_modules())
    norm = norm_of(name, modules)
    found = _output_weights(modules[norm], between=norm != name)
    if any(_shared(model, tensor) for tensor in found.values()):
        return []
    for weight in found:
        if users and not users.get(f"{norm}.{weight}" if norm else weight, set()) <= {norm}:
            return []
    return list(found.values())


def rescale(model: nn.Module, name: str, factor: float, users: Users | None = None) -> bool:
    """Multiply the output of a layer by `factor` through its weights; whether it could."""
    tensors = weights_behind(model, name, users)
    with torch.no_grad():
        for tensor in tensors:
            tensor.mul_(factor)
    return bool(tensors)


def _output_weights(module: nn.Module, *, between: bool) -> dict[str, Tensor]:
    """The tensors that the module's output is linear in; none where that isn't known."""
    home = own_class(module).forward.__module__
    if home == "timm.layers.std_conv" and getattr(module, "gain", None) is not None:
        names = ("gain", "bias")  # the weight is standardised, so its scale says nothing
    elif home in _LINEAR_IN_WEIGHTS and (between or not bends(module)):
        names = ("weight", "bias")
    else:
        return {}
    found = {name: tensor for name in names if (tensor := getattr(module, name, None)) is not None}
    # What isn't registered is computed: by parametrisations, or hooks such as pruning's.
    own = [*module._parameters.values(), *module._buffers.values()]
    held = all(any(tensor is other for other in own) for tensor in found.values())
    first = found.get(names[0])
    return found if first is not None and held and first.is_floating_point() else {}


def _shared(model: nn.Module, tensor: Tensor) -> bool:
    held = 0
    for module in model.modules():
        own = (*module._parameters.values(), *module._buffers.values())
        held += sum(other is tensor for other in own)
    return held > 1
