"""A module that carries attention behind its output, under the names it had before.

The module's class is exchanged for a subclass of it whose forward ends in the attention. So
the names of the weights stay, `isinstance` and attributes stay, copies and pickles work, and
whatever calls the module calls the attention too.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from sgekit.errors import InputError

LAYER = "attention"
"""The name of the layer in the module that carries it."""
_SCALE = "attention_scale"


class Host(nn.Module):
    """What a carrying module has besides its own class."""

    attention: nn.Module
    attention_scale: Tensor | None
    """What the output is multiplied by, where no weight before can hold the factor."""
    attention_moves: bool
    """Whether the channels stand last and the layer wants them first."""
    attention_factor: float
    """What the weights before were divided by."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = super().forward(*args, **kwargs)
        if self.attention_moves:
            out = self.attention(out.movedim(-1, 1)).movedim(1, -1)
        else:
            out = self.attention(out)
        return out if self.attention_scale is None else out * self.attention_scale

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (_plain(type(self)),), self.__dict__


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _hosting(cls: type[nn.Module]) -> type[nn.Module]:
    if cls not in _CLASSES:
        # The module's own module name: torch.fx takes what stands in torch.nn as one operation.
        names = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        _CLASSES[cls] = type(f"{cls.__name__}WithAttention", (Host, cls), names)
    return _CLASSES[cls]


def _plain(cls: type[nn.Module]) -> type[nn.Module]:
    return cast(type[nn.Module], cls.__bases__[1])


def _empty(cls: type[nn.Module]) -> nn.Module:
    hosting = _hosting(cls)
    return hosting.__new__(hosting)


def is_host(module: nn.Module) -> bool:
    """Whether the module carries attention already."""
    return isinstance(module, Host)


def check(name: str, module: nn.Module) -> None:
    """Raise InputError for a module that carries attention, or has its own thing by that name."""
    if is_host(module):
        raise InputError(f"{name!r} carries attention already; `remove` takes it out")
    if any(hasattr(module, attribute) for attribute in (LAYER, _SCALE)):
        raise InputError(
            f"{name!r} ({type(module).__name__}) has an attribute named {LAYER!r} of its own; name "
            "a module inside or around it"
        )


def attach(
    name: str, module: nn.Module, layer: nn.Module, *, moves: bool, scale: float, factor: float
) -> str:
    """Make `module`, which `check` lets pass, carry `layer`; returns the layer's full name."""
    plain = type(module)
    module.__class__ = _hosting(plain)
    module.add_module(LAYER, layer)
    tensor = next(iter(module.parameters()), torch.empty(0))
    # Of no dimensions, so that it does not widen half-precision maps.
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    value = None if scale == 1 else torch.tensor(scale, device=tensor.device, dtype=dtype)
    module.register_buffer(_SCALE, value)
    module.attention_moves, module.attention_factor = moves, factor  # type: ignore[assignment]
    return f"{name}.{LAYER}" if name else LAYER


def detach(module: nn.Module) -> float:
    """Give the module its class back; returns what the weights before were divided by."""
    host = cast(Host, module)
    factor = host.attention_factor
    del host.attention
    del host.attention_scale
    del host.attention_moves
    del host.attention_factor
    module.__class__ = _plain(type(module))
    return factor
