"""Attention that takes the place of a convolution (SK) in residual branches."""

from collections.abc import Callable
from typing import Any

from torch import nn

from sgekit.errors import InputError
from sgekit.models.insertion.choose import Where, matching, name_of
from sgekit.models.insertion.places import Finder, is_norm
from sgekit.models.insertion.trace import Graph, trace

REPLACES = "_replaces_convolution"
"""Set on layers that were put in a convolution's place."""


def replace_convolutions(
    model: nn.Module, make: Callable[..., nn.Module], where: Where, example: Any
) -> list[str]:
    """Exchange 3x3 convolutions, and the norms behind them, for layers; returns their names.

    "auto" takes the first 3x3 convolution of every residual branch that is not its last.
    An activation behind the norm stays: the layers' outputs are not negative. Raises
    InputError where there is none, and where a named module is no such convolution.
    """
    graph = trace(model, example)
    names = _branch_convolutions(model, graph) if where == "auto" else matching(model, where)
    modules = dict(model.named_modules())
    for name in names:
        if not _is_3x3(modules[name]):
            raise InputError(
                f"{name_of(name)} is no 3x3 convolution of equal stride and dilation on both axes "
                f"({type(modules[name]).__name__})"
            )
    if not names:
        raise InputError(
            f"found no 3x3 convolution inside a residual branch of {type(model).__name__}; name "
            'convolutions to sgekit.insert: where=["layer1.0.conv2", ...]'
        )
    norms = {name: _norm_behind(graph, name, modules) for name in names}
    layers = {name: _made(modules[name], name, make) for name in names}
    for name, layer in layers.items():
        _exchange(model, name, layer)
        if (norm := norms[name]) is not None:
            _exchange(model, norm, nn.Identity())
    return names


def _is_3x3(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and len(set(module.stride)) == len(set(module.dilation)) == 1
    )


def _branch_convolutions(model: nn.Module, graph: Graph) -> list[str]:
    finder, names = Finder(model, graph), []
    for branch, start in finder.branches():
        own = branch.ancestors & ~start.ancestors
        convolutions = [
            step.outputs_of[0]
            for step in graph.steps[start.number + 1 : branch.number + 1]
            if own >> step.number & 1 and step.operation == "convolution" and step.outputs_of
        ]
        # The last one's output is added without an activation.
        fitting = [name for name in convolutions[:-1] if _is_3x3(finder.modules[name])]
        names += fitting[:1]
    return list(dict.fromkeys(names))


def _norm_behind(graph: Graph, name: str, modules: dict[str, nn.Module]) -> str | None:
    convolution = graph.outputs()[name]
    for step in graph.steps[convolution.number + 1 :]:
        if convolution in step.inputs:
            owner = next(iter(step.outputs_of), step.owner)
            return owner if is_norm(modules[owner]) else None
    return None


def _made(module: Any, name: str, make: Callable[..., nn.Module]) -> nn.Module:
    try:
        layer = make(
            module.in_channels,
            out_channels=module.out_channels,
            stride=module.stride[0],
            dilation=module.dilation[0],
            device=module.weight.device,
            dtype=module.weight.dtype,
        )
    except InputError as error:
        raise InputError(f"in place of {name_of(name)}: {error}") from None
    setattr(layer, REPLACES, True)
    return layer.train(module.training)


def _exchange(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
