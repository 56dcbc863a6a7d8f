"""Plain weights in a network with attention: the same function at first."""

from collections.abc import Collection
from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.models.insertion.host import LAYER, SCALE, is_host
from sgekit.models.insertion.preserve import weights_behind
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


def neutralize(model: nn.Module, sites: list[Site]) -> list[tuple[Tensor, float]]:
    """Make every layer multiply its input by a constant; what to divide by it when all is loaded.

    Raises InputError for a mechanism that cannot.
    """
    found: list[tuple[Tensor, float]] = []
    held = [held_by(model, site) for site in sites]
    for site in sites:
        if not hasattr(site.layer, "neutralize"):
            raise InputError(
                f"{type(site.layer).__name__} in {site.name} cannot be set to leave a network's "
                "function unchanged: load weights of its own network, or pass preserve=False"
            )
        trial: Any = deepcopy(site.layer)
        trial.neutralize()  # may refuse, and nothing has been changed yet
    for site, tensors in zip(sites, held, strict=True):
        layer: Any = site.layer
        factor = float(layer.neutralize())
        for tensor in tensors:
            if tensor.ndim == 0:
                tensor.fill_(1)  # a buffer holds nothing but the factor
            found.append((tensor, factor))
    return found


def held_by(model: nn.Module, site: Site) -> list[Tensor]:
    """What to divide by a neutral layer's constant so that it is made up for.

    A buffer behind the layer, or the weights before it. Raises InputError where there are none.
    """
    names = {name for name, _ in model.named_modules()}
    before = next((name for name in site.before if name in names), None)
    if before is not None:
        scale = getattr(model.get_submodule(before), SCALE, None)
        if found := [scale] if scale is not None else weights_behind(model, before):
            return found
    raise InputError(
        f"there is no norm with weight and bias before {site.name} to rescale; pass preserve=False"
    )
