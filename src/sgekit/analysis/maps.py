"""Maps of every group: how long its vectors are, and SGE's gate, in as few passes as can be."""

import torch
from torch import Tensor

from sgekit.modules import SpatialGroupEnhance

# Below this share of the mean similarity its deviation drowns in the products' rounding.
_SAFE = 1e-3


def group_lengths(x: Tensor, groups: int) -> Tensor:
    """(B, G, *spatial) float32: the length of each group's vector, from x (B, C, *spatial)."""
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    # One image at a time, so that the squares stay in the cache; `vector_norm` takes many times
    # as long over a dimension that is not the last.
    return torch.stack([_squares(image.float()) for image in grouped]).sqrt_()


def lengths_and_gate(x: Tensor, layer: SpatialGroupEnhance) -> tuple[Tensor, Tensor]:
    """`group_lengths` and the layer's gate on x (B, C, *spatial), (B, G, *spatial) float32 each.

    The gate is `SpatialGroupEnhance.gate`, but that the products are not centred first, which saves
    three passes over x. Where a group's similarity deviates by less than a thousandth of its mean,
    so that centring matters, and without normalisation, the layer's own is taken.
    """
    if not layer.normalize or x.dtype == torch.float64:
        return group_lengths(x, layer.groups), _own(x, layer)
    flat = x.reshape(x.shape[0], layer.groups, -1, *x.shape[2:]).flatten(3)
    lengths, products = [], []
    for image in flat:  # each is read from memory once
        values = image.float()
        lengths.append(_squares(values))
        products.append(torch.bmm(values.mean(2, keepdim=True).transpose(1, 2), values)[:, 0])
    before = torch.stack(lengths).sqrt_().view(*flat.shape[:2], *x.shape[2:])
    likeness = torch.stack(products)
    centre = likeness.mean(2, keepdim=True)
    likeness -= centre
    freedom = flat.shape[3] - int(layer.unbiased)
    deviation = torch.linalg.vector_norm(likeness, dim=2, keepdim=True) / freedom**0.5
    # A dead group, all zeros, has both 0.
    if bool(((deviation < _SAFE * centre.abs()) | ~deviation.isfinite()).any()):
        return before, _own(x, layer)
    weight, bias = (p.detach().float().view(1, -1, 1) for p in (layer.weight, layer.bias))
    gate = likeness.mul_(weight / (deviation + layer.eps)).add_(bias).sigmoid_()
    return before, gate.view_as(before)


def _squares(image: Tensor) -> Tensor:
    """(G, d, ...) to (G, ...)."""
    return image.square().sum(1)


def _own(x: Tensor, layer: SpatialGroupEnhance) -> Tensor:
    return layer.gate(x if layer.channel_dim == 1 else x.movedim(1, layer.channel_dim)).float()
