"""A network for inference that computes the same and takes less time: `sgekit.fuse`."""

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d

from sgekit.errors import InputError
from sgekit.models.insertion.host import carry_over, is_host, own_class
from sgekit.models.insertion.network import check_network
from sgekit.models.insertion.preserve import weights_behind
from sgekit.models.insertion.tails import set_tails, watched
from sgekit.models.insertion.trace import Graph, Step, trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    BatchNormAct2d,
    FrozenBatchNorm2d,
)


def fuse(model: nn.Module, example_inputs: Any = None) -> nn.Module:
    """A copy of `model` for inference: the same function, faster. `model` is left as it is.

    Every BatchNorm that directly follows a convolution is folded into it, and the residual
    blocks of timm's and torchvision's ResNets that end in SGE do the gate, the shortcut's sum and
    ReLU in one pass, over memory that is there. (In training they do so with the BatchNorm
    too, without `fuse`.) The copy is in evaluation mode; its norms are gone, so train and
    save the original.

    To see what follows what, the network is run once on shapes, made from `example_inputs`
    (a tensor, a tuple of arguments or a dict of keywords) or from what it says of its input.
    Layers stay as they are where a convolution's output goes elsewhere too, a layer is called
    more than once, shares its weights or computes them, or carries hooks.

    Raises InputError for what is no module, is scripted, compiled, wrapped, quantised or lazy,
    and where the network can't be run or copied.
    """
    check_network(model, "fuse")
    graph = trace(model, example_inputs)
    try:
        fused = deepcopy(model).eval()
    except RuntimeError as error:  # weights that pruning's hooks have computed
        raise InputError(
            f"the network can't be copied ({error}); make what hooks compute of its weights "
            "permanent first, such as by torch.nn.utils.prune.remove"
        ) from error
    for convolution, norm in _pairs(fused, graph):
        _fold(fused, convolution, norm)
    set_tails(fused)
    return fused


def _pairs(model: nn.Module, graph: Graph) -> list[tuple[str, str]]:
    """(convolution, BatchNorm) by name, where the one's output is the other's input alone."""
    modules = dict(model.named_modules())
    users: dict[int, list[Step]] = {}
    for step in graph.steps:
        for made_from in step.inputs:
            users.setdefault(made_from.number, []).append(step)
    returned = {step.number for step in graph.returned}
    found = []
    for step in graph.steps:
        owners = {user.owner for user in users.get(step.number, [])}
        if step.operation != "convolution" or step.number in returned or len(owners) != 1:
            continue
        name, norm = step.owner, owners.pop()
        if _foldable(model, name, graph) and _folds(modules[norm], norm, graph):
            found.append((name, norm))
    return found


def _foldable(model: nn.Module, name: str, graph: Graph) -> bool:
    module = model.get_submodule(name)
    return (
        isinstance(module, _CONVOLUTIONS)
        and not is_host(module)
        and graph.calls[name] == 1
        and not watched(module)
        and bool(weights_behind(model, name, graph.users))
    )


def _folds(norm: Any, name: str, graph: Graph) -> bool:
    return (
        own_class(norm) in _NORMS
        and norm.running_mean is not None
        and graph.calls[name] == 1
        and not watched(norm)
    )


def _fold(model: nn.Module, name: str, norm_name: str) -> None:
    convolution: Any = model.get_submodule(name)
    norm: Any = model.get_submodule(norm_name)
    dtype = convolution.weight.dtype

    def wide(tensor: Tensor | None) -> Any:
        return None if tensor is None else tensor.detach().double()

    weight, bias = fuse_conv_bn_weights(
        wide(convolution.weight), wide(convolution.bias), wide(norm.running_mean),
        wide(norm.running_var), norm.eps, wide(norm.weight), wide(norm.bias),
    )  # fmt: skip
    with torch.no_grad():
        convolution.weight = nn.Parameter(weight.to(dtype), convolution.weight.requires_grad)
        convolution.bias = nn.Parameter(bias.to(dtype), convolution.weight.requires_grad)
    parent, _, last = norm_name.rpartition(".")
    setattr(model.get_submodule(parent), last, _rest(norm))


def _rest(norm: Any) -> nn.Module:
    """What a folded norm leaves behind: attention, timm's dropout and activation, or nothing."""
    left: nn.Module = nn.Identity()
    if isinstance(norm, BatchNormAct2d):
        left = nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act))
    if is_host(norm):
        carry_over(norm, left)
    return left.eval()
