"""How many groups a number of channels allows."""

from typing import Literal

from sgekit.errors import InputError

DEFAULT_GROUPS = 64
"""What the paper uses in every block of every ResNet."""


def divisors(channels: int) -> list[int]:
    """Every number of groups that divides `channels`, in rising order."""
    small = [k for k in range(1, int(channels**0.5) + 1) if channels % k == 0]
    return sorted({*small, *(channels // k for k in small)})


LEAST_CHANNELS = 4
"""Of a group of SGE, where its number is left to us. With one channel a group the normalised
likeness is the channel itself, up to its mean's sign, and short trainings on scenes lost by it;
with two they did not (docs/evidence.md), so that four is a margin."""


def resolve_groups(
    channels: int,
    groups: int | Literal["auto"],
    near: int = DEFAULT_GROUPS,
    least: int = 1,
) -> int:
    """The number of groups for `channels`.

    "auto" is the divisor of `channels` nearest to `near` that leaves at least `least` channels
    a group, the smaller of two equally near; one group where there are fewer channels than that.
    Raises InputError where `groups` doesn't divide `channels`, naming those that do.
    """
    if channels < 1:
        raise InputError(f"channels must be at least 1, not {channels}")
    if groups == "auto":
        wide = [k for k in divisors(channels) if channels // k >= least]
        return min(wide or [1], key=lambda k: (abs(k - near), k))
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f'groups must be a whole number or "auto", not {groups!r}')
    if groups < 1 or channels % groups != 0:
        allowed = sorted(divisors(channels), key=lambda k: abs(k - groups))[:8]
        raise InputError(
            f"{groups} groups do not divide {channels} channels; these do: "
            f'{", ".join(map(str, sorted(allowed)))}; or pass groups="auto" for the one nearest '
            f"to {near}"
        )
    return groups
