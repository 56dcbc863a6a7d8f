"""Any convolutional network of timm with any attention of ours."""

import difflib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from torch import nn

from sgekit.errors import InputError
from sgekit.models.contender import Contender, parse
from sgekit.models.insertion import insert
from sgekit.models.slots import slots
from sgekit.models.zoo import PREFIX, default_groups

Groups = int | Literal["auto"] | None


def build(
    name: str,
    attention: str = "none",
    *,
    groups: Groups = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    preserve: bool | None = None,
    **kwargs: Any,
) -> nn.Module:
    """The network `name` of timm with `attention` at the end of every residual block.

    The plain network is built (and, with `pretrained`, loaded) first and the attention put
    into it by `insert`, so that one random seed gives the same weights to what the networks
    share. `name` may be a plain name or its `sge_` counterpart, which means the same here.
    `attention` is a name of ATTENTION, with options or without: "se", "sge(groups=8)".
    `groups` is for "sge" alone, where its text says nothing of them: a number, or "auto" for
    each layer's divisor nearest to 64 that leaves four channels a group; None is the paper's 64
    in timm's ResNets, or a quarter of the first stage's channels where that is fewer (16 for
    ResNet-18 and -34, 8 for resnet10_small), and "auto" in other families. `preserve` starts the
    layers as one factor and scales it out, so that the network computes what it did; None does
    so with `pretrained`, save for attention that can't, and without where the text of
    `attention` says "preserve=true". `kwargs` go to timm's constructor;
    `zero_init_last` asks nothing of a family that starts no norm at zero.

    Raises InputError for an unknown name or attention (with the near ones), a network that
    has no place for attention or is a ResNet with its own, groups that don't divide some
    layer's channels, `drop_path_rate` for a network without dropped paths, and pretrained
    weights that don't exist or can't be fetched.
    """
    base = _known(name)
    contender = parse(attention)
    skeleton = _skeleton(base)
    _refuse_own_attention(base, skeleton)
    if preserve is None:
        # Where weights take no memory there is nothing to scale.
        has_weights = torch.get_default_device().type != "meta"
        preserve = contender.starts_neutral(trained=pretrained) and has_weights
    put = partial(_put, contender, groups=_groups(base, skeleton, groups))
    try:
        put(skeleton, preserve=False)
    except InputError as error:
        raise InputError(f"{base}: {error}") from None
    options = _for_family(base, skeleton, kwargs)
    create = partial(timm.create_model, base, num_classes=num_classes, in_chans=in_chans, **options)
    model: nn.Module = _pretrained(base, create) if pretrained else create()
    put(model, preserve=preserve)
    return model


def attention_sites(name: str) -> list[tuple[str, int]]:
    """(layer name, channels) of every place where `build` puts SGE.

    Raises InputError for an unknown name and for a network without a place.
    """
    skeleton = _skeleton(_known(name))
    names = insert(skeleton, "sge", groups="auto", preserve=False)
    return [(layer, skeleton.get_submodule(layer).channels) for layer in names]  # type: ignore[misc]


def _put(contender: Contender, model: nn.Module, *, groups: Groups, preserve: bool) -> None:
    if contender.name != "none":
        given = groups if contender.takes_groups else None
        insert(model, contender.text, groups=given, preserve=preserve)


def _groups(base: str, skeleton: nn.Module, groups: Groups) -> Groups:
    if groups is None:
        first = next(slots(skeleton), None)
        return "auto" if first is None else default_groups(base, first.channels)
    return groups


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


def _for_family(base: str, skeleton: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """The options as the family's constructor takes them, where a recipe can ask for them."""
    known = inspect.signature(type(skeleton).__init__).parameters.values()
    names = {parameter.name for parameter in known}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
        return options
    if options.get("drop_path_rate") and "drop_path_rate" not in names:
        raise InputError(f"{base} has no paths to drop; set drop_path=0")
    return {k: v for k, v in options.items() if k in names or k != "zero_init_last"}


def _tags(architecture: str) -> list[str]:
    names = get_arch_pretrained_cfgs(architecture)
    return [tag for name in names if (tag := name.partition(".")[2])]


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


def _refuse_own_attention(base: str, skeleton: nn.Module) -> None:
    own = next((site for site in slots(skeleton) if site.block.se is not None), None)
    if own is not None:
        raise InputError(
            f"{base!r} has attention of its own ({type(own.block.se).__name__} in {own.name}); "
            "choose the plain network of the family"
        )
