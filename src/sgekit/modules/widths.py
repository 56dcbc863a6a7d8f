"""What the layers have in common: the width of a hidden layer, and a start that says nothing."""

from torch import nn

from sgekit.errors import InputError


def check_reduction(reduction: int) -> None:
    """Raises InputError where `reduction` isn't at least 1."""
    if not reduction >= 1:
        raise InputError(f"reduction must be at least 1, not {reduction}; usual are 8 to 32")


def hidden_channels(channels: int, reduction: int, least: int = 1) -> int:
    """`channels` / `reduction`, rounded half up, and at least `least`.

    Raises InputError where `channels` or `reduction` is below 1.
    """
    if channels < 1:
        raise InputError(f"channels must be at least 1, not {channels}")
    check_reduction(reduction)
    return max(int(channels / reduction + 0.5), least)


def zero(*layers: nn.Module) -> None:
    """Set weight and bias of each layer to 0; running statistics stay as they are."""
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            nn.init.zeros_(parameter)
