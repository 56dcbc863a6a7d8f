"""Which networks can't be changed, and why."""

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sgekit.errors import InputError
from sgekit.models.insertion.choose import name_of

_WRAPPERS = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


def check_network(model: nn.Module) -> None:
    """Raise InputError for what is no module, and for a network that can't be changed any more.

    That is one that is, or in part is, scripted, compiled, wrapped for several devices, lazy
    or quantised. The message says what to do.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        if why := _hindrance(module):
            raise InputError(f"{name_of(name)} {why}")


def _hindrance(module: Any) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "is scripted or frozen and can't be changed; insert before scripting"
    if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
        return "is compiled; insert before torch.compile"
    if wrappers := _WRAPPERS & {cls.__name__ for cls in type(module).__mro__}:
        return f"is wrapped in {min(wrappers)}; insert before wrapping"
    if any(map(is_lazy, (*module.parameters(False), *module.buffers(False)))):
        return "is lazy and has no weights yet; run a batch first"
    # FloatFunctional marks additions to be quantised later and computes in floating point.
    if ".quantized" in type(module).__module__ and type(module).__name__ != "FloatFunctional":
        return (
            f"is quantised ({type(module).__name__}); insert into the network with "
            "floating-point weights and quantise after"
        )
    return None
