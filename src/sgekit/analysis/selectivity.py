"""Which groups choose: how much a gate differs between positions."""

import torch
from torch import Tensor

from sgekit.errors import InputError


def selectivity(gates: Tensor) -> Tensor:
    """Selectivity of each group, (G,), from gates (B, G, *spatial): the coefficient of variation.

    For each image the standard deviation of the gate over positions divided by its mean there,
    averaged over images. Dividing by the mean makes it the relative preference between positions: a
    gate between 0.1 and 0.3 chooses more than one between 0.7 and 0.9, and a common factor is
    undone by the layers that follow. 0 for a constant gate, such as that of a fresh layer.

    Raises `InputError` where there is no image, no group or no position.
    """
    if gates.dim() < 3 or gates.numel() == 0:
        raise InputError(
            f"gates of shape {tuple(gates.shape)} hold nothing to rank; "
            "expected (B, G, *spatial) with at least one of each"
        )
    return selectivity_of_images(gates.double()).mean(dim=0)


def selectivity_of_images(gates: Tensor) -> Tensor:
    """(B, G): as `selectivity`, before the average over images, in the gates' own precision."""
    flat = gates.detach().flatten(2)
    # A gate that underflows to 0 everywhere is constant: 0 / tiny, not 0 / 0.
    mean = flat.mean(dim=2, keepdim=True)
    # `std` takes four times as long.
    deviation = torch.linalg.vector_norm(flat - mean, dim=2) / flat.shape[2] ** 0.5
    selective: Tensor = deviation / mean[..., 0].clamp_min(torch.finfo(flat.dtype).tiny)
    return selective


def most_selective(gates: Tensor, k: int) -> list[int]:
    """The ``k`` most selective groups of gates (B, G, *spatial), the most selective first.

    Equal ones come in the order of their index; fewer than ``k`` groups are all returned.
    Raises `InputError` where k < 1 or as `selectivity` does.
    """
    if k < 1:
        raise InputError(f"k = {k} groups cannot be chosen: ask for at least 1")
    order = torch.sort(selectivity(gates), descending=True, stable=True).indices
    return [int(index) for index in order[:k]]
