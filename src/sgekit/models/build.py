"""Any ResNet of timm with any attention of ours."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from torch import nn

from sgekit.errors import InputError
from sgekit.models.slots import Slot, fill, slots
from sgekit.models.zoo import PREFIX, default_groups
from sgekit.modules import ATTENTION, resolve_groups

FAMILIES = "ResNet, ResNet-D, ResNeXt, Wide ResNet, SKNet and Res2Net"


def build(
    name: str,
    attention: str = "none",
    *,
    groups: int | Literal["auto"] | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """The network `name` of timm with `attention` after the last BatchNorm of every block.

    The plain network is built (and, with `pretrained`, loaded) first and the attention put
    into it after, so that one random seed gives the same weights to what the networks
    share. `name` may be a plain name or its `sge_` counterpart, which means the same here.
    `groups` is for "sge" alone: None is 64 (8 for resnet10_small), "auto" the nearest
    divisor of each layer's channels. `kwargs` go to timm's constructor.

    Raises InputError for an unknown name or attention (with the near ones), a family that
    has no place for attention or has its own, groups that don't divide some layer's
    channels, and pretrained weights that don't exist or can't be fetched.
    """
    base = _known(name)
    cls = _attention(attention)
    if attention == "none":
        _check(base, list(slots(_skeleton(base))), needed=False)
    else:
        sites = list(slots(_skeleton(base)))
        _check(base, sites, needed=True)
        if attention == "sge":
            groups = default_groups(base) if groups is None else groups
            for site in sites:
                try:
                    resolve_groups(site.channels, groups)
                except InputError as error:
                    raise InputError(f"{base}, layer {site.name}: {error}") from None
            cls = partial(cls, groups=groups)
    create = partial(timm.create_model, base, num_classes=num_classes, in_chans=in_chans, **kwargs)
    model: nn.Module = _pretrained(base, create) if pretrained else create()
    if attention != "none":
        for site in list(slots(model)):
            fill(site, cls)
    return model


def attention_sites(name: str) -> list[tuple[str, int]]:
    """(layer name, channels) of every place where `build` puts attention; [] where it can't."""
    return [(site.name, site.channels) for site in slots(_skeleton(_known(name)))]


def _known(name: str) -> str:
    base = name.removeprefix(PREFIX)
    architecture, _, tag = base.partition(".")
    if timm.is_model(architecture) and tag and tag not in _tags(architecture):
        raise InputError(
            f"{architecture!r} has no weights named {tag!r}; there are: "
            f"{', '.join(_tags(architecture)) or 'none'}"
        )
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(base, timm.list_models(), n=5)
        hint = f"near names: {', '.join(near)}" if near else "`sgekit models` lists the names"
        raise InputError(f"no model is named {name!r}; {hint}")
    return base


def _tags(architecture: str) -> list[str]:
    names = get_arch_pretrained_cfgs(architecture)
    return [tag for name in names if (tag := name.partition(".")[2])]


def _attention(name: str) -> Any:
    if name not in ATTENTION:
        near = difflib.get_close_matches(name, ATTENTION, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"no attention is named {name!r}; {hint}allowed: {', '.join(ATTENTION)}")
    return ATTENTION[name]


def _pretrained(base: str, create: Callable[..., nn.Module]) -> nn.Module:
    config = timm.get_pretrained_cfg(base)
    if config is None or not config.has_weights:
        raise InputError(f"no pretrained weights are published for {base!r}; build it without")
    try:
        return create(pretrained=True)
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"the weights of {base!r} can't be fetched: {reason}") from error


def _skeleton(base: str) -> nn.Module:
    """The network without memory behind its weights."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(base)
    return model


def _check(base: str, sites: list[Slot], *, needed: bool) -> None:
    if needed and not sites:
        raise InputError(
            f"{base!r} has no place for attention; these families of timm have: {FAMILIES}"
        )
    own = next((site for site in sites if site.block.se is not None), None)
    if own is not None:
        raise InputError(
            f"{base!r} has attention of its own ({type(own.block.se).__name__} in {own.name}); "
            "choose the plain network of the family"
        )
