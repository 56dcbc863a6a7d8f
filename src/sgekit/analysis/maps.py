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
    return torch.stack([image.float().square().sum(1) for image in grouped]).sqrt_()


def similarity(x: Tensor, layer: SpatialGroupEnhance) -> Tensor:
    """The layer's gate on x (B, C, *spatial), (B, G, *spatial) float32.

    As `SpatialGroupEnhance.gate`, but that the products are not centred first, which saves three
    passes over x. Where a group's similarity deviates by less than a thousandth of its mean, so
    that centring matters, and without normalisation, the layer's own is taken.
    """
    if not layer.normalize or x.dtype == torch.float64:
        return _own(x, layer)
    flat = x.reshape(x.shape[0], layer.groups, -1, *x.shape[2:]).flatten(3).float()
    batch, groups, _, count = flat.shape
    mean = flat.mean(3, keepdim=True)
    products = torch.matmul(mean.transpose(2, 3), flat).squeeze(2)
    centre = products.mean(2, keepdim=True)
    products = products - centre
    deviation = products.square().sum(2, keepdim=True).div(count - layer.unbiased).sqrt()
    # A dead group, all zeros, has both 0.
    if bool(((deviation < _SAFE * centre.abs()) | ~deviation.isfinite()).any()):
        return _own(x, layer)
    scale = layer.weight.detach().float().view(1, groups, 1) / (deviation + layer.eps)
    gate = torch.sigmoid(products * scale + layer.bias.detach().float().view(1, groups, 1))
    return gate.view(batch, groups, *x.shape[2:])


def _own(x: Tensor, layer: SpatialGroupEnhance) -> Tensor:
    return layer.gate(x if layer.channel_dim == 1 else x.movedim(1, layer.channel_dim)).float()
