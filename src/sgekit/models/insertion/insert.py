"""`insert` and `remove`."""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from sgekit.errors import InputError
from sgekit.models.contender import PRESERVE, parse
from sgekit.models.insertion.choose import Where, chosen, name_of
from sgekit.models.insertion.convolution import REPLACES, replace_convolutions
from sgekit.models.insertion.host import SLOT, attach, check, detach, is_host
from sgekit.models.insertion.network import check_network
from sgekit.models.insertion.places import Finder, Place, find_places, norm_of
from sgekit.models.insertion.preserve import rescale, weights_behind
from sgekit.models.insertion.tails import set_tails
from sgekit.models.insertion.trace import Graph, trace
from sgekit.models.slots import BLOCKS
from sgekit.modules import ATTENTION, DEFAULT_GROUPS, NoAttention, resolve_groups

Attention = str | Callable[..., nn.Module]
"""A name, with options or without ("sge", "se(reduction=8)"), or what makes a layer."""


def insert(
    model: nn.Module,
    attention: Attention = "sge",
    where: Where = "auto",
    groups: int | Literal["auto"] | None = None,
    preserve: bool = True,
    example_inputs: Any = None,
) -> list[str]:
    """Put attention into a network, in place; returns the names of the new layers.

    `attention` is a name of `sgekit.ATTENTION`, with options in parentheses if any, or a
    function `(channels, *, device, dtype)` that makes a layer. `groups` is for "sge" alone:
    a number, "auto" for each layer's divisor nearest to 64 that leaves four channels a group, or
    None for 64. ("auto" is passed over by other attention, which chooses by itself.)

    `where` says behind which modules the layers stand: "auto" looks for the end of every
    residual branch (`sgekit.models.insertion.places` states the rules); a name, a pattern
    such as "layer4.*.bn3", several of them, or a function `(name, module) -> bool` choose.
    To look, the network is run once on shapes, made from `example_inputs` (a tensor, a tuple
    of arguments or a dict of keywords) or from what the network says of its input.

    With `preserve` the network computes what it did before: every layer starts as one factor,
    and the norm or convolution before it is divided by that (a buffer `attention_scale` holds
    it where no weight can). What a layer changes is then learned. Without, the layers start as
    their papers say.

    The names of the network's own weights stay. Raises InputError where nothing is found to
    insert into, a name fits nothing, a place carries attention already, a module is
    scripted, compiled, quantised or wrapped, groups don't divide the channels, and where the
    attention takes no maps of that dimension or can't preserve. Nothing is changed then.
    """
    check_network(model)
    if isinstance(attention, str):
        preserve = preserve and parse(attention).options.get(PRESERVE, True)
    name, make = _maker(attention)
    own_options = getattr(make, "keywords", {})
    if groups not in (None, "auto") and {"groups", "group_channels"} & own_options.keys():
        raise InputError(f"groups={groups} is given beside {attention!r}, which says them too")
    kind = ATTENTION.get(name, attention)
    placement = getattr(kind, "placement", "norm")
    if groups not in (None, "auto") and name not in ("sge", "none"):
        own = " (sa and ema have an option of that name: 'sa(groups=32)')"
        raise InputError(f"groups is for sge alone, but the attention is {name}{own}")
    if kind is NoAttention:
        return []
    if placement == "conv":
        if preserve:
            raise InputError(
                f"{name} takes the place of a convolution, so it can't leave the network's "
                "function as it is; pass preserve=False and train"
            )
        return replace_convolutions(model, make, where, example_inputs)
    if preserve and any(parameter.is_meta for parameter in model.parameters()):
        warnings.warn(
            "the network is on the meta device and has no weights to rescale; preserve holds for "
            "weights that are there, so load them before",
            stacklevel=2,
        )
    places, graph = _places(model, where, placement, example_inputs)
    dims = getattr(kind, "dims", None)
    layers = [_layer(model, place, name, make, groups, dims) for place in places]
    factors = [_neutral(layer, name) if preserve else 1.0 for layer in layers]
    names = [
        _put(model, place, layer, factor, graph.users)
        for place, layer, factor in zip(places, layers, factors, strict=True)
    ]
    set_tails(model)
    return names


