"""A module that carries attention behind its output, under the names it had before.

The module's class is exchanged for a subclass of it whose forward ends in the attention. So
the names of the weights stay, `isinstance` and attributes stay, copies and pickles work, and
whatever calls the module calls the attention too.
"""

import inspect
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from sgekit.errors import InputError

LAYER = "attention"
"""The name of the layer in the module that carries it."""
SCALE = "attention_scale"
SLOT = "_inserted_behind"
"""Set on layers in a slot of timm's: (the module before, named from the block; what its weights
were divided by)."""


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
        return _empty, (own_class(self),), self.__getstate__()  # type: ignore[no-untyped-call]


class ListHost(Host):
    """A Sequential or ModuleList that does not count the attention among its items."""

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(_items(self).values())

    def __len__(self) -> int:
        return len(_items(self))

    def __getitem__(self, index: Any) -> Any:
        found = list(_items(self).items())[index]
        if not isinstance(index, slice):
            return found[1]
        plain: Any = own_class(self)
        keyed = OrderedDict(found)
        return plain(keyed if issubclass(plain, nn.Sequential) else keyed.values())


class DictHost(Host):
    """A ModuleDict that does not count the attention among its items."""

    def __iter__(self) -> Iterator[str]:
        return iter(_items(self))

    def __len__(self) -> int:
        return len(_items(self))

    def keys(self) -> Iterable[str]:
        return _items(self).keys()

    def values(self) -> Iterable[nn.Module]:
        return _items(self).values()

    def items(self) -> Iterable[tuple[str, nn.Module]]:
        return _items(self).items()


def _items(module: nn.Module) -> dict[str, nn.Module]:
    own = cast(dict[str, nn.Module], module._modules)
    return {name: child for name, child in own.items() if name != LAYER}


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _hosting(cls: type[nn.Module]) -> type[nn.Module]:
    if cls not in _CLASSES:
        host = Host
        if issubclass(cls, nn.Sequential | nn.ModuleList):
            host = ListHost
        elif issubclass(cls, nn.ModuleDict):
            host = DictHost
        # The module's own module name: torch.fx takes what stands in torch.nn as one operation.
        names = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        _CLASSES[cls] = type(f"{cls.__name__}WithAttention", (host, cls), names)
    return _CLASSES[cls]


def _plain(cls: type[nn.Module]) -> type[nn.Module]:
    return cast(type[nn.Module], cls.__bases__[1])


def _empty(cls: type[nn.Module]) -> nn.Module:
    hosting = _hosting(cls)
    return hosting.__new__(hosting)


def is_host(module: nn.Module, *, itself: bool = False) -> bool:
    """Whether the module carries attention already; `itself`: and nothing was put around that."""
    return isinstance(module, Host) and (not itself or type(module) in _CLASSES.values())


def check(name: str, module: nn.Module) -> None:
    """Raise InputError for a module that carries attention, or that can't.

    It can't where it has its own thing by that name, a forward that goes through all its
    children, or one set on the module itself, which would run in place of its class's.
    """
    if is_host(module):
        raise InputError(f"{name!r} carries attention already; `remove` takes it out")
    if any(hasattr(module, attribute) for attribute in (LAYER, SCALE)):
        raise InputError(
            f"{name!r} ({type(module).__name__}) has an attribute named {LAYER!r} of its own; name "
            "a module inside or around it"
        )
    if _counts_children(type(module)):
        raise InputError(
            f"{name!r} ({type(module).__name__}) goes through its children in forward, and the "
            "attention would be one of them; name a module inside or around it"
        )
    if "forward" in vars(module):
        raise InputError(
            f"{name!r} ({type(module).__name__}) has a forward set on the module itself, not on "
            "its class; name a module inside or around it"
        )


def _counts_children(cls: type[nn.Module]) -> bool:
    """Whether a class's own forward goes through its children, whatever they are called."""
    if issubclass(cls, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    try:
        source = inspect.getsource(cls.forward)
    except (OSError, TypeError):  # made at run time, or in C
        return False
    return (
        re.search(r"\b(named_children|children|named_modules|modules|_modules)\b", source)
        is not None
    )


def own_class(module: nn.Module) -> type[nn.Module]:
    """The module's class without what it carries; as it is where something was put around that."""
    return _plain(type(module)) if is_host(module, itself=True) else type(module)


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Make `new` carry what `old` does; the layer may be its child already."""
    host = cast(Host, old)
    new.__class__ = _hosting(type(new))
    new.add_module(LAYER, host.attention)
    new.register_buffer(SCALE, host.attention_scale)
    for name in ("attention_moves", "attention_factor"):
        setattr(new, name, getattr(host, name))


def become(module: nn.Module, cls: type[nn.Module]) -> None:
    """Exchange the module's own class; it carries what it did."""
    module.__class__ = _hosting(cls) if is_host(module) else cls


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
    module.register_buffer(SCALE, value)
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
