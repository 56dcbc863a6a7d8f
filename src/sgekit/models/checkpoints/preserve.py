"""Plain weights in a network with attention: the same function at first."""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import nn

from sgekit.errors import InputError
from sgekit.models.insertion.host import LAYER, SCALE, is_host
from sgekit.models.insertion.preserve import rescale
from sgekit.models.slots import slots


class Site(NamedTuple):
    """An attention layer that a file has no weights for."""

    name: str
    layer: nn.Module
    before: tuple[str, ...]
    """Where the norm or convolution right before it may be; the first there is counts."""
    weights: tuple[str, ...]


def absent_attention(model: nn.Module, given: Collection[str]) -> list[Site]:
    """The attention layers in timm's slots and inserted ones, if `given` has weights of none."""
    found = []
    for slot in slots(model):
        layer = getattr(slot.block, "se", None)
        weights = tuple(f"{slot.name}.{name}" for name in layer.state_dict()) if layer else ()
        if layer is not None and weights:
            block = slot.name.rpartition(".")[0]
            # timm's SKNet keeps the norm with its convolution.
            last = tuple(f"{block}.{part}" for part in ("bn3", "bn2", "conv3.bn", "conv2.bn"))
            found.append(Site(slot.name, layer, last, weights))
    for name, module in model.named_modules():
        if is_host(module):
            inserted: Any = module
            layer = inserted.attention
            names = [f"{name}.{LAYER}.{own}" for own in layer.state_dict()]
            scale = [] if inserted.attention_scale is None else [f"{name}.{SCALE}"]
            found.append(Site(f"{name}.{LAYER}", layer, (name,), (*names, *scale)))
    return [] if any(name in given for site in found for name in site.weights) else found


def neutralize(sites: list[Site]) -> list[tuple[Site, float]]:
    """Make every layer multiply its input by a constant, and return the constants.

    Raises InputError for a mechanism that cannot.
    """
    found = []
    for site in sites:
        if not hasattr(site.layer, "neutralize"):
            raise InputError(
                f"{type(site.layer).__name__} in {site.name} cannot be set to leave a network's "
                "function unchanged: load weights of its own network, or pass preserve=False"
            )
        layer: Any = site.layer
        found.append((site, float(layer.neutralize())))
    return found


def make_up(model: nn.Module, site: Site, factor: float) -> None:
    """Divide what comes before a neutral layer by its constant.

    Raises InputError where there is no weight to divide.
    """
    names = {name for name, _ in model.named_modules()}
    before = next((name for name in site.before if name in names), None)
    host = model.get_submodule(before) if before is not None else None
    scale = getattr(host, SCALE, None)
    if scale is not None:
        with torch.no_grad():
            scale.fill_(1 / factor)
    elif before is None or not (factor == 1 or rescale(model, before, 1 / factor)):
        raise InputError(
            f"there is no norm with weight and bias before {site.name} to rescale; "
            "pass preserve=False"
        )
