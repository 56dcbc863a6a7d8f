"""Whether timm has an optimiser or an augmentation policy of a name that a recipe gives."""

import difflib
import functools
import re

from sgekit.errors import InputError


@functools.cache
def check_optimizer(name: str, momentum: float) -> None:
    """Raise InputError unless timm has an optimiser of that name that can be made here."""
    import torch
    from timm.optim._optim_factory import create_optimizer_v2, get_optimizer_info, list_optimizers

    known = [str(found) for found in list_optimizers()]
    plain = name.lower().removeprefix("lookahead_")
    if plain not in known:
        near = difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
        hint = f"near: {', '.join(near)}" if near else "for instance: sgd, momentum, adamw, lamb"
        raise InputError(f"timm has no optimizer {name!r}; {hint}")
    if get_optimizer_info(plain).second_order:
        raise InputError(
            f"optimizer {name!r} needs second derivatives, which training does not compute; "
            "for instance: sgd, momentum, adamw, lamb"
        )
    try:
        weights = [torch.nn.Parameter(torch.zeros(2, 2))]
        create_optimizer_v2(weights, opt=name, lr=0.1, momentum=momentum)
    except Exception as error:
        raise InputError(
            f"optimizer {name!r} cannot be made here with momentum {momentum:g}: {error}"
        ) from error


@functools.cache
def check_augmentation(policy: str) -> None:
    """Raise InputError unless timm understands the policy, all of it."""
    from timm.data.transforms_factory import create_transform

    first, *sections = policy.split("-")
    # timm passes over a section without a number.
    ignored = [
        text
        for text in sections
        if not re.search(r"\d", text) and (first, text) != ("rand", "tweights")
    ]
    try:
        if not policy or ignored:
            raise ValueError(", ".join(ignored))
        create_transform(32, is_training=True, auto_augment=policy)
    except Exception as error:
        raise InputError(
            f"auto_augment {policy!r} is no policy of timm{f' ({error})' if str(error) else ''}; "
            "for instance: rand-m7-mstd0.5-inc1, original, v0, augmix-m3, or none"
        ) from error
