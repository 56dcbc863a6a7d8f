"""Plain weights in a network with attention: the same function at first."""

from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.models.slots import slots


class Site(NamedTuple):
    """An attention layer that a file has no weights for."""

    name: str
    layer: nn.Module
    block: nn.Module
    weights: tuple[str, ...]


def absent_attention(model: nn.Module, given: Collection[str]) -> list[Site]:
    """The attention layers in timm's slots, if `given` has weights of none of them."""
    found = []
    for slot in slots(model):
        layer = getattr(slot.block, "se", None)
        weights = tuple(f"{slot.name}.{name}" for name in layer.state_dict()) if layer else ()
        if layer is not None and weights:
            found.append(Site(slot.name, layer, slot.block, weights))
    return [] if any(name in given for site in found for name in site.weights) else found


def neutralize(sites: list[Site]) -> list[tuple[Tensor, float]]:
    """Make every layer multiply by a constant; what to divide by it: weight and bias of the norm.

    Raises InputError for a mechanism that cannot.
    """
    found: list[tuple[Tensor, float]] = []
    for site in sites:
        if not hasattr(site.layer, "neutralize"):
            raise InputError(
                f"{type(site.layer).__name__} in {site.name} cannot be set to leave a network's "
                "function unchanged: load weights of its own network, or pass preserve=False"
            )
        layer: Any = site.layer
        norm, factor = last_norm(site.block, site.name), float(layer.neutralize())
        found += [(norm.weight, factor), (norm.bias, factor)]
    return found


def last_norm(block: nn.Module, name: str) -> Any:
    """The norm right before a block's slot, whose weight and bias scale what the slot sees."""
    for part in ("bn3", "bn2", "conv3", "conv2"):
        layer = getattr(block, part, None)
        # timm's SKNet keeps the norm with its convolution.
        norm = getattr(layer, "bn", None) if part.startswith("conv") else layer
        if getattr(norm, "weight", None) is not None and getattr(norm, "bias", None) is not None:
            return norm
    raise InputError(
        f"there is no norm with weight and bias before {name} to rescale; pass preserve=False"
    )