def remove(model: nn.Module, names: Iterable[str] | None = None) -> list[str]:
    """Take attention out again, all of it or the layers that `names` says; returns their names.

    Weights that `insert` rescaled are scaled back, so that a network that was not trained in
    between computes what it did before, up to rounding. Raises InputError for a name that
    `insert` has not made and for one that took the place of a convolution.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    layers = {f"{n}.attention" if n else "attention": n for n, m in modules.items() if is_host(m)}
    slots = {n: n.rpartition(".")[0] for n, m in modules.items() if hasattr(m, SLOT)}
    lost = [n for n, m in modules.items() if getattr(m, REPLACES, False)]
    if names is None:
        wanted = [*layers, *slots, *lost]
    else:
        wanted = list(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in wanted:
        if name in lost:
            raise InputError(
                f"{name_of(name)} took the place of a convolution, whose weights are gone; build "
                "the network anew"
            )
        if name not in layers and name not in slots:
            held = ", ".join([*layers, *slots]) or "none"
            raise InputError(f"no attention was inserted as {name!r}; there are: {held}")
    places = {}
    for name in wanted:
        if name in layers:
            place, factor = layers[name], modules[layers[name]].attention_factor
        else:
            inside, factor = getattr(modules[name], SLOT)
            place = f"{slots[name]}.{inside}" if slots[name] else inside
        whole = name in slots or is_host(modules[place], itself=True)
        if not whole or (factor != 1 and not weights_behind(model, place)):
            raise InputError(
                f"{name_of(place)} has been parametrised or pruned since the insertion, so its "
                "weights can't be scaled back; undo that first"
            )
        places[name] = place, factor
    for name, (place, factor) in places.items():
        if name in layers:
            detach(modules[place])
        else:
            modules[slots[name]].se = None
        if factor != 1:
            rescale(model, place, factor)
    set_tails(model)
    return wanted


def _maker(attention: Attention) -> tuple[str, Callable[..., nn.Module]]:
    if isinstance(attention, str):
        contender = parse(attention)
        return contender.name, partial(ATTENTION[contender.name], **contender.arguments)
    if isinstance(attention, nn.Module) or not callable(attention):
        raise InputError(
            "attention is a name or what makes a layer for a number of channels, such as a class, "
            f"not {attention!r}"
        )
    own = next((name for name, cls in ATTENTION.items() if cls is attention), None)
    return own or str(getattr(attention, "__name__", type(attention).__name__)), attention


def _places(
    model: nn.Module, where: Where, placement: str, example: Any
) -> tuple[list[Place], Graph]:
    if where == "auto":
        graph = trace(model, example)
        places = find_places(model, graph, placement)
        if not places:
            tokens = "its blocks work on tokens (B, N, C), not on maps; "
            raise InputError(
                f"found no place for attention in {type(model).__name__}: "
                f"{tokens if Finder(model, graph).on_tokens else ''}no residual branch ends "
                "in a norm, convolution or linear layer, nothing is concatenated, and no chain of "
                "norms or convolutions gives maps; name modules to sgekit.insert: "
                'where=["features.3", ...] or where=lambda name, module: ...'
            )
    else:
        places, graph = chosen(model, where, example)
    modules = dict(model.named_modules())
    for place in places:
        slot = _slot(modules, place.name)
        if hasattr(getattr(slot, "se", None), SLOT):
            raise InputError(
                f"{name_of(place.name)} is followed by inserted attention already; `remove` takes "
                "it out"
            )
        if slot is None or slot.se is not None:
            check(place.name, modules[place.name])
        if (calls := graph.calls.get(place.name, 1)) > 1:
            warnings.warn(
                f"{name_of(place.name)} is called {calls} times in a run; one layer "
                "is inserted and serves all of them",
                stacklevel=3,
            )
    return places, graph


def _layer(
    model: nn.Module,
    place: Place,
    name: str,
    make: Callable[..., nn.Module],
    groups: int | Literal["auto"] | None,
    dims: tuple[int, ...] | None,
) -> nn.Module:
    if dims is not None and place.spatial not in dims:
        raise InputError(
            f"{name} works on maps with {' or '.join(map(str, dims))} spatial dimensions, but "
            f"{name_of(place.name)} gives {place.spatial}; sge takes any number"
        )
    options: dict[str, Any] = {}
    given = getattr(make, "keywords", {})
    if name == "sge":
        options["channel_dim"] = place.channel_dim
        if "groups" not in given and "group_channels" not in given:
            options["groups"] = DEFAULT_GROUPS if groups is None else groups
    module = model.get_submodule(place.name)
    own, every = next(module.parameters(), None), next(model.parameters(), None)
    near = own if own is not None else every if every is not None else torch.empty(0)
    dtype = near.dtype if near.is_floating_point() else torch.get_default_dtype()
    try:
        if "groups" in options:
            resolve_groups(place.channels, options["groups"])
        layer = make(place.channels, device=near.device, dtype=dtype, **options)
    except (InputError, TypeError) as error:
        raise type(error)(f"behind {name_of(place.name)}: {error}") from None
    if not isinstance(layer, nn.Module):
        raise InputError(f"{name} made no module for {name_of(place.name)} but {layer!r}")
    return layer.train(module.training)


def _neutral(layer: Any, name: str) -> float:
    if not hasattr(layer, "neutralize"):
        raise InputError(
            f"{name} has no `neutralize`, which makes a layer multiply its input by a constant and "
            "returns that; write it, or pass preserve=False"
        )
    factor = float(layer.neutralize())
    dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), torch.float32)
    most = min(1e6, torch.finfo(dtype).max / 100)
    if not math.isfinite(factor) or not 1 / most <= abs(factor) <= most:
        raise InputError(
            f"{name} becomes the factor {factor}, which can't be made up for; pass preserve=False"
        )
    return factor


def _slot(modules: dict[str, nn.Module], place: str) -> Any:
    """The block of timm whose `se` comes right behind the place, if it is one."""
    parent, _, last = norm_of(place, modules).rpartition(".")
    for block, ends in ((parent, {"bn2", "bn3"}), (parent.rpartition(".")[0], {"bn"})):
        found = modules.get(block)
        if isinstance(found, BLOCKS) and last in ends and _ends(found, modules, place):
            return found
    return None


def _ends(block: nn.Module, modules: dict[str, nn.Module], place: str) -> bool:
    final: Any = getattr(block, "bn3", None) or getattr(block, "bn2", None)
    if final is None:  # SKNet: the last convolution holds its norm
        conv: Any = getattr(block, "conv3", None) or getattr(block, "conv2", None)
        final = conv.bn
    return final is modules[place]


def _put(
    model: nn.Module, place: Place, layer: nn.Module, factor: float, users: dict[str, set[str]]
) -> str:
    modules: dict[str, Any] = dict(model.named_modules())
    held = factor != 1 and rescale(model, place.name, 1 / factor, users)
    slot = _slot(modules, place.name)
    if slot is not None and slot.se is None and (held or factor == 1):
        block = next(name for name, module in modules.items() if module is slot)
        slot.se = layer
        setattr(layer, SLOT, (place.name.removeprefix(f"{block}."), factor))
        return f"{block}.se" if block else "se"
    return attach(
        place.name,
        modules[place.name],
        layer,
        moves=place.channel_dim == -1 and getattr(layer, "channel_dim", 1) != -1,
        scale=1.0 if held else 1 / factor,
        factor=factor if held else 1.0,
    )
