"""Places that the user names."""

import difflib
import fnmatch
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from sgekit.errors import InputError
from sgekit.models.insertion.places import Place, by_modules
from sgekit.models.insertion.trace import Graph, trace

Where = Literal["auto"] | str | Sequence[str] | Callable[[str, nn.Module], bool]
"""Which modules attention stands behind: see `insert`."""


def name_of(name: str) -> str:
    """A module's name for a message; the network itself has an empty one."""
    return repr(name) if name else "the network itself"


def chosen(model: nn.Module, where: Where, example: Any) -> tuple[list[Place], Graph]:
    """The places that `where` chooses, in the network's order, and the run that showed them.

    Raises InputError for a name or pattern that fits no module, the same place twice, and
    a module that is not called or does not return one map.
    """
    names = matching(model, where)
    graph = trace(model, example)

    def missing(name: str) -> InputError:
        if name not in graph.calls:
            return InputError(f"{name_of(name)} is not called when the network runs")
        return InputError(
            f"{name_of(name)} does not return a map, a tensor (B, C, *spatial) of its own making; "
            "name a module that computes one"
        )

    return by_modules(model, graph, names, missing), graph


def matching(model: nn.Module, where: Where) -> list[str]:
    """The names of the modules that `where` chooses, in the network's order, each module once."""
    every = dict(model.named_modules(remove_duplicate=False))
    if callable(where):
        found = [name for name, module in every.items() if where(name, module)]
        if not found:
            raise InputError("where() is true for no module; print(model) shows what there is")
    else:
        asked = [where] if isinstance(where, str) else where
        if not isinstance(asked, Sequence) or not all(isinstance(text, str) for text in asked):
            raise InputError(
                'where is "auto", a name or pattern, a list of them or a function '
                f"(name, module) -> bool, not {where!r}"
            )
        found = _named(list(every), asked)
    first: dict[int, str] = {}
    for name in (name for name in every if name in set(found)):
        if other := first.get(id(every[name])):
            warnings.warn(
                f"{name!r} and {other!r} are one module; one layer is inserted behind it",
                stacklevel=5,
            )
        else:
            first[id(every[name])] = name
    return list(first.values())


def _named(every: list[str], asked: Sequence[str]) -> list[str]:
    found: list[str] = []
    for text in asked:
        if text in every:
            fitting = [text]
        else:
            fitting = [name for name in every if name and fnmatch.fnmatchcase(name, text)]
        if not fitting:
            near = difflib.get_close_matches(text, every, n=4, cutoff=0.5)
            hint = f"near: {', '.join(near)}" if near else "print(model) shows what there is"
            raise InputError(f"no module fits {text!r}; {hint}")
        if twice := set(fitting) & set(found):
            raise InputError(f"{sorted(twice)[0]!r} is chosen twice; name each place once")
        found += fitting
    if not found:
        raise InputError("where names no module; leave it out to have places looked for")
    return found
