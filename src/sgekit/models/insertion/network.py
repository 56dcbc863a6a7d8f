"""Which networks can't be changed, and why."""

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sgekit.errors import InputError
from sgekit.models.insertion.choose import name_of

_WRAPPERS = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


def check_network(model: nn.Module, doing: str = "insert") -> None:
    """Raise InputError for what is no module, and for a network that can't be changed any more.

    That is one that is, or in part is, scripted, compiled, wrapped for several devices, lazy
    or quantised. The message says what to do; `doing` is the verb for what is wanted.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        if why := _hindrance(module, doing):
            raise InputError(f"{name_of(name)} {why}")


def _hindrance(module: Any, doing: str) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return f"is scripted or frozen and can't be changed; {doing} before scripting"
    if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
        return f"is compiled; {doing} before torch.compile"
    if wrappers := _WRAPPERS & {cls.__name__ for cls in type(module).__mro__}:
        return f"is wrapped in {min(wrappers)}; {doing} before wrapping"
    if any(map(is_lazy, (*module.parameters(False), *module.buffers(False)))):
        return "is lazy and has no weights yet; run a batch first"
    # FloatFunctional marks additions to be quantised later and computes in floating point.
    if ".quantized" in type(module).__module__ and type(module).__name__ != "FloatFunctional":
        return (
            f"is quantised ({type(module).__name__}); {doing} while the weights are "
            "floating-point and quantise after"
        )
    return None
