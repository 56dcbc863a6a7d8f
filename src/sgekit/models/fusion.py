"""A network for inference that computes the same and takes less time: `sgekit.fuse`."""

from copy import deepcopy
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d

from sgekit.errors import InputError
from sgekit.models.insertion.host import become, is_host, own_class
from sgekit.models.insertion.network import check_network
from sgekit.models.insertion.preserve import weights_behind
from sgekit.models.insertion.tails import set_tails, watched
from sgekit.models.insertion.trace import Graph, Step, moved, tensors, trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    BatchNormAct2d,
    FrozenBatchNorm2d,
)
_PLAIN_FORWARDS = ("torch.nn.modules.conv", "timm.layers.conv2d_same")
_OF_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


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
    more than once, shares its weights or computes them, or carries hooks. In the end the network
    and its copy are run on random numbers in float64 and compared.

    Raises InputError for what is no module, is scripted, compiled, wrapped, quantised or lazy,
    where the network can't be run or copied, and where the copy does not compute the same
    because the network looks at its own norms.
    """
    check_network(model, "fuse")
    with torch.inference_mode(False):  # whose tensors neither copy nor compute gradients
        graph = trace(model, example_inputs)
        fused = _copy(model)
        pairs = _pairs(fused, graph)
        if pairs and not any(parameter.is_meta for parameter in model.parameters()):
            _compare(model, pairs, graph, known=example_inputs is not None)
        for convolution, norm in pairs:
            _fold(fused, convolution, norm)
        set_tails(fused)
    return fused


def _copy(model: nn.Module) -> nn.Module:
    try:
        return deepcopy(model).eval()
    except RuntimeError as error:  # weights that pruning's hooks have computed
        raise InputError(
            f"the network can't be copied ({error}); make what hooks compute of its weights "
            "permanent first, such as by torch.nn.utils.prune.remove"
        ) from error


def _compare(model: nn.Module, pairs: list[tuple[str, str]], graph: Graph, *, known: bool) -> None:
    """Raise InputError where the network does not compute the same with the pairs folded."""
    for dtype, allowed in ((torch.float64, 1e-6), (None, 2e-2)):
        copy = _copy(model) if dtype is None else _copy(model).to(dtype)
        try:
            wanted = _run(copy, graph, known=known)
        except Exception as error:  # whatever a network raises on numbers of another kind
            if dtype is None:
                raise InputError(
                    f"the network could not be run to compare its copy with it ({error}); pass "
                    "example_inputs that it takes"
                ) from error
            continue
        for convolution, norm in pairs:
            _fold(copy, convolution, norm)
        try:
            got = _run(copy, graph, known=known)
        except Exception as error:
            raise InputError(
                f"with BatchNorm folded the network fails ({error}): it looks at its own norms or "
                "convolutions, so it can't be fused"
            ) from error
        if not _alike(wanted, got, allowed):
            raise InputError(
                "with BatchNorm folded the network computes something else: it looks at its own "
                "norms or convolutions, so it can't be fused"
            )
        return


@torch.no_grad()
def _run(model: nn.Module, graph: Graph, *, known: bool) -> list[Tensor]:
    near = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(0)
        positional, keywords = moved(graph.arguments, near.device, near.dtype)
        if not known:  # the trace's own, all zero
            positional = tuple(torch.rand_like(tensor) for tensor in positional)
        return [t.detach().clone() for t in tensors(model(*positional, **keywords))]


def _alike(wanted: list[Tensor], got: list[Tensor], allowed: float) -> bool:
    if [t.shape for t in wanted] != [t.shape for t in got]:
        return False
    return all(
        torch.allclose(
            b.double(), a.double(), rtol=allowed, atol=allowed * _size(a), equal_nan=True
        )
        for a, b in zip(wanted, got, strict=True)
    )


def _size(tensor: Tensor) -> float:
    finite = tensor.double()[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


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
    cls = own_class(module)
    return (
        isinstance(module, _CONVOLUTIONS)
        and cls.forward.__module__ in _PLAIN_FORWARDS
        and cls._conv_forward.__module__ == "torch.nn.modules.conv"  # type: ignore[attr-defined]
        and not is_host(module)
        and graph.calls[name] == 1
        and not watched(module)
        and bool(weights_behind(model, name, graph.users))
    )


def _folds(norm: Any, name: str, graph: Graph) -> bool:
    return (
        own_class(norm) in _NORMS
        and norm.running_mean is not None
        and not norm.training  # some networks keep their norms in training mode
        and graph.calls[name] == 1
        and not watched(norm)
        and all(graph.users.get(f"{name}.{weight}", {name}) <= {name} for weight in _OF_NORM)
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
    # The same object, whatever names and lists it stands in, becomes what is left of it.
    become(norm, nn.Sequential if isinstance(norm, BatchNormAct2d) else nn.Identity)
    for own in (norm._parameters, norm._buffers):
        for weight_name in _OF_NORM:
            own.pop(weight_name, None)
