"""One attention with several values of an option: the contenders, and how results tell them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgekit.comparison.results import SweepValues
from sgekit.errors import InputError
from sgekit.models.contender import Contender, parse, parse_value


@dataclass(frozen=True)
class Sweep:
    """``values`` has one tuple a contender, with a value for each of ``options``."""

    attention: str
    """The contender that varies; options that it has already stay as they are."""
    options: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    @property
    def contenders(self) -> tuple[str, ...]:
        """What takes part beside the plain network, in the order of the values."""
        base = parse(self.attention)
        return tuple(
            Contender(base.name, base.options | dict(zip(self.options, values, strict=True))).text
            for values in self.values
        )

    def among(self, attention: Sequence[str]) -> SweepValues:
        """Those of the contenders that belong to the sweep, with their values.

        Values that an earlier call with the same option has left in the folder are among them.
        """
        base = parse(self.attention)
        values = {}
        for text in attention:
            contender = parse(text)
            swept = [contender.options.get(option) for option in self.options]
            expected = base.options | dict(zip(self.options, swept, strict=True))
            if contender.name == base.name and contender.options == expected:
                values[text] = swept
        return {"attention": self.attention, "options": list(self.options), "values": values}


def parse_sweep(text: str, attention: Sequence[str]) -> Sweep:
    """``OPTION=V1,V2,...``, or ``A,B=V1:W1,V2:W2,...`` for options that vary together.

    ``attention`` names the one attention that varies; "none" beside it is passed over. Raises
    InputError where it names another number, for an option that the attention hasn't got or
    has fixed, and for values that are not of the option's type or stand there twice.
    """
    names = [name for name in attention if name != "none"]
    if len(names) != 1:
        told = ", ".join(names) or "none"
        raise InputError(f"--sweep varies one attention; --attention names {told}")
    base = parse(names[0])
    head, equals, tail = text.partition("=")
    options = tuple(option.strip() for option in head.split(","))
    values = [value.strip() for value in tail.split(",") if value.strip()]
    if not equals or not all(options) or not values:
        raise InputError(
            f"--sweep takes OPTION=VALUE,VALUE,... or A,B=1:2,3:4 for options that vary "
            f"together, got {text!r}"
        )
    for option in options:
        if option in base.options or options.count(option) > 1:
            raise InputError(f"--sweep {text!r}: {option} is set twice; name it once")
    rows = [tuple(part.strip() for part in value.split(":")) for value in values]
    for value, row in zip(values, rows, strict=True):
        if len(row) != len(options):
            raise InputError(
                f"--sweep {text!r}: {value!r} has {len(row)} values for {len(options)} options; "
                "values of one contender stand between colons"
            )
    parsed = tuple(
        tuple(parse_value(base.name, *pair) for pair in zip(options, row, strict=True))
        for row in rows
    )
    if len(set(parsed)) != len(parsed):
        raise InputError(f"--sweep {text!r} names a value twice; name each once")
    return Sweep(base.text, options, parsed)
