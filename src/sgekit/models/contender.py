"""What takes part in a comparison: an attention and options of its constructor.

Written as `sge`, `sge(groups=8)` or `sge(weight_init=0,bias_init=1)`. Wherever a command or
a checkpoint names an attention, this is what the name may be. `preserve` says whether it starts as
one factor that is scaled out, so that the network starts as the plain one: of itself it does so in
a trained network and starts as its paper says in a fresh one.
"""

import difflib
import inspect
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from sgekit.errors import InputError
from sgekit.modules import ATTENTION

# What the network decides, for each of its layers.
_GIVEN = {"self", "channels", "channel_dim", "device", "dtype"}
PRESERVE = "preserve"
_GIVEN_TO_CONVOLUTIONS = {"out_channels", "stride", "dilation"}
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_WORDS = {NoneType: "none", bool: "true or false", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Contender:
    """A name of ATTENTION, and keywords: for its constructor, and `preserve`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """As `parse` reads it; the same for the same options in any order."""
        if not self.options:
            return self.name
        order = list(options_of(self.name))
        given = sorted(self.options, key=order.index)
        inner = ",".join(f"{option}={written(self.options[option])}" for option in given)
        return f"{self.name}({inner})"

    @property
    def arguments(self) -> dict[str, Any]:
        """The keywords for the constructor."""
        return {name: value for name, value in self.options.items() if name != PRESERVE}

    @property
    def takes_groups(self) -> bool:
        """Whether a number of groups given beside it is for it: SGE whose options say none."""
        return self.name == "sge" and not {"groups", "group_channels"} & self.options.keys()

    @property
    def preserves(self) -> bool:
        """Whether it can start as a constant factor, which is scaled out again, and may."""
        if not self.options.get(PRESERVE, True):
            return False
        with torch.device("meta"):
            layer: Any = ATTENTION[self.name](64, **self.arguments)
        try:
            with torch.device("cpu"):  # also where a network without memory is being built
                layer.neutralize()
        except InputError:
            return False
        return True

    def starts_neutral(self, *, trained: bool) -> bool:
        """Whether it is to start as a factor that is scaled out.

        In a trained network where it can, in a fresh one where its options say so. Raises
        InputError where they do and it can't.
        """
        asked = bool(self.options.get(PRESERVE, False))
        if asked and not self.preserves:
            raise InputError(
                f"{self.name} can't start as one factor for all, so preserve=true is not for it"
            )
        return asked or (trained and self.preserves)


def parse(text: str) -> Contender:
    """The contender that `text` names.

    Raises InputError for an unknown attention or option (with the near ones), a value that
    is not of the option's type, and text that has another form.
    """
    name, opened, rest = (part.strip() for part in text.partition("("))
    _check_name(name)
    if opened and (not rest.endswith(")") or re.search(r"[()]", rest[:-1])):
        raise InputError(
            f"{text!r} is not written as NAME(OPTION=VALUE,...); for instance: sge(groups=8)"
        )
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest[:-1].split(","))):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InputError(f"{text!r} gives {option!r} no value; for instance: sge(groups=8)")
        if option in options:
            raise InputError(f"{text!r} gives {option!r} twice; give it once")
        options[option] = parse_value(name, option, value)
    return Contender(name, options)


def parse_value(name: str, option: str, text: str) -> Any:
    """`text` as a value of an attention's option, by the type that its constructor states.

    Raises InputError where there is no such option, and where the text is no such value.
    """
    known = options_of(name)
    if option not in known:
        near = difflib.get_close_matches(option, known, n=2)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        allowed = f"allowed: {', '.join(known)}" if known else "it takes none"
        raise InputError(f"{name} has no option {option!r}; {hint}{allowed}")
    kinds = known[option]
    for kind in kinds:
        if (found := _read(text, kind)) is not _UNREAD:
            return found
    words = " or ".join(_WORDS.get(kind, str(kind)) for kind in kinds)
    raise InputError(f"{name}'s option {option} takes {words}, not {text!r}")


def options_of(name: str) -> dict[str, tuple[Any, ...]]:
    """The options of an attention with the types of each, in its constructor's order.

    A type is one of None's, bool, int, float and str, or a string that stands for itself.
    """
    cls = ATTENTION[name]
    in_place_of_one = getattr(cls, "placement", "norm") == "conv"
    given = _GIVEN | (_GIVEN_TO_CONVOLUTIONS if in_place_of_one else set())
    constructor = cls.__init__
    hints = get_type_hints(constructor)
    named = {
        parameter.name: _kinds(hints.get(parameter.name, str))
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.name not in given and parameter.kind is not parameter.VAR_KEYWORD
    }
    known = {option: kinds for option, kinds in named.items() if kinds}
    trains_anew = name == "none" or in_place_of_one
    return known if trains_anew else known | {PRESERVE: (bool,)}


def written(value: Any) -> str:
    """An option's value as `parse` reads it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def split(text: str) -> tuple[str, ...]:
    """What stands between commas; those inside parentheses divide nothing."""
    parts = re.split(r",(?![^()]*\))", text)
    return tuple(part.strip() for part in parts if part.strip())


def first_of(name: str, texts: Iterable[str]) -> str | None:
    """The contender with attention `name`, the one without options before others, or None."""
    found = dict.fromkeys(text for text in texts if parse(text).name == name)
    return name if name in found else next(iter(found), None)


def _check_name(name: str) -> None:
    if name not in ATTENTION:
        near = difflib.get_close_matches(name, ATTENTION, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"no attention is named {name!r}; {hint}allowed: {', '.join(ATTENTION)}")


_UNREAD = object()


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, the narrowest first; () where text has none of them."""
    if get_origin(hint) is Literal:
        return tuple(value for value in get_args(hint) if isinstance(value, str))
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if len(members) > 1:
        found = {kind for member in members for kind in _kinds(member)}
    else:
        found = {hint} & {NoneType, bool, int, float, str}
    order = [NoneType, bool, int, float, str]
    texts = sorted(kind for kind in found if isinstance(kind, str))
    return (*texts, *(kind for kind in order if kind in found))


def _read(text: str, kind: Any) -> Any:
    if isinstance(kind, str):
        return text if text == kind else _UNREAD
    if kind is NoneType:
        return None if text.lower() == "none" else _UNREAD
    if kind is bool:
        return _SWITCH.get(text.lower(), _UNREAD)
    try:
        value = kind(text)
    except ValueError:
        return _UNREAD
    return value if kind is not float or math.isfinite(value) else _UNREAD
